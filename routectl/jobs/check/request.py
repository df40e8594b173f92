"""What ``routectl check`` is asked of a dump, and the document that answers."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import RoutectlError, UnsupportedError
from ..options import argument, check_bounds, eps_option, fail_on_option, option
from ..progress import SILENT, Progress
from ..reading import Reading, finite_eps, refuse_severity
from .model import options_of_dump
from .reference import open_checked, open_reference

if TYPE_CHECKING:
    from ...dump import Dump
    from ...ops.check.book.results import Explanation
    from ...reports.document import Document

__all__ = ["CheckRequest", "Checked", "answer_check", "check_dump", "write_fixed"]

_CODES = "Finding codes or their beginnings, as R2 or R102; repeatable, or with commas."


def _finding_codes() -> tuple[str, ...]:
    """What --select and --ignore may name."""
    from ...ops.check.book.findings import known_codes

    return known_codes()


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRequest:
    """A dump to be checked, alone or against a reference.

    fixed is where the dump is written with renumbered experts restored, as a native file; one that
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
    eps: float | None = eps_option()
    fixed: Path | None = None
    force: bool = False
    reading: Reading = field(default_factory=Reading)

    def __post_init__(self) -> None:
        check_bounds(self)
        refuse_severity(self.fail_on)
        finite_eps(self.eps)
        _codes("--select", self.select)
        _codes("--ignore", self.ignore)
        if self.fixed is not None and self.against is None:
            raise RoutectlError("--apply-fix needs --against REFERENCE and -o DST.parquet")


@dataclass(frozen=True, slots=True)
class Checked:
    """A checked dump: the routectl.check/1 document, and what it takes to write it fixed."""

    document: "Document"
    dump: "Dump"
    explanation: "Explanation | None"


def answer_check(request: CheckRequest, progress: Progress = SILENT) -> "Document":
    """The routectl.check/1 document of a dump; the fixed dump is written where one is wanted."""
    from ...files.writing import refuse_existing

    if request.fixed is not None:
        refuse_existing(request.fixed, force=request.force)
    checked = check_dump(request, progress)
    if request.fixed is not None:
        write_fixed(checked, request.fixed, request.force, progress)
    return checked.document


def check_dump(request: CheckRequest, progress: Progress) -> Checked:
    """Check a dump, alone or against its reference: a dump, or a checkpoint that is run once."""
    from ...checkpoints import is_checkpoint, refuse_unrunnable
    from ...ops.check.check import check
    from ...reports.check.document import check_document

    reading, ep = request.reading, request.ep
    against = request.against
    weights = Path(against) if against is not None and is_checkpoint(against) else None
    if weights is not None:
        refuse_unrunnable(weights)
    reference = None
    if against is None or weights is not None:
        opened = open_checked(request.dump, reading, weights, progress)
    else:
        sides = reading.open_sides({"DUMP": request.dump, "the reference": against}, progress)
        opened, reference = sides.values()
    if opened.meta.num_experts % ep:
        raise RoutectlError(f"--ep {ep}: {opened.meta.num_experts} experts do not divide by it")
    options = options_of_dump(opened, reading.facts or weights, ep, request.eps)
    if weights is not None:
        reference = open_reference(weights, opened, request.dump, reading, progress)
    wanted, left_out = _codes("--select", request.select), _codes("--ignore", request.ignore)
    with progress.watching(opened, "checking") as watched:
        result = check(watched, reference, options=options).selected(wanted, left_out)
    other = None if reference is None else (reference.meta, len(reference))
    document = check_document(result, other, fail_on=request.fail_on)
    return Checked(document, opened, result.explanation)


def write_fixed(checked: Checked, target: Path, force: bool, progress: Progress) -> None:
    """Write the dump with its experts renumbered as the reference has them."""
    from ...formats.native.container import write_native
    from ...ops.check.fix import restored_dump

    if target.suffix != ".parquet":
        raise UnsupportedError(f"{target}: --apply-fix writes native files: expected NAME.parquet")
    found = checked.explanation
    assert found is not None  # of a comparison with a reference
    fixed = restored_dump(checked.dump, found)
    with progress.watching(fixed, "writing") as watched:
        count = write_native(watched, fixed.meta, target, force=force)
    changed = sorted({layer for one in found.maps for layer, _ in one.to})
    layers = ", ".join(map(str, changed))
    progress.note(f"wrote {target}: {count} samples, experts of layers {layers} renumbered")


def _codes(flag: str, given: tuple[str, ...]) -> list[str]:
    """Codes or their beginnings; RoutectlError for one that no code begins with."""
    from ...ops.check.book.findings import known_codes

    words = [word.strip() for text in given for word in text.split(",") if word.strip()]
    for word in words:
        if not any(code.startswith(word) for code in known_codes()):
            raise RoutectlError(
                f"{flag} {word}: no finding's code begins so", hint="docs/checks.md lists them"
            )
    return words
