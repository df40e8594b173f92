"""What ``routectl pack`` is asked: to write replay tensors, to verify some, to lay samples out."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import MismatchError, RoutectlError
from ..options import argument, option
from ..progress import SILENT, Progress
from ..reading import Reading
from .folder import Job, job_of_manifest, write_folder
from .layout import (
    LayoutOptions,
    LengthOptions,
    Lengths,
    layers_of,
    packing_of,
    parse_lens,
    parse_ranks,
    renumber,
)
from .samples import Allowed, Taken, take_samples
from .verify import verify_folder

if TYPE_CHECKING:
    from ...dump import Dump, DumpMeta
    from ...layouts.packing import Packing
    from ...ops.pack.verify import Verification
    from ...reports.document import Document

__all__ = [
    "LayoutRequest",
    "PackRequest",
    "VerifyRequest",
    "answer_verify",
    "has_manifest",
    "lay_out_samples",
    "pack_dump",
    "verify_dump",
]

_DTYPE = "Integer dtype of the tensors; the framework's own when not given."
_RANK = "Only these ranks, such as cp=1,tp=0."
_MISSING = "Let padding stand for missing rows; the mask tells."
_DAMAGED = "Leave out samples that are damaged: named on stderr, and in the manifest."


@dataclass(frozen=True, slots=True, kw_only=True)
class PackRequest:
    """A dump, and the folder of replay tensors to be written; it is replaced with ``force`` alone.

    rank is "cp=1,tp=0", say; a dimension that is not named stands for all of its ranks.
    """

    dump: str = argument(metavar="DUMP", help="A file, a folder or a glob.")
    output: Path = option(
        short="o", metavar="DIR", help="The folder to write; it appears whole or not at all."
    )
    layout: LayoutOptions = field(default_factory=LayoutOptions)
    padding: str | None = option(
        None,
        metavar="POLICY",
        help="zero, arange, spread or minus-one; the framework's own when not given.",
    )
    dtype: str | None = option(None, metavar="DTYPE", help=_DTYPE)
    allow_missing: bool = option(False, help=_MISSING)
    skip_damaged: bool = option(False, help=_DAMAGED)
    rank: str | None = option(None, metavar="RANK", help=_RANK)
    lengths: LengthOptions = field(default_factory=LengthOptions)
    force: bool = False
    reading: Reading = field(default_factory=Reading)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyRequest:
    """A folder of replay tensors, and the dump that they were made from.

    The layout is that of the folder's manifest, and must not be given beside one.
    """

    folder: Path = option(
        name="verify",
        metavar="DIR",
        help="Check the tensors in DIR against a dump; nothing is written.",
    )
    against: str = option(
        metavar="DUMP", help="For --verify: the dump that the tensors were made from."
    )
    layout: LayoutOptions = field(default_factory=LayoutOptions)
    dtype: str | None = option(None, metavar="DTYPE", help=_DTYPE)
    allow_missing: bool = option(False, help=_MISSING)
    skip_damaged: bool = option(False, help=_DAMAGED)
    rank: str | None = option(None, metavar="RANK", help=_RANK)
    lengths: LengthOptions = field(default_factory=LengthOptions)
    reading: Reading = field(default_factory=Reading)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutRequest:
    """Samples to be laid out: those of a dump, or in its place ``lens``, such as "9,17"."""

    dump: str | None = argument(None, metavar="DUMP", help="A file, a folder or a glob.")
    lens: str | None = option(
        None, metavar="N,N", help="For --explain: lengths of samples, instead of a dump."
    )
    layout: LayoutOptions = field(default_factory=LayoutOptions)
    skip_damaged: bool = option(False, help=_DAMAGED)
    lengths: LengthOptions = field(default_factory=LengthOptions)
    reading: Reading = field(default_factory=Reading)


def pack_dump(request: PackRequest, progress: Progress = SILENT) -> "Document":
    """Write the replay tensors of every rank; returns the manifest."""
    from ...files.folders import replacing_folder
    from ...files.writing import refuse_existing
    from ...formats.replay.folder import foreign_content
    from ...ops.pack.pack import greatest_id
    from ...ops.pack.padding import TensorSpec

    output, force = request.output, request.force
    refuse_existing(output, force=force, folder=True)
    source = request.reading.open(request.dump, progress=progress)
    only = parse_ranks(request.rank)
    spec = TensorSpec(request.padding, request.dtype, request.layout.ep)
    allowed = Allowed(
        request.allow_missing, request.skip_damaged, request.reading.input(request.dump).start
    )
    taken, packing = _packed(source, request, allowed, progress)
    if spec.needs_greatest(packing):
        with progress.watching(taken.dump, "looking for the greatest id") as watched:
            spec = replace(spec, greatest=greatest_id(watched))
    job = Job(taken.dump, packing, spec, only, request.allow_missing, taken.skipped)
    with replacing_folder(output, force=force, foreign=foreign_content) as folder:
        try:
            manifest = write_folder(job, folder, progress)
        except ValueError as error:  # padding, dtype and ep that do not fit the dump
            raise MismatchError(str(error)) from None
    return manifest


def has_manifest(folder: Path) -> bool:
    """Whether a folder of replay tensors says its layout itself."""
    return (folder / "manifest.json").is_file()


def answer_verify(request: VerifyRequest, progress: Progress = SILENT) -> "Document":
    """The routectl.verify/1 document: whether every route is there, exactly once."""
    from ...reports.pack.document import verified_document

    found, meta = verify_dump(request, progress)
    return verified_document(found, str(request.folder), meta)


def verify_dump(
    request: VerifyRequest, progress: Progress = SILENT
) -> "tuple[Verification, DumpMeta]":
    """What a folder comes to beside the dump that it was made from, and that dump's meta."""
    job = _verified(request, progress)
    return verify_folder(job, request.folder, progress), job.dump.meta


def _verified(request: VerifyRequest, progress: Progress) -> Job:
    """What should be in the folder."""
    from ...ops.pack.padding import TensorSpec

    folder, layout = request.folder, request.layout
    allowed = Allowed(
        request.allow_missing, request.skip_damaged, request.reading.input(request.against).start
    )
    source = request.reading.open(request.against, progress=progress)
    only = parse_ranks(request.rank)
    if not has_manifest(folder):
        taken, packing = _packed(source, request, allowed, progress)
        spec = TensorSpec(None, request.dtype, layout.ep)
        return Job(taken.dump, packing, spec, only, request.allow_missing, taken.skipped)
    given = (replace(layout, ep=1), request.lengths, request.dtype, request.skip_damaged)
    if given != (LayoutOptions(), LengthOptions(), None, False):
        raise RoutectlError(f"{folder}/manifest.json says the layout: none can be given")
    return job_of_manifest(folder, source, only, layout.ep, allowed)


def lay_out_samples(request: LayoutRequest, progress: Progress = SILENT) -> "Packing":
    """Where each token of the samples sits."""
    layout = request.layout
    if request.lens is not None:
        lens = parse_lens(request.lens)
        layers = layout.decoder_layers or layout.pp * layout.vpp
        return packing_of(layout, Lengths(lens, [None] * len(lens), lens), layers)
    if request.dump is None:
        raise RoutectlError("expected a DUMP")
    source = request.reading.open(request.dump, progress=progress)
    allowed = Allowed(
        True, request.skip_damaged, request.reading.input(request.dump).start, guesses=True
    )
    return _packed(source, request, allowed, progress)[1]


def _packed(
    dump: "Dump",
    request: PackRequest | VerifyRequest | LayoutRequest,
    allowed: Allowed,
    progress: Progress,
) -> tuple[Taken, "Packing"]:
    """The dump's samples, its layers numbered, and their Packing."""
    options = request.layout
    num_layers = layers_of(options, request.reading.facts, dump)
    dump = renumber(dump, options, num_layers, progress)
    if dump.meta.layers_L[-1] >= num_layers:
        raise MismatchError(
            f"{dump.meta.path}: has a layer {dump.meta.layers_L[-1]}, but the model "
            f"{num_layers} layers"
        )
    taken = take_samples(dump, request.lengths, allowed, progress)
    sizes = Lengths(taken.lens, taken.ids, taken.all_lens)
    return taken, packing_of(options, sizes, num_layers)
