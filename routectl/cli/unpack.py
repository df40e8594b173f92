"""``routectl unpack DIR -o DUMP.parquet``."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import FormatError, MismatchError, UnsupportedError
from ..jobs.pack.folder import Job, job_of_manifest, misfit, places
from ..reports.text.wording import plural
from .options import Force
from .output import counting, note, tokens_rate

if TYPE_CHECKING:
    from ..formats.replay.folder import RankFile
    from ..ops.pack.pack import Packed, Rank

__all__ = ["unpack_command", "unpack_folder"]

_DIR = typer.Argument(metavar="DIR", show_default=False, help="A folder that pack wrote.")
_DST = typer.Option("-o", "--output", metavar="DST", help="The native file: NAME.parquet.")


def _part(job: Job, place: "RankFile", path: Path) -> "tuple[Rank, Packed]":
    """A rank's file as what pack gave. Raises FormatError when it is not what was written."""
    import numpy as np

    from ..formats.replay.folder import file_digest, read_tensors
    from ..ops.pack.pack import Packed, Rank

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


def unpack_folder(folder: Path, output: Path, *, force: bool) -> int:
    """Write the dump that a replay folder holds as a native file; return its samples.

    Raises MismatchError when some ranks' files are not there.
    """
    from ..formats.native.container import open_native, write_native
    from ..formats.replay.folder import MANIFEST, SAMPLES, list_tensors, read_manifest
    from ..ops.pack.unpack import unpack

    samples = open_native(folder / SAMPLES)
    job = job_of_manifest(folder, samples, {}, 1)
    manifest, found = read_manifest(folder), list_tensors(folder)
    absent = [place.path for place in places(job.packing, {}) if place not in found]
    if absent:
        raise MismatchError(
            f"{folder}: {len(absent)} of the ranks' files are not there, the first is {absent[0]}"
        )
    extents = manifest["extents"]
    if len(extents) != len(samples):
        raise FormatError(
            f"{folder / MANIFEST}: got {len(extents)} extents for {len(samples)} samples"
        )
    routes: dict[int, Any] = {}
    groups: dict[tuple[int, tuple[int, ...]], list[RankFile]] = {}
    for place in places(job.packing, {}):
        indices = job.packing.share(place.mb, place.dp, place.cp).samples
        groups.setdefault((place.mb, indices), []).append(place)
    layers, num_experts = samples.meta.layers_L, samples.meta.num_experts
    with counting("unpacking", len(groups), "micro-batches", tokens_rate) as advance:
        for (mb, indices), ranks in groups.items():
            packing = job.packing.share(mb, ranks[0].dp, ranks[0].cp).packing
            parts = (_part(job, place, found[place]) for place in ranks)
            wanted = [extents[i] for i in indices]
            held = unpack(parts, packing, layers, num_experts, extents=wanted)
            routes.update(zip(indices, held, strict=True))
            advance(sum(packing.lens))
    whole = (dataclasses.replace(s, routes=routes.pop(i, None)) for i, s in enumerate(samples))
    return write_native(whole, samples.meta, output, force=force)


def unpack_command(
    folder: Annotated[Path, _DIR],
    output: Annotated[Path, _DST],
    force: Force = False,
) -> int:
    """Write the dump that replay tensors were packed from, out of the tensors of all ranks.

    The file has every sample, with its tokens and all else that the packed dump knew; padding is
    dropped and rows that were missing are missing again.
    """
    from ..files import refuse_existing

    if output.suffix != ".parquet":
        raise UnsupportedError(f"{output}: unpack writes native files: expected NAME.parquet")
    refuse_existing(output, force=force)
    count = unpack_folder(folder, output, force=force)
    note(f"wrote {output}: {plural(count, 'sample')}")
    return 0
