"""What ``routectl check`` is asked of a dump, and the document that answers."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from ...errors import RoutectlError, UnsupportedError, did_you_mean
from ..asked import asked_of
from ..options import argument, check_bounds, eps_option, fail_on_option, option, save_option
from ..progress import SILENT, Progress
from ..reading import Reading, finite_eps
from ..recompute.forwarding import forward_option, forwarding_of
from ..recompute.kept import recomputed_side
from ..recompute.partner import open_partner, partner_at
from ..recompute.weights import checkpoint_at
from ..shards.crew import Crew
from ..shards.run import added
from ..shards.share import ShardOptions
from ..shards.team import one_team
from .candidates import Candidates, who_made
from .model import options_of_dump
from .work import CheckSides, CheckWork, KeptReference, check_work

if TYPE_CHECKING:
    from ...dump import Dump, DumpMeta
    from ...ops.check.book.results import CheckResult
    from ...ops.check.candidates.made_by import MadeBy
    from ...ops.check.check import CheckOptions, CheckPartial
    from ...reports.document import Document

__all__ = [
    "CheckRequest",
    "Checked",
    "answer_check",
    "check_and_fix",
    "check_dump",
    "judged_check",
    "opened_work",
    "write_fixed",
]

_NEEDED = ("routectl.formats.native.container", "routectl.ops.check.check")  # to check
_CODES = "Finding codes or their beginnings, as R2 or R102; repeatable, or with commas."


def _finding_codes() -> tuple[str, ...]:
    """What --select and --ignore may name."""
    from ...ops.check.book.findings import known_codes

    return known_codes()


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRequest:
    """A dump to be checked, alone or against a reference.

    save is where the dump is written with renumbered experts restored, as a native file; one that
    is there is replaced with ``force`` alone. Raises RoutectlError where an option makes no sense,
    before a dump is opened.
    """

    dump: str = argument(metavar="[DUMP]", help="A file, a folder or a glob; - is stdin.")
    fail_on: str = fail_on_option()
    select: tuple[str, ...] = option(
        (), metavar="CODE", suggests=_finding_codes, help=f"Only these. {_CODES}"
    )
    ignore: tuple[str, ...] = option((), metavar="CODE", suggests=_finding_codes, help="Not these.")
    ep: int = option(
        1, least=1, help="Count what filler adds to each expert-parallel rank of so many."
    )
    against: str | None = option(
        None,
        metavar="REFERENCE",
        help="What is right: a dump of the same tokens (another engine's, or recomputed routes), "
        "or a Hugging Face folder of the weights, which the tokens are pushed through once.",
    )
    candidates: tuple[str, ...] = option(
        (),
        metavar="NAME=WHERE",
        help="Weights that may have made the rows, oldest first, each a Hugging Face folder or a "
        "dump of its routes; repeatable. Says which one made each sample; --against is the one "
        "that should have, or its NAME.",
    )
    eps: float | None = eps_option()
    forward: tuple[str, ...] = forward_option()
    save: Path | None = save_option("with --against the dump, renumbered experts restored,")
    force: bool = False
    crew: Crew = field(default_factory=Crew)
    share: ShardOptions = field(default_factory=ShardOptions)
    reading: Reading = field(default_factory=Reading)

    def __post_init__(self) -> None:
        check_bounds(self)
        finite_eps(self.eps)
        _codes("--select", self.select)
        _codes("--ignore", self.ignore)
        how = forwarding_of(self.forward)
        Candidates.parsed(self.candidates, self.against)
        if self.candidates and how.mode != "free":
            raise RoutectlError("--candidates are told apart by free routes: no --forward mode")
        if self.candidates and (self.share.place != (1, 1) or self.share.partial is not None):
            raise RoutectlError(
                "--shard: all samples together tell what no candidate made: --candidates without it"
            )
        if self.save is not None and self.against is None:
            raise RoutectlError(
                "--save writes what a reference mends: expected --against REFERENCE"
            )
        if self.save is not None and self.save.suffix != ".parquet":
            raise UnsupportedError(
                f"--save {self.save}: check writes native files: expected NAME.parquet"
            )


@dataclass(frozen=True, slots=True)
class Checked:
    """A checked dump: the routectl.check/1 document, and what it is made of.

    reference is the meta and the sample count of what the dump was held against.
    """

    document: "Document"
    dump: "Dump"
    result: "CheckResult"
    reference: "tuple[DumpMeta, int] | None"


def answer_check(request: CheckRequest, progress: Progress = SILENT) -> "Document":
    """The routectl.check/1 document of a dump; the fixed dump is written where one is wanted.

    With --partial what was counted is written there, and the document is routectl.written/1.
    """
    if request.share.partial is not None:
        return _write_partial(request, progress)
    request.share.tell(progress)
    return check_and_fix(request, progress).document


def _write_partial(request: CheckRequest, progress: Progress) -> "Document":
    from ..shards.parting import write_partial

    def opening() -> CheckWork:
        if request.save is not None:
            raise RoutectlError("--partial and --save: write the fixed dump without --partial")
        return opened_work(request, progress)

    return write_partial("check", request, opening, progress, told=request.dump)


def check_and_fix(
    request: CheckRequest, progress: Progress = SILENT, known: "CheckOptions | None" = None
) -> Checked:
    """Check a dump, and write it fixed where that is wanted.

    ``known`` says what is known of the model, in place of its config.
    """
    checked = check_dump(request, progress, known)
    write_fixed(checked, request, progress)
    return checked


def check_dump(
    request: CheckRequest, progress: Progress, known: "CheckOptions | None" = None
) -> Checked:
    """Check a dump, alone or against its reference: a dump, or a checkpoint that is run once."""
    from ...files.writing import refuse_existing

    if request.save is not None:
        refuse_existing(request.save, force=request.force)
    asked = Candidates.parsed(request.candidates, request.against)
    request = replace(request, against=asked.reference(request.against))
    runs = request.against is not None and checkpoint_at(request.against) is not None
    if runs and request.crew.ray is not None:
        progress.note("checking here: what is recomputed is kept on this machine, not on a cluster")
        request = replace(request, crew=replace(request.crew, ray=None))
    paths = [path for path in (request.dump, request.against) if path is not None and not runs]
    named = [request.reading.input(path).path for path in paths]  # workers wait for no run
    with one_team(request.crew, named, _NEEDED):
        work = opened_work(request, progress, known)
        found = added(work, request.crew, progress)
        makers = None
        if request.candidates:
            makers = who_made(request.dump, work.checker().dump, asked, request, progress)
        return judged_check(request, work, found, makers)


def judged_check(
    request: CheckRequest,
    work: CheckWork,
    found: "CheckPartial",
    makers: "MadeBy | None" = None,
) -> Checked:
    """The document of what was counted, and of who made the rows."""
    from ...ops.check.makers import with_makers
    from ...reports.check.document import check_document

    wanted, left_out = _codes("--select", request.select), _codes("--ignore", request.ignore)
    checker = work.checker()
    result = found.result(checker)
    if makers is not None:
        result = with_makers(result, makers)
    result = _with_next(result.selected(wanted, left_out), request)
    comparer = checker.comparer
    other = None if comparer is None else (comparer.reference, len(comparer.other))
    document = check_document(result, other, fail_on=request.fail_on)
    document["asked"] = asked_of(request)
    request.share.mark(document)
    return Checked(document, checker.dump, result, other)


def _with_next(result: "CheckResult", request: CheckRequest) -> "CheckResult":
    """Of renumbered experts that --save restores, what proves it, in place of that advice."""
    from ...ops.check.book.findings import RESTORES

    maps = () if result.explanation is None else result.explanation.maps
    if request.save is None or not maps or not all(one.invertible for one in maps):
        return result
    save, against = quote(str(request.save)), quote(str(request.against))
    told = f". {save} has them restored: routectl check {save} --against {against} proves it."
    findings = (
        replace(f, next_step=f.action.replace(RESTORES, told)) if RESTORES in f.action else f
        for f in result.findings
    )
    return replace(result, findings=tuple(findings))


def opened_work(
    request: CheckRequest, progress: Progress, known: "CheckOptions | None" = None
) -> CheckWork:
    """The dump, and what it is held against, opened; what is learnt from some samples is learnt."""
    reading, ep, against = request.reading, request.ep, request.against
    weights = None if against is None else checkpoint_at(against)
    if against is not None and weights is None:
        Candidates.parsed(request.candidates, against).refuse_unknown(against)
    sides = CheckSides(request.dump, None if weights else against, reading)
    if request.share.place != (1, 1) or request.share.partial is not None:
        _refuse_here(request, weights is not None)
    if weights is None:
        opened, reference = sides.open(progress)
    else:
        opened, reference = open_partner(request.dump, reading, weights, progress), None
    if opened.meta.num_experts % ep:
        raise RoutectlError(f"--ep {ep}: {opened.meta.num_experts} experts do not divide by it")
    options = known or options_of_dump(opened, reading.facts or weights, ep, request.eps)
    if request.candidates:  # the reference is one of them
        named = tuple(Candidates.parsed(request.candidates, against).where)
        options = replace(options, candidates=named)
    if weights is not None:
        how = forwarding_of(request.forward)
        partner = partner_at(request.dump, reading, weights, opened, with_routes=how.mode != "free")
        told = f"--against {against}"
        reference, routes = recomputed_side(weights, partner, how, progress, told=told)
        sides = replace(sides, kept=KeptReference(weights, routes))
    return check_work(sides, (opened, reference), options, request.share.place, request.crew)


def _refuse_here(request: CheckRequest, runs: bool) -> None:
    """Raise RoutectlError where parts cannot be counted in several places."""
    paths = [path for path in (request.dump, request.against) if path is not None]
    if runs:
        raise RoutectlError(
            "--shard: the reference is a checkpoint, which each part would run",
            hint="routectl recompute CHECKPOINT DUMP --save FILE once, then --against FILE",
        )
    if any(request.reading.input(path).path == "-" for path in paths):
        raise RoutectlError("--shard: a dump is on standard input: each part would read it")


def write_fixed(checked: Checked, request: CheckRequest, progress: Progress) -> None:
    """Write the dump with its experts renumbered as the reference has them, where that is asked."""
    from ...formats.native.container import write_native
    from ...ops.check.fix import restored_dump

    target = request.save
    if target is None:
        return
    found = checked.result.explanation
    assert found is not None  # of a comparison with a reference
    fixed = restored_dump(checked.dump, found)
    with progress.watching(fixed, "writing") as watched:
        count = write_native(watched, fixed.meta, target, force=request.force)
    changed = sorted({layer for one in found.maps for layer, _ in one.to})
    layers = ", ".join(map(str, changed))
    progress.note(f"wrote {target}: {count} samples, experts of layers {layers} renumbered")


def _codes(flag: str, given: tuple[str, ...]) -> list[str]:
    """Codes or their beginnings; RoutectlError for one that no code begins with."""
    from ...ops.check.book.findings import known_codes

    words = [word.strip() for text in given for word in text.split(",") if word.strip()]
    for word in words:
        if not any(code.startswith(word) for code in known_codes()):
            whole = len(word) >= min(map(len, known_codes()))  # a beginning is near to many
            near = did_you_mean(word, known_codes()) if whole else None
            raise RoutectlError(
                f"{flag} {word}: no finding's code begins so",
                hint=near or "routectl check --rules lists all",
            )
    return words
