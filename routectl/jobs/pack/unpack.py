"""What ``routectl unpack`` is asked: the dump that replay tensors were packed from."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import FormatError, MismatchError, RoutectlError, UnsupportedError
from ...reports.text.wording import plural
from ..convert.native import write_native_on
from ..options import argument, force_option, no_tokens_option, save_option
from ..progress import SILENT, Progress
from ..reading import WITHOUT_TOKENS
from ..shards.crew import Crew
from ..shards.run import added
from ..shards.work import Opened, Shard, cut_runs
from .folder import Job, job_of_manifest, misfit, places
from .samples import Allowed
from .spool import Spool, spool_for

if TYPE_CHECKING:
    from ...dump import Dump, Sample
    from ...formats.native.row_groups import NativeForm
    from ...formats.replay.folder import RankFile
    from ...layouts.packing import Share
    from ...ops.pack.pack import Packed, Rank
    from ...reports.dumps import WrittenDocument

__all__ = ["UnpackRequest", "unpack_folder"]

_SHARD_BYTES = 16 << 20  # of routes that one process takes from tensors at a time


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class UnpackRequest:
    """A folder that pack wrote, and the native file to be written; see ``force``."""

    folder: Path = argument(metavar="DIR", help="A folder that pack wrote.")
    save: Path = save_option("the dump, NAME.parquet,", dataclasses.MISSING)
    no_tokens: bool = no_tokens_option("DST")
    force: bool = force_option()
    crew: Crew = dataclasses.field(default_factory=Crew)

    def __post_init__(self) -> None:
        if self.crew.ray is not None:
            raise RoutectlError("--ray: unpack is of one machine: expected --jobs N")


class _Stored(Sequence[Any]):
    """The tensors of a rank's file, each read when it is asked for."""

    def __init__(self, path: Path, layers: tuple[int, ...]) -> None:
        self._path, self._layers = path, layers

    def __len__(self) -> int:
        return len(self._layers)

    def __getitem__(self, i: Any) -> Any:
        from ...formats.replay.folder import read_layer

        return read_layer(self._path, self._layers[i])


def _part(job: Job, place: "RankFile", path: Path) -> "tuple[Rank, Packed]":
    """A rank's file as what pack gave, its layers read one by one.

    Raises FormatError when it is not what was written.
    """
    from ...formats.replay.folder import file_digest, read_tensors
    from ...ops.pack.pack import Packed, Rank

    share, tensors = _share(job, [place]), read_tensors(path, outline=True)
    wrong = misfit(job, place, tensors, place.path)
    if wrong is not None or tensors.mask is None:
        raise FormatError(f"{path.parent.parent}: {wrong or f'{place.path}: no mask in it'}")
    if job.digests is None or job.digests.get(place.path) != file_digest(path):
        raise FormatError(
            f"{path}: its bytes are not those of the manifest: another sha256",
            hint=f"routectl verify {path.parent.parent} --against DUMP tells what is wrong",
        )
    layers = tuple(tensors.layers)
    packed = Packed(_Stored(path, layers), tensors.mask, layers)
    return Rank(share.cp_rank, place.tp, place.pp), packed


def unpack_folder(request: UnpackRequest, progress: Progress = SILENT) -> "WrittenDocument":
    """Write the dump that a replay folder holds as a native file: the routectl.written/1 document.

    Raises FormatError for another folder, and MismatchError when some ranks' files are not there.
    """
    from ...files.scratch import scratch_folder
    from ...files.writing import refuse_existing, replacing
    from ...formats.native.row_groups import native_form
    from ...formats.replay.folder import list_tensors
    from ...formats.replay.manifest import MANIFEST
    from ...reports.dumps import written_document

    folder, save = request.folder, request.save
    if save.suffix != ".parquet":
        raise UnsupportedError(f"{save}: unpack writes native files: expected NAME.parquet")
    refuse_existing(save, force=request.force)
    if not (folder / MANIFEST).exists():
        raise FormatError(
            f"{folder}: no {MANIFEST}: not a replay folder",
            hint="routectl pack DUMP --save DIR writes one",
        )
    inside = _Inside(folder, request.no_tokens)
    job = inside.job()
    found = list_tensors(folder)
    absent = [place.path for place in places(job.packing, {}) if place not in found]
    if absent:
        raise MismatchError(
            f"{folder}: {len(absent)} of the ranks' files are not there, the first is {absent[0]}"
        )
    with scratch_folder("unpack") as kept, replacing(save, force=request.force) as target:
        packed = {i for ranks in _together(job) for i in _share(job, ranks).samples}
        extents = [one if i in packed else None for i, one in enumerate(job.extents or ())]
        spool = spool_for(kept / "routes", job.dump.meta, extents)
        added(_Unpacking(Opened(inside.job, job), found, spool), request.crew, progress)
        dump = _spooled(inside, spool, job.dump)
        opening = partial(_with_form, inside, spool)
        opened = Opened(opening, (dump, native_form(dump.meta, None, save.parent)))
        count = write_native_on(request.crew, opened, target, progress)
    progress.note(f"wrote {save}: {plural(count, 'sample')}")
    if request.no_tokens:
        progress.note(WITHOUT_TOKENS)
    return written_document(str(folder), str(save), count)


def _share(job: Job, ranks: "list[RankFile]") -> "Share":
    """What ranks that share samples have of the packing."""
    return job.packing.share(ranks[0].mb, ranks[0].dp, ranks[0].cp)


def _together(job: Job) -> "list[list[RankFile]]":
    """The files of ranks that share samples; a micro-batch may have a CP size of its own."""
    groups: dict[tuple[int, tuple[int, ...]], list[RankFile]] = {}
    for place in places(job.packing, {}):
        samples = tuple(_share(job, [place]).samples)
        groups.setdefault((place.mb, samples), []).append(place)
    return list(groups.values())


@dataclasses.dataclass(frozen=True, slots=True)
class _Inside:
    """A replay folder, in any process."""

    folder: Path
    no_tokens: bool

    def samples(self) -> "Dump":
        """What its samples have beside their routes."""
        from ...formats.native.container import open_native
        from ...formats.replay.folder import SAMPLES

        samples = open_native(self.folder / SAMPLES)
        return samples.without_tokens() if self.no_tokens else samples

    def job(self) -> Job:
        """What was packed."""
        return job_of_manifest(self.folder, self.samples(), {}, 1, Allowed())


def _spooled(inside: _Inside, spool: Spool, samples: "Dump | None" = None) -> "Dump":
    """The samples of a folder with their routes out of a spool."""
    from ...dump import Dump

    bare = inside.samples() if samples is None else samples
    offsets_S = spool.offsets()

    def load(i: int) -> "Sample":
        return dataclasses.replace(bare[i], routes=spool.take(i, int(offsets_S[i])))

    return Dump(bare.meta, bare.keys, load, count=lambda: spool.rows_S.clip(0))


def _with_form(inside: _Inside, spool: Spool) -> "tuple[Dump, NativeForm]":
    from ...formats.native.row_groups import native_form

    dump = _spooled(inside, spool)
    return dump, native_form(dump.meta, None)


@dataclasses.dataclass(frozen=True, slots=True)
class _Put:
    """Micro-batches whose routes are in the spool."""

    count: int = 0

    def __add__(self, other: "_Put") -> "_Put":
        return _Put(self.count + other.count)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Unpacking:
    """The routes of every sample, out of the files of all ranks, some micro-batches a shard."""

    job: Opened[Job]
    found: "dict[RankFile, Path]"
    spool: Spool
    doing: str = "unpacking"
    unit: str = "micro-batches"

    def cut(self, most: int) -> list[Shard]:
        """Ranks that share samples in one shard."""
        together = _together(self.job())
        each = int(self.spool.offsets()[-1]) // len(together)
        return [
            Shard(
                f"micro-batches from {together[part.start][0].path} on",
                each * len(part),
                len(part),
                together[part.start : part.stop],
            )
            for part in cut_runs([each] * len(together), most, _SHARD_BYTES)
        ]

    def partial(self, shard: Shard) -> _Put:
        """Put the routes of some micro-batches where they belong."""
        from ...ops.pack.unpack import unpack

        job, offsets_S = self.job(), self.spool.offsets()
        meta, extents = job.dump.meta, list(job.extents or ())
        for ranks in shard.of:
            share = _share(job, ranks)
            parts = (_part(job, place, self.found[place]) for place in ranks)
            wanted = [extents[i] for i in share.samples]
            held = unpack(parts, share.packing, meta.layers_L, meta.num_experts, extents=wanted)
            for i, routes in zip(share.samples, held, strict=True):
                self.spool.put(i, routes, int(offsets_S[i]))
        return _Put(len(shard.of))
