"""A replay job: what is packed, for which ranks, and the folder that is written."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import MismatchError
from ...reports.text.wording import bytes_text
from ...version import __version__
from ..progress import Progress
from .samples import Allowed, Skipped, early_rows, held_if_small

if TYPE_CHECKING:
    from ...dump import Dump, Sample
    from ...formats.replay.folder import RankFile, RankTensors
    from ...formats.replay.manifest import Extents
    from ...layouts.packing import Packing, Share
    from ...ops.pack.padding import TensorSpec

__all__ = ["Job", "check_picked", "job_of_manifest", "misfit", "places", "write_folder"]


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """A dump, the layout that it is packed in, how tensors are written, and for which ranks.

    allow_missing lets padding stand for missing rows. skipped are samples that were left out.
    digests are the SHA-256 of files that are there by what a manifest says, extents the rows of
    each sample; None without one.
    """

    dump: "Dump"
    packing: "Packing"
    spec: "TensorSpec"
    only: dict[str, int]
    allow_missing: bool = False
    skipped: tuple[Skipped, ...] = ()
    digests: dict[str, str] | None = None
    extents: "Extents | None" = None


def places(packing: "Packing", only: dict[str, int]) -> "Iterator[RankFile]":
    """Every rank's micro-batches, stage by stage, the ranks that share samples side by side.

    Raises MismatchError for a rank that is not there.
    """
    from ...formats.replay.folder import RankFile

    sizes = check_picked(packing, only)
    spans = {n: range(s) if n not in only else (only[n],) for n, s in sizes.items()}
    for stage in spans["pp"]:
        for mb in range(packing.num_micro_batches):
            for d in spans["dp"]:
                for c in spans["cp"]:
                    yield from (RankFile(mb, d, c, t, stage) for t in spans["tp"])


def check_picked(packing: "Packing", only: Mapping[str, int]) -> dict[str, int]:
    """The sizes of a layout. Raises MismatchError for a rank, or micro-batch, that is not there."""
    pp = 1 if packing.pipeline is None else packing.pipeline.pp
    sizes = {"pp": pp, "dp": packing.dp, "cp": packing.cp, "tp": packing.tp}
    for name, rank in only.items():
        size = packing.num_micro_batches if name == "mb" else sizes[name]
        if rank >= size:
            raise MismatchError(f"no rank {name}={rank}: {name} is {size}")
    return sizes


def _checked(job: Job, share: "Share", part: "Dump") -> "Dump":
    """A micro-batch's samples; one is refused where filler would stand for a real token's route.

    Unless filler is -1, or missing rows were allowed.
    """
    from ...dump import Dump
    from ...ops.pack.coverage import absent_rows

    if job.allow_missing or job.spec.policy(job.packing) == "minus-one":
        return part

    def load(place: int) -> "Sample":
        sample, tokens, index = part[place], share.packing.lens[place], share.samples[place]
        absent = absent_rows(sample.routes, tokens, part.meta.layers_L)
        if absent is not None:
            there = absent.wanted - absent.rows
            raise MismatchError(
                f"{job.dump.meta.path}: sample {index}: {there} of the {absent.wanted} rows of its "
                f"{tokens - 1} tokens are there (the first that is not: position {absent.position},"
                f" layer {absent.layer}), and padding {job.spec.policy(job.packing)} would make "
                "routes up for the rest",
                hint="--padding minus-one, or --allow-missing if the trainer heeds the mask",
            )
        return sample

    return Dump(part.meta, part.keys, load)


def _without_routes(samples: "Dump", extents: list[Any]) -> "Iterator[Sample]":
    """The samples for samples.parquet, noting where their routes begin and end."""
    for sample in samples:
        routes = sample.routes
        extents.append(None if routes is None else [routes.start, routes.stop])
        yield dataclasses.replace(sample, routes=None, gates=None)


def write_folder(
    job: Job, folder: Path, progress: Progress, layout_from: Sequence[dict[str, Any]] = ()
) -> dict[str, Any]:
    """Write rank files, samples and manifest into a folder; return the manifest.

    layout_from are the files that the layout was read from, as the manifest has them.
    """
    from ...formats.native.container import write_native
    from ...formats.replay.folder import SAMPLES, write_manifest

    meta, written = job.dump.meta, _Written()
    _write_ranks(job, folder, written, progress)
    extents: list[Any] = []
    one_layer = job.dump.select(layers=meta.layers_L[:1])
    bare = dataclasses.replace(  # a folder of replay tensors holds none
        meta, margins=False, group_margins=False, gates=False
    )
    write_native(_without_routes(one_layer, extents), bare, folder / SAMPLES, force=False)
    manifest = _manifest(job, written, extents)
    if layout_from:
        manifest["layout_from"] = list(layout_from)
    write_manifest(folder, manifest)
    return manifest


@dataclasses.dataclass(slots=True)
class _Written:
    """The rank files so far; rows and filler are those of a layer of the first stage."""

    files: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    rows: int = 0
    filler: int = 0


def _write_ranks(job: Job, folder: Path, written: _Written, progress: Progress) -> None:
    """Write every rank's file, those that share samples side by side."""
    from ...formats.replay.folder import RankTensors, write_tensors
    from ...ops.pack.pack import Rank, pack

    packing, meta, ranks = job.packing, job.dump.meta, list(places(job.packing, job.only))
    held_for, held, first_stage = None, job.dump, job.only.get("pp", 0)
    with progress.counting("packing", len(ranks), "files", _bytes_rate) as advance:
        for place in ranks:
            share = packing.share(place.mb, place.dp, place.cp)
            layers = [n for chunk in packing.stage_layers(place.pp, meta.layers_L) for n in chunk]
            if held_for != (place.pp, share.samples):
                part = job.dump.select(layers=tuple(sorted(layers)) or meta.layers_L[:1])
                part = _checked(job, share, part.select(samples=share.samples))
                held = held_if_small(part, share.packing)
                held_for = (place.pp, share.samples)
            rank = Rank(share.cp_rank, place.tp, place.pp)
            packed = pack(held, share.packing, rank, spec=job.spec, threads=2)
            if place.pp == first_stage:
                written.rows += packed.mask.shape[-1]
                written.filler += packed.filler_rows
            tensors = RankTensors(
                dict(zip(packed.layers_L, packed.ids_LRK, strict=True)),
                packed.mask,
                share.packing.cu_seqlens.astype("int32"),
                share.packing.cu_seqlens_padded.astype("int32"),
            )
            written.files.append(write_tensors(folder, place, tensors))
            advance(written.files[-1]["bytes"])


def _bytes_rate(speed: float) -> str:
    return f"{bytes_text(int(speed))}/s"


def _manifest(job: Job, written: _Written, extents: list[Any]) -> dict[str, Any]:
    """What manifest.json says, but for its schema."""
    from ...formats.replay.layout import layout_document, stages_document

    packing, meta = job.packing, job.dump.meta
    return {
        "routectl": __version__,
        "source": {
            "path": meta.path,
            "format": meta.format,
            "file_bytes": meta.file_bytes,
            "engine": meta.engine,
            "engine_version": meta.engine_version,
        },
        "layout": layout_document(packing),
        "tensors": {
            "dtype": job.spec.dtype_for(packing, meta.num_experts).name,
            "padding": job.spec.policy(packing),
            "ep": job.spec.ep,
            "num_experts": meta.num_experts,
            "top_k": meta.top_k,
            "layers": list(meta.layers_L),
        },
        "stages": stages_document(packing, meta.layers_L),
        "only": job.only,
        "allow_missing": job.allow_missing,
        "skipped": [dataclasses.asdict(one) for one in job.skipped],
        "rows": written.rows,
        "padding_rows": written.filler,
        "bytes": sum(file["bytes"] for file in written.files),
        "extents": extents,
        "files": written.files,
    }


def _check_samples(dump: "Dump", lens: Sequence[int], path: Path, allowed: Allowed) -> None:
    """Raise MismatchError unless the dump's samples have the tokens that a manifest gives them.

    And where it is not known at which tokens their rows stand.
    """
    from ...ops.pack.coverage import Starts, counts_one_less

    starts = Starts(allowed.start is not None or counts_one_less(dump.meta.engine))
    for i, (sample, tokens) in enumerate(
        zip(dump.select(layers=dump.meta.layers_L[:1]), lens, strict=True)
    ):
        told = sample.num_tokens
        if told is not None and told != tokens:
            raise MismatchError(
                f"{dump.meta.path}: sample {i} has {told} tokens, {path} gives it {tokens}"
            )
        if sample.routes is not None and sample.routes.stop > tokens:
            raise MismatchError(
                f"{dump.meta.path}: sample {i} has a route at position {sample.routes.stop - 1}, "
                f"{path} gives it {tokens} tokens"
            )
        starts.add(i, sample)
    starts.check(dump.meta.path)
    for error in early_rows(starts, dump.meta.path, allowed).values():
        raise error


def job_of_manifest(
    folder: Path, dump: "Dump", only: dict[str, int], ep: int, allowed: Allowed
) -> Job:
    """What a folder's manifest says that was packed; ``only`` narrows the ranks further.

    Samples that were left out are left out of a dump that has them. Raises MismatchError when the
    dump has other samples, lengths or layers.
    """
    from ...formats.replay.manifest import MANIFEST, read_manifest
    from ...ops.pack.padding import TensorSpec

    manifest = read_manifest(folder)
    path, packing, tensors = folder / MANIFEST, manifest.packing, manifest.tensors
    spec = TensorSpec(tensors.padding, tensors.dtype, ep if ep > 1 else tensors.ep)
    layers = tuple(tensors.layers)
    if dump.meta.layers_L != layers:
        if len(dump.meta.layers_L) != len(layers):
            raise MismatchError(
                f"{dump.meta.path}: has {len(dump.meta.layers_L)} MoE layers, {path} {len(layers)}"
            )
        dump = dump.renumbered(layers)
    skipped = tuple(Skipped(*one) for one in manifest.skipped)
    if skipped and len(dump) == len(packing.lens) + len(skipped):
        gone = {one.sample for one in skipped}
        dump = dump.select(samples=[i for i in range(len(dump)) if i not in gone])
    if len(dump) != len(packing.lens):
        raise MismatchError(
            f"{dump.meta.path}: has {len(dump)} samples, {path} {len(packing.lens)}"
        )
    missing = allowed.missing or manifest.allow_missing
    _check_samples(dump, packing.lens, path, dataclasses.replace(allowed, missing=missing))
    ranks = manifest.only | only
    return Job(dump, packing, spec, ranks, missing, skipped, manifest.digests, manifest.extents)


def misfit(job: Job, place: "RankFile", tensors: "RankTensors", name: str) -> str | None:
    """What of a file's shapes is not as the layout says, with both numbers; None when nothing.

    name is the file's in the message.
    """
    share, meta = job.packing.share(place.mb, place.dp, place.cp), job.dump.meta
    rows = share.packing.num_rows(place.tp)
    layers = sorted(n for c in job.packing.stage_layers(place.pp, meta.layers_L) for n in c)
    if list(tensors.layers) != layers:
        return f"{name}: got layers {list(tensors.layers)}, expected {layers}"
    for layer, ids in tensors.layers.items():
        if ids.shape != (rows, meta.top_k):
            return f"{name}: layer {layer}: got {ids.shape}, expected ({rows}, {meta.top_k})"
    mask = tensors.mask
    shapes = ((rows,), (len(layers), rows))
    if mask is not None and (mask.dtype != bool or mask.shape not in shapes):
        return f"{name}: mask: got {mask.dtype} {mask.shape}, expected bool ({rows},)"
    return None
