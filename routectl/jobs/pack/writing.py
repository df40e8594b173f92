"""A replay folder that is written: rank files by all processes, then samples, the manifest last."""

import dataclasses
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import MismatchError
from ...version import __version__
from ..progress import Progress
from ..shards.crew import Crew
from ..shards.run import added
from ..shards.work import Shard, cut_runs
from .folder import Job, places
from .samples import held_if_small
from .settings import Settled
from .warned import Odd, odd_in, told_odd, told_over

if TYPE_CHECKING:
    from ...dump import Dump, Sample
    from ...formats.replay.folder import RankFile
    from ...layouts.packing import Share

__all__ = ["write_folder"]

SAMPLES = "samples.parquet"  # of formats/replay/folder.py, which needs numpy to be loaded
_SHARD_BYTES = 16 << 20  # of tensors that one process writes at a time


def write_folder(
    job: Job,
    folder: Path,
    crew: Crew,
    progress: Progress,
    layout: Settled | None = None,
) -> dict[str, Any]:
    """Write rank files, samples and manifest into a folder; return the manifest.

    layout is what the packing was made of, if anything was.
    """
    from ...formats.replay.folder import write_manifest

    written = added(_Writing(job, folder), crew, progress)
    for left in folder.rglob(".*.tmp"):  # by a worker that was killed; another did its work
        left.unlink()
    manifest = _manifest(job, written)
    over = [] if layout is None else told_over(layout.layout, job.packing.lens, job.name)
    manifest["warnings"] = [*over, *told_odd(dict(written.odd), job.name, job.dump.meta)]
    if layout is not None and layout.sources:
        manifest["layout_from"] = [dataclasses.asdict(one) for one in layout.sources]
    write_manifest(folder, manifest)
    return manifest


@dataclasses.dataclass(frozen=True, slots=True)
class _Written:
    """Rank files, each with its place among all; rows and filler are those of a layer of the first
    stage; extents say where the routes of each sample begin and end, once they are written. odd
    has rows that no router gives, by sample and stage.
    """

    files: tuple[tuple[int, dict[str, Any]], ...] = ()
    rows: int = 0
    filler: int = 0
    extents: tuple[Any, ...] = ()
    odd: tuple[tuple[tuple[int, int], Odd], ...] = ()

    def __add__(self, other: "_Written") -> "_Written":
        return _Written(
            self.files + other.files,
            self.rows + other.rows,
            self.filler + other.filler,
            self.extents + other.extents,
            self.odd + other.odd,
        )


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Writing:
    """The files of a folder in shards."""

    job: Job
    folder: Path
    doing: str = "packing"
    unit: str = "files"

    def cut(self, most: int) -> list[Shard]:
        """samples.parquet, and runs of rank files: those that share samples go together."""
        job, meta = self.job, self.job.dump.meta
        together = _together(job)
        row_bytes = meta.top_k * job.spec.dtype_for(job.packing, meta.num_experts).itemsize
        whole = sum(job.packing.lens) * row_bytes * len(meta.layers_L)
        shards = [Shard(SAMPLES, whole // len(meta.layers_L), 0, None)]
        each = whole // len(together)
        for part in cut_runs([each] * len(together), max(1, most - 1), _SHARD_BYTES):
            files = [one for run in together[part.start : part.stop] for one in run]
            name = f"{files[0][1].path} to {files[-1][1].path}"
            shards.append(Shard(name, each * len(part), len(files), files))
        return shards

    def partial(self, shard: Shard) -> _Written:
        """What was written of a shard. Raises MismatchError."""
        if shard.of is None:
            return _write_samples(self.job, self.folder)
        try:
            return self._write_ranks(shard.of)
        except ValueError as error:  # padding, dtype and ep that do not fit the dump
            raise MismatchError(str(error)) from None

    def _write_ranks(self, files: "Sequence[tuple[int, RankFile]]") -> _Written:
        """Write ranks' files, those that share samples side by side."""
        from ...formats.replay.folder import RankTensors, write_tensors
        from ...kernels.threads import threads
        from ...ops.pack.pack import Rank, pack

        job, written = self.job, _Written()
        packing, first_stage = job.packing, job.only.get("pp", 0)
        held_for, held = None, job.dump
        odd: dict[tuple[int, int], Odd | None] = {}
        for number, place in files:
            share = packing.share(place.mb, place.dp, place.cp)
            if held_for != (place.pp, share.samples):
                held, held_for = _samples_of(job, place, share, odd), (place.pp, share.samples)
            rank = Rank(share.cp_rank, place.tp, place.pp)
            packed = pack(held, share.packing, rank, spec=job.spec, threads=threads())
            tensors = RankTensors(
                dict(zip(packed.layers_L, packed.ids_LRK, strict=True)),
                packed.mask,
                share.packing.cu_seqlens.astype("int32"),
                share.packing.cu_seqlens_padded.astype("int32"),
            )
            entry = write_tensors(self.folder, place, tensors)
            counted = place.pp == first_stage
            rows = packed.mask.shape[-1] if counted else 0
            filler = packed.filler_rows if counted else 0
            written += _Written(((number, entry),), rows, filler)
        there = tuple((key, one) for key, one in odd.items() if one is not None)
        return written + _Written(odd=there)


def _together(job: Job) -> "list[list[tuple[int, RankFile]]]":
    """The rank files with their numbers, those that share samples and layers together."""
    placed = enumerate(places(job.packing, job.only))
    return [list(run) for _, run in groupby(placed, lambda one: (one[1].pp, one[1].mb, one[1].dp))]


def _samples_of(
    job: Job, place: "RankFile", share: "Share", odd: dict[tuple[int, int], Odd | None]
) -> "Dump":
    """A micro-batch's samples in the layers of a stage, in memory where they are few.

    What of them no router gives is noted as they are read.
    """
    from ...dump import Dump

    meta = job.dump.meta
    layers = [n for chunk in job.packing.stage_layers(place.pp, meta.layers_L) for n in chunk]
    part = job.dump.select(layers=tuple(sorted(layers)) or meta.layers_L[:1])
    checked = _checked(job, share, part.select(samples=share.samples))

    def load(at: int) -> "Sample":
        sample, key = checked[at], (share.samples[at], place.pp)
        if layers and key not in odd:
            odd[key] = odd_in(sample)
        return sample

    return held_if_small(Dump(part.meta, checked.keys, load), share.packing)


def _write_samples(job: Job, folder: Path) -> _Written:
    """Write what samples have beside their routes."""
    from ...formats.native.container import write_native

    meta, extents = job.dump.meta, list[Any]()
    one_layer = job.dump.select(layers=meta.layers_L[:1])
    bare = dataclasses.replace(  # a folder of replay tensors holds none
        meta, margins=False, group_margins=False, gates=False
    )
    write_native(_without_routes(one_layer, extents), bare, folder / SAMPLES, force=True)
    return _Written(extents=tuple(extents))


def _without_routes(samples: "Dump", extents: list[Any]) -> "Iterator[Sample]":
    """The samples for samples.parquet, noting where their routes begin and end."""
    for sample in samples:
        routes = sample.routes
        extents.append(None if routes is None else [routes.start, routes.stop])
        yield dataclasses.replace(sample, routes=None, gates=None)


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


def _manifest(job: Job, written: _Written) -> dict[str, Any]:
    """What manifest.json says, but for its schema."""
    from ...formats.replay.layout import layout_document, stages_document

    packing, meta = job.packing, job.dump.meta
    files = [entry for _, entry in sorted(written.files, key=lambda one: one[0])]
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
        "bytes": sum(file["bytes"] for file in files),
        "extents": list(written.extents),
        "files": files,
    }
