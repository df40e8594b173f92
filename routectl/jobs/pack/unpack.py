"""What ``routectl unpack`` is asked: the dump that replay tensors were packed from."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ...errors import FormatError, MismatchError, UnsupportedError
from ...reports.text.wording import plural
from ..options import argument, force_option, no_tokens_option, save_option
from ..progress import SILENT, Progress, tokens_rate
from ..reading import WITHOUT_TOKENS
from .folder import Job, job_of_manifest, misfit, places
from .samples import Allowed

if TYPE_CHECKING:
    from ...dump import DumpMeta
    from ...formats.replay.folder import RankFile
    from ...ops.pack.pack import Packed, Rank
    from ...reports.dumps import WrittenDocument
    from ...routes import Routes

__all__ = ["UnpackRequest", "unpack_folder"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class UnpackRequest:
    """A folder that pack wrote, and the native file to be written; see ``force``."""

    folder: Path = argument(metavar="DIR", help="A folder that pack wrote.")
    save: Path = save_option("the dump, NAME.parquet,", dataclasses.MISSING)
    no_tokens: bool = no_tokens_option("DST")
    force: bool = force_option()


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

    share, tensors = (
        job.packing.share(place.mb, place.dp, place.cp),
        read_tensors(path, outline=True),
    )
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
    from ...files.scratch import scratch_file
    from ...files.writing import refuse_existing
    from ...formats.native.container import open_native, write_native
    from ...formats.replay.folder import SAMPLES, list_tensors
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
    samples = open_native(folder / SAMPLES)
    if request.no_tokens:
        samples = samples.without_tokens()
    job = job_of_manifest(folder, samples, {}, 1, Allowed())
    found = list_tensors(folder)
    absent = [place.path for place in places(job.packing, {}) if place not in found]
    if absent:
        raise MismatchError(
            f"{folder}: {len(absent)} of the ranks' files are not there, the first is {absent[0]}"
        )
    with scratch_file() as file:
        routes = _Spool(file, samples.meta)
        _unpack_all(job, found, job.extents or [], routes, progress)
        whole = (dataclasses.replace(s, routes=routes.take(i)) for i, s in enumerate(samples))
        count = write_native(whole, samples.meta, save, force=request.force)
    progress.note(f"wrote {save}: {plural(count, 'sample')}")
    if request.no_tokens:
        progress.note(WITHOUT_TOKENS)
    return written_document(str(folder), str(save), count)


class _Spool:
    """Routes of samples in a file, put there in the order of micro-batches."""

    def __init__(self, file: IO[bytes], meta: "DumpMeta") -> None:
        self._file, self._meta = file, meta
        self._places: dict[int, tuple[int, int, int, bool]] = {}  # offset, start, rows, missing

    def put(self, sample: int, routes: "Routes | None") -> None:
        """Keep a sample's routes, by its place in the dump."""
        import numpy as np

        if routes is None:
            return
        missing = routes.missing_TL is not None
        self._places[sample] = (self._file.tell(), routes.start, routes.num_tokens, missing)
        self._file.write(routes.ids_TLK.data)
        if routes.missing_TL is not None:
            self._file.write(np.packbits(routes.missing_TL).tobytes())

    def take(self, sample: int) -> "Routes | None":
        """A sample's routes; None for one without."""
        import numpy as np

        from ...routes import Routes, ids_dtype

        if sample not in self._places:
            return None
        offset, start, rows, missing = self._places[sample]
        layers, num_experts = self._meta.layers_L, self._meta.num_experts
        ids = np.empty((rows, len(layers), self._meta.top_k), ids_dtype(num_experts))
        self._file.seek(offset)
        self._file.readinto(ids)  # type: ignore[attr-defined]
        missing_TL = None
        if missing:
            count = rows * len(layers)
            bits = np.frombuffer(self._file.read(-(-count // 8)), np.uint8)
            missing_TL = np.unpackbits(bits, count=count).reshape(rows, -1) > 0
        return Routes(ids, layers, num_experts, start, missing_TL)


def _unpack_all(
    job: Job,
    found: "dict[RankFile, Path]",
    extents: list[Any],
    routes: _Spool,
    progress: Progress,
) -> None:
    """The routes of every sample, out of the files of all ranks, a micro-batch at a time."""
    from ...ops.pack.unpack import unpack

    groups: dict[tuple[int, tuple[int, ...]], list[RankFile]] = {}
    for place in places(job.packing, {}):
        indices = job.packing.share(place.mb, place.dp, place.cp).samples
        groups.setdefault((place.mb, indices), []).append(place)
    layers, num_experts = job.dump.meta.layers_L, job.dump.meta.num_experts
    with progress.counting("unpacking", len(groups), "micro-batches", tokens_rate) as advance:
        for (mb, indices), ranks in groups.items():
            packing = job.packing.share(mb, ranks[0].dp, ranks[0].cp).packing
            parts = (_part(job, place, found[place]) for place in ranks)
            wanted = [extents[i] for i in indices]
            for i, held in zip(
                indices,
                unpack(parts, packing, layers, num_experts, extents=wanted),
                strict=True,
            ):
                routes.put(i, held)
            advance(sum(packing.lens))
