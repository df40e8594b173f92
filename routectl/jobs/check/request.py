"""What ``routectl check`` is asked of a dump, and the document that answers."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...cli.options import open_input
from ...cli.output import watching
from ...errors import RoutectlError
from ..reading import Reading
from .model import options_of_dump

if TYPE_CHECKING:
    from ...dump import Dump
    from ...ops.check.results import Explanation
    from ...reports.diff.document import Document

__all__ = ["CheckRequest", "Checked", "answer_check"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRequest:
    """The options of ``routectl check``, as they were given.

    Raises RoutectlError where one makes no sense, before a dump is opened.
    """

    dump: str
    reading: Reading = field(default_factory=Reading)
    fail_on: str = "error"
    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    ep: int = 1
    against: str | None = None

    def __post_init__(self) -> None:
        from ...ops.check.findings import SEVERITIES

        if self.fail_on not in SEVERITIES:
            known = ", ".join(SEVERITIES)
            raise RoutectlError(f"--fail-on {self.fail_on!r} is not known: {known}")
        _codes("--select", self.select)
        _codes("--ignore", self.ignore)


@dataclass(frozen=True, slots=True)
class Checked:
    """A checked dump: the routectl.check/1 document, and what --apply-fix needs."""

    document: "Document"
    dump: "Dump"
    explanation: "Explanation | None"


def answer_check(request: CheckRequest) -> Checked:
    """Check a dump, alone or against its reference."""
    from ...ops.check.check import check
    from ...reports.check.document import check_document

    reading, ep = request.reading, request.ep
    opened = reading.open(request.dump)
    if opened.meta.num_experts % ep:
        raise RoutectlError(f"--ep {ep}: {opened.meta.num_experts} experts do not divide by it")
    options = options_of_dump(
        opened,
        reading.facts,
        lambda wide: open_input(request.dump, wide, reading.format, reading.start),
        ep,
    )
    reference = None if request.against is None else reading.open(request.against)
    wanted, left_out = _codes("--select", request.select), _codes("--ignore", request.ignore)
    with watching(opened, "checking") as watched:
        result = check(watched, reference, options=options).selected(wanted, left_out)
    other = None if reference is None else (reference.meta, len(reference))
    document = check_document(result, other, fail_on=request.fail_on)
    return Checked(document, opened, result.explanation)


def _codes(flag: str, given: tuple[str, ...]) -> list[str]:
    """Codes or their beginnings; RoutectlError for one that no code begins with."""
    from ...ops.check.findings import known_codes

    words = [word.strip() for text in given for word in text.split(",") if word.strip()]
    for word in words:
        if not any(code.startswith(word) for code in known_codes()):
            raise RoutectlError(
                f"{flag} {word}: no finding's code begins so", hint="docs/checks.md lists them"
            )
    return words
