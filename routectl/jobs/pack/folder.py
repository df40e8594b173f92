"""A replay job: what is packed, for which ranks, and the folder that is written."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import MismatchError
from ..held import HeldHereError
from ..reading import Reading
from .samples import Allowed, Skipped, early_rows

if TYPE_CHECKING:
    from ...dump import Dump
    from ...formats.replay.folder import RankFile, RankTensors
    from ...formats.replay.manifest import Extents
    from ...layouts.packing import Packing
    from ...ops.pack.padding import TensorSpec

__all__ = ["Job", "Origin", "check_picked", "job_of_manifest", "misfit", "places"]


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """A dump, the layout that it is packed in, how tensors are written, and for which ranks.

    allow_missing lets padding stand for missing rows. skipped are samples that were left out.
    digests are the SHA-256 of files that are there by what a manifest says, extents the rows of
    each sample, num_experts its E; None without one. assumed are keys of the layout that nobody
    said, given those that somebody did, refuses says why it could not be another: see ``Declared``.
    origin is how another process opens the dump: a job that is pickled has its dump opened anew.
    None: no other process can.
    """

    dump: "Dump"
    packing: "Packing"
    spec: "TensorSpec"
    only: dict[str, int]
    allow_missing: bool = False
    skipped: tuple[Skipped, ...] = ()
    digests: dict[str, str] | None = None
    extents: "Extents | None" = None
    num_experts: int | None = None
    assumed: tuple[str, ...] = ()
    given: frozenset[str] = frozenset()
    refuses: "Callable[[Mapping[str, object]], str | None] | None" = None
    origin: "Origin | None" = None

    def name(self, sample: int) -> str:
        """A sample's id, or its place in the dump where it has none."""
        return self.dump.keys[sample].sample_id or f"#{sample}"

    def __reduce__(self) -> tuple[Any, ...]:
        if self.origin is None:
            raise HeldHereError
        said = {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}
        return _opened_anew, (said | {"dump": self.dump.meta.layers_L},)


@dataclasses.dataclass(frozen=True, slots=True)
class Origin:
    """Where a job's dump is from: what its user named, and how it is read."""

    dump: str
    reading: Reading
    no_tokens: bool = False

    def open(self, layers: tuple[int, ...]) -> "Dump":
        """The dump with its layers numbered so."""
        dump = self.reading.open(self.dump)
        dump = dump.without_tokens() if self.no_tokens else dump
        return dump if dump.meta.layers_L == layers else dump.renumbered(layers)


def _opened_anew(said: dict[str, Any]) -> Job:
    """A job in another process; ``said`` are its fields, in place of the dump its layers."""
    dump = said["origin"].open(said["dump"])
    return Job(**said | {"dump": _without(dump, said["skipped"], len(said["packing"].lens))})


def _without(dump: "Dump", skipped: Sequence[Skipped], count: int) -> "Dump":
    """A dump without the samples left out, where it has them beside ``count`` others."""
    if not skipped or len(dump) != count + len(skipped):
        return dump
    gone = {one.sample for one in skipped}
    return dump.select(samples=[i for i in range(len(dump)) if i not in gone])


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
    sizes = {"pp": packing.pp, "dp": packing.dp, "cp": packing.cp, "tp": packing.tp}
    for name, rank in only.items():
        size = packing.num_micro_batches if name == "mb" else sizes[name]
        if rank >= size:
            raise MismatchError(f"no rank {name}={rank}: {name} is {size}")
    return sizes


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
    dump = _without(dump, skipped, len(packing.lens))
    if len(dump) != len(packing.lens):
        raise MismatchError(
            f"{dump.meta.path}: has {len(dump)} samples, {path} {len(packing.lens)}"
        )
    missing = allowed.missing or manifest.allow_missing
    _check_samples(dump, packing.lens, path, dataclasses.replace(allowed, missing=missing))
    ranks = manifest.only | only
    said = (manifest.digests, manifest.extents, tensors.num_experts)
    return Job(dump, packing, spec, ranks, missing, skipped, *said)


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
