"""What ``routectl pack`` is asked: to write replay tensors, to verify some, to lay samples out."""

from dataclasses import MISSING, asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import MismatchError, RoutectlError
from ...layouts.rules import DTYPES, PADDINGS
from ..options import argument, force_option, no_tokens_option, option, save_option
from ..progress import SILENT, Progress
from ..reading import WITHOUT_TOKENS, Reading, reachable
from ..shards.crew import ALONE, Crew
from ..shards.run import added
from ..shards.share import ShardOptions
from ..shards.team import one_team
from ..shards.work import Opened
from .folder import Job, Origin, check_picked, job_of_manifest
from .layout import (
    Layout,
    LayoutOptions,
    Lengths,
    layers_of,
    packing_of,
    parse_lens,
    parse_ranks,
    renumber,
    settings_option,
    why_refused,
)
from .samples import Allowed, Skipped, Taken, take_samples
from .settings import Settled, given_keys, settled_layout
from .verify import Folder, VerifyWork
from .writing import write_folder

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
    "verify_work",
]

_NEEDED = ("routectl.formats.native.container", "routectl.ops.pack.pack")  # to pack
_RANK = "Only these ranks, such as cp=1,tp=0."
_MISSING = "Let padding stand for missing rows; the mask tells."
_DAMAGED = "Leave out samples that are damaged: named on stderr, and in the manifest."


def _dtype_option() -> Any:
    """--dtype of what has tensors."""
    return option(
        None,
        metavar="DTYPE",
        choices=DTYPES,
        help="Integer dtype of the tensors; the framework's own when not given.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PackRequest:
    """A dump, and the folder of replay tensors to be written; it is replaced with ``force`` alone.

    rank is "cp=1,tp=0", say; a dimension that is not named stands for all of its ranks.
    """

    dump: str = argument(metavar="DUMP", help="A file, a folder or a glob.")
    save: Path = save_option("the folder, whole or not at all,", MISSING)
    layout: LayoutOptions = field(default_factory=LayoutOptions)
    padding: str | None = option(
        None,
        metavar="POLICY",
        choices=PADDINGS,
        help="{choices}; the framework's own when not given.",
    )
    dtype: str | None = _dtype_option()
    allow_missing: bool = option(False, help=_MISSING)
    skip_damaged: bool = option(False, help=_DAMAGED)
    rank: str | None = option(None, metavar="RANK", help=_RANK)
    no_tokens: bool = no_tokens_option("samples.parquet")
    force: bool = force_option()
    crew: Crew = field(default_factory=Crew)
    reading: Reading = field(default_factory=Reading)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyRequest:
    """A folder of replay tensors, and the dump that they were made from.

    The layout is that of the folder's manifest, and must not be given beside one, but for its ep.
    """

    folder: Path = argument(metavar="DIR", help="A folder that pack wrote, or a trainer's tensors.")
    against: str = option(metavar="DUMP", help="The dump that the tensors were made from.")
    layout: tuple[str, ...] = settings_option(" Where DIR has no manifest.")
    dtype: str | None = _dtype_option()
    allow_missing: bool = option(False, help=_MISSING)
    skip_damaged: bool = option(False, help=_DAMAGED)
    rank: str | None = option(None, metavar="RANK", help=_RANK)
    crew: Crew = field(default_factory=Crew)
    share: ShardOptions = field(default_factory=ShardOptions)
    force: bool = False
    reading: Reading = field(default_factory=Reading)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutRequest:
    """Samples to be laid out: those of a dump, or in its place ``lens``, such as "9,17"."""

    dump: str | None = argument(None, metavar="[DUMP]", help="A file, a folder or a glob.")
    lens: str | None = option(
        None, metavar="N,N", help="Lengths of samples, instead of those of a dump."
    )
    layout: LayoutOptions = field(default_factory=LayoutOptions)
    skip_damaged: bool = option(False, help=_DAMAGED)
    rank: str | None = option(None, metavar="RANK", help="Draw only these, such as mb=1,cp=0.")
    reading: Reading = field(default_factory=Reading)

    def __post_init__(self) -> None:
        if (self.dump is None) == (self.lens is None):
            raise RoutectlError(
                "expected one of DUMP and --lens N,N",
                hint="--lens 9,17 lays out two samples of 9 and 17 tokens; a dump has its own",
            )
        _ = self.picked

    @property
    def picked(self) -> dict[str, int]:
        """Ranks and micro-batches to be drawn, all that are not named. Raises RoutectlError."""
        return parse_ranks(self.rank, ("mb",))


def pack_dump(request: PackRequest, progress: Progress = SILENT) -> "Document":
    """Write the replay tensors of every rank; returns the manifest."""
    from ...files.writing import refuse_existing

    save, force = request.save, request.force
    settled = settled_layout(request.layout, progress)
    refuse_existing(save, force=force, folder=True)
    with one_team(request.crew, [request.reading.input(request.dump).path], _NEEDED):
        return _write_packed(request, settled, progress)


def _write_packed(request: PackRequest, settled: Settled, progress: Progress) -> "Document":
    """Write the replay tensors of every rank in a layout."""
    from ...files.folders import replacing_folder
    from ...formats.replay.folder import foreign_content
    from ...formats.replay.manifest import MANIFEST
    from ...ops.pack.pack import greatest_id
    from ...ops.pack.padding import TensorSpec

    save, force, layout = request.save, request.force, settled.layout
    source = request.reading.open(request.dump, progress=progress)
    if request.no_tokens:
        source = source.without_tokens()
    only = parse_ranks(request.rank)
    spec = TensorSpec(request.padding, request.dtype, layout.ep)
    start = request.reading.input(request.dump).start
    allowed = Allowed(request.allow_missing, request.skip_damaged, start)
    origin = Origin(reachable(request.dump), request.reading, request.no_tokens)
    by = _By(request.crew, origin)
    taken, packing = _packed(source, layout, request.reading, allowed, progress, by)
    if spec.needs_greatest(packing):
        with progress.watching(taken.dump, "looking for the greatest id") as watched:
            spec = replace(spec, greatest=greatest_id(watched))
    skipped = _withheld(taken.skipped) if request.no_tokens else taken.skipped
    job = Job(taken.dump, packing, spec, only, request.allow_missing, skipped, origin=origin)
    with replacing_folder(save, force=force, foreign=foreign_content, last=MANIFEST) as folder:
        try:
            manifest = write_folder(job, folder, request.crew, progress, settled)
        except ValueError as error:  # padding, dtype and ep that do not fit the dump
            raise MismatchError(str(error)) from None
    if request.no_tokens:
        progress.note(WITHOUT_TOKENS)
    return manifest


def _withheld(skipped: tuple[Skipped, ...]) -> tuple[Skipped, ...]:
    """Samples that were left out, without texts that they have or that say why."""
    from ...reports.withheld import without_tokens

    return tuple(Skipped(**one) for one in without_tokens([asdict(one) for one in skipped]))


def has_manifest(folder: Path) -> bool:
    """Whether a folder of replay tensors says its layout itself."""
    return (folder / "manifest.json").is_file()


def answer_verify(request: VerifyRequest, progress: Progress = SILENT) -> "Document":
    """The routectl.verify/1 document: whether every route is there, exactly once.

    With --partial what was counted is written there, and the document is routectl.written/1.
    """
    from ...reports.pack.document import verified_document

    if request.share.partial is not None:
        return _write_verified(request, progress)
    request.share.tell(progress)
    found, meta = verify_dump(request, progress)
    document = verified_document(found, str(request.folder), meta)
    request.share.mark(document)
    return document


def _write_verified(request: VerifyRequest, progress: Progress) -> "Document":
    from ..shards.parting import write_partial

    def opening() -> VerifyWork:
        if request.reading.input(request.against).path == "-":
            raise RoutectlError("--shard: a dump is on standard input: each part would read it")
        return verify_work(request, progress)

    return write_partial("verify", request, opening, progress, told=str(request.folder))


def verify_dump(
    request: VerifyRequest, progress: Progress = SILENT
) -> "tuple[Verification, DumpMeta]":
    """What a folder comes to beside the dump that it was made from, and that dump's meta."""
    work = verify_work(request, progress)
    here = work.folder()
    return here.result(added(work, request.crew, progress)), here.job.dump.meta


def verify_work(request: VerifyRequest, progress: Progress) -> VerifyWork:
    """The work of verifying a folder, or a part of it."""
    here = Folder(_verified(request, progress), request.folder)
    opening = partial(_again, replace(request, against=reachable(request.against)))
    return VerifyWork(Opened(opening, here), request.share.place)


def _again(request: VerifyRequest) -> Folder:
    """A folder beside its dump, in another process."""
    return Folder(_verified(request, SILENT), request.folder)


def _verified(request: VerifyRequest, progress: Progress) -> Job:
    """What should be in the folder."""
    from ...ops.pack.padding import TensorSpec

    folder, said = request.folder, LayoutOptions(settings=request.layout)
    start = request.reading.input(request.against).start
    allowed = Allowed(request.allow_missing, request.skip_damaged, start)
    only = parse_ranks(request.rank)
    if has_manifest(folder):
        keys = given_keys(request.layout)
        given = [f"--layout {name.replace('_', '-')}" for name in keys if name != "ep"]
        given += [] if request.dtype is None else ["--dtype"]
        given += ["--skip-damaged"] if request.skip_damaged else []
        if given:
            raise RoutectlError(f"{given[0]} has no effect: {folder}/manifest.json says the layout")
        source = request.reading.open(request.against, progress=progress)
        return job_of_manifest(folder, source, only, keys.get("ep", 1), allowed)
    settled = settled_layout(said, progress)
    source = request.reading.open(request.against, progress=progress)
    taken, packing = _packed(source, settled.layout, request.reading, allowed, progress)
    spec = TensorSpec(None, request.dtype, settled.layout.ep)
    job = Job(taken.dump, packing, spec, only, request.allow_missing, taken.skipped)
    sizes = Lengths(taken.lens, taken.ids, taken.all_lens)
    num_layers = layers_of(settled.layout, request.reading.facts, source)
    refuses = partial(why_refused, settled.layout, sizes, source, num_layers)
    return replace(job, assumed=settled.assumed, given=settled.said, refuses=refuses)


def lay_out_samples(request: LayoutRequest, progress: Progress = SILENT) -> "Packing":
    """Where each token of the samples sits."""
    layout = settled_layout(request.layout, progress).layout
    if request.lens is not None:
        lens = parse_lens(request.lens)
        layers = layout.decoder_layers or layout.pp * layout.vpp
        if layout.decoder_layers is None and layers > 1:
            progress.note(
                f"{layers} decoder layers are assumed, one of each stage and chunk: --layout "
                "decoder-layers=N says how many"
            )
        packing = packing_of(layout, Lengths(lens, [None] * len(lens), lens), layers)
    else:
        assert request.dump is not None
        source = request.reading.open(request.dump, progress=progress)
        start = request.reading.input(request.dump).start
        allowed = Allowed(True, request.skip_damaged, start, guesses=True)
        packing = _packed(source, layout, request.reading, allowed, progress)[1]
    check_picked(packing, request.picked)
    return packing


@dataclass(frozen=True, slots=True)
class _By:
    """Who measures a dump, and how another process opens it; None: this one alone can."""

    crew: Crew = ALONE
    origin: Origin | None = None


def _packed(
    dump: "Dump",
    layout: Layout,
    reading: Reading,
    allowed: Allowed,
    progress: Progress,
    by: _By = _By(),
) -> tuple[Taken, "Packing"]:
    """The dump's samples, its layers numbered, and their Packing."""
    num_layers = layers_of(layout, reading.facts, dump)
    dump = renumber(dump, layout, num_layers, progress)
    if dump.meta.layers_L[-1] >= num_layers:
        raise MismatchError(
            f"{dump.meta.path}: has a layer {dump.meta.layers_L[-1]}, but the model "
            f"{num_layers} layers"
        )
    opened = (
        None if by.origin is None else Opened(partial(by.origin.open, dump.meta.layers_L), dump)
    )
    taken = take_samples(dump, layout, allowed, progress, by.crew, opened)
    sizes = Lengths(taken.lens, taken.ids, taken.all_lens)
    return taken, packing_of(layout, sizes, num_layers)
