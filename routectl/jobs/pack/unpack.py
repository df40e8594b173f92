"""What ``routectl unpack`` is asked: the dump that replay tensors were packed from."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import FormatError, MismatchError, UnsupportedError
from ...reports.text.wording import plural
from ..options import argument, force_option, option
from ..progress import SILENT, Progress, tokens_rate
from .folder import Job, job_of_manifest, misfit, places
from .samples import Allowed

if TYPE_CHECKING:
    from ...formats.replay.folder import RankFile
    from ...ops.pack.pack import Packed, Rank
    from ...routes import Routes

__all__ = ["UnpackRequest", "unpack_folder"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class UnpackRequest:
    """A folder that pack wrote, and the native file to be written; see ``force``."""

    folder: Path = argument(metavar="DIR", help="A folder that pack wrote.")
    output: Path = option(short="o", metavar="DST", help="The native file: NAME.parquet.")
    force: bool = force_option()


def _part(job: Job, place: "RankFile", path: Path) -> "tuple[Rank, Packed]":
    """A rank's file as what pack gave. Raises FormatError when it is not what was written."""
    import numpy as np

    from ...formats.replay.folder import file_digest, read_tensors
    from ...ops.pack.pack import Packed, Rank

    share, tensors = job.packing.share(place.mb, place.dp, place.cp), read_tensors(path)
    wrong = misfit(job, place, tensors, place.path)
    if wrong is not None or tensors.mask is None:
        raise FormatError(f"{path.parent.parent}: {wrong or f'{place.path}: no mask in it'}")
    if job.digests is None or job.digests.get(place.path) != file_digest(path):
        raise FormatError(
            f"{path}: its bytes are not those of the manifest: another sha256",
            hint=f"routectl pack --verify {path.parent.parent} tells what is wrong",
        )
    layers = tuple(tensors.layers)
    rows = len(tensors.mask) if tensors.mask.ndim == 1 else tensors.mask.shape[1]
    ids = np.stack(list(tensors.layers.values())) if layers else np.zeros((0, rows, 1), np.uint8)
    return Rank(share.cp_rank, place.tp, place.pp), Packed(ids, tensors.mask, layers)


def unpack_folder(request: UnpackRequest, progress: Progress = SILENT) -> int:
    """Write the dump that a replay folder holds as a native file; return its samples.

    Raises MismatchError when some ranks' files are not there.
    """
    from ...files.writing import refuse_existing
    from ...formats.native.container import open_native, write_native
    from ...formats.replay.folder import SAMPLES, list_tensors

    folder, output = request.folder, request.output
    if output.suffix != ".parquet":
        raise UnsupportedError(f"{output}: unpack writes native files: expected NAME.parquet")
    refuse_existing(output, force=request.force)
    samples = open_native(folder / SAMPLES)
    job = job_of_manifest(folder, samples, {}, 1, Allowed())
    found = list_tensors(folder)
    absent = [place.path for place in places(job.packing, {}) if place not in found]
    if absent:
        raise MismatchError(
            f"{folder}: {len(absent)} of the ranks' files are not there, the first is {absent[0]}"
        )
    routes = _routes(job, found, job.extents or [], progress)
    whole = (dataclasses.replace(s, routes=routes.pop(i, None)) for i, s in enumerate(samples))
    count = write_native(whole, samples.meta, output, force=request.force)
    progress.note(f"wrote {output}: {plural(count, 'sample')}")
    return count


def _routes(
    job: Job, found: "dict[RankFile, Path]", extents: list[Any], progress: Progress
) -> "dict[int, Routes]":
    """The routes of every sample by its place, out of the files of all ranks."""
    from ...ops.pack.unpack import unpack

    routes: dict[int, Any] = {}
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
            held = unpack(parts, packing, layers, num_experts, extents=wanted)
            routes.update(zip(indices, held, strict=True))
            advance(sum(packing.lens))
    return routes
