"""What is wrong with who made the rows, as findings."""

from dataclasses import replace

from .book.ledger import Ledger
from .book.results import Book, CheckFinding, CheckResult, Place, ordered
from .candidates.made_by import MadeBy, PartMaker

__all__ = ["with_makers"]

_NAMES = 4  # versions that are no candidate, and candidates, that a finding names
_UNNAMED = "default"  # SGLang's weight_version where nobody said one
_GUESSES = ("R711", "R712", "R715", "R716")  # why rows in place differ from the reference


def with_makers(result: CheckResult, found: MadeBy) -> CheckResult:
    """The result with who made the rows, and what is wrong with that."""
    books: dict[int, Book] = {}
    strange = _strange(found)
    for part in found.parts:
        if part.said in strange:
            note = f"names {part.said}; {_rates(part, found.names)}"
            book = books.setdefault(part.index, Book())
            told = f"{_listed(strange)}; candidates are {_listed(found.names)}"
            book.add("R725", Place(part.sample, note=note), rows=part.rows, detail=told)
        code = _code(part, found.names)
        if code is not None:
            book = books.setdefault(part.index, Book())
            facts = {"made_by": _maker(part), "expected": part.expected or "any"}
            detail = facts["made_by"] if code != "R723" else ""
            if part.expected is not None and code != "R723":
                detail += f", expected {part.expected}"
            place = Place(part.sample, note=_rates(part, found.names))
            book.add(code, place, rows=part.rows, detail=detail, facts=facts)
    for one in found.lacking:
        which = f"candidate{'s' * (len(one.names) > 1)} {', '.join(one.names)}"
        book = books.setdefault(one.index, Book())
        book.add("R719", Place(one.sample), detail=f"no routes of {which}")
    ledger = Ledger()
    for index, book in books.items():
        ledger.take(book, index)
    left = [one for one in result.findings if not _is_told(one, found)]
    findings = ordered((*left, *ledger.findings()))
    return replace(result, findings=findings, made_by=found)


def _strange(found: MadeBy) -> tuple[str, ...]:
    """The versions that the dump names and that are no candidate, in the dump's order."""
    said = dict.fromkeys(part.said for part in found.parts)
    known = {None, _UNNAMED, *found.names}
    return tuple(name for name in said if name is not None and name not in known)


def _listed(names: tuple[str, ...]) -> str:
    more = len(names) - _NAMES
    return ", ".join(names[:_NAMES]) + (f" and {more} more" if more > 0 else "")


def _is_told(finding: CheckFinding, found: MadeBy) -> bool:
    """Whether a finding guesses at rows most of which other weights are known to have made."""
    if finding.code not in _GUESSES or found.expected not in found.names:
        return False
    of = found.names.index(found.expected)
    wrong = (p.rates[of] * p.rows for p in found.parts if p.is_wrong and not p.is_none)
    return 2 * sum(wrong) > finding.rows


def _code(part: PartMaker, names: tuple[str, ...]) -> str | None:
    if part.is_none:
        return "R723"
    if part.is_mislabelled(names):
        return "R722"
    if part.is_wrong:
        return "R721"
    return None if part.maker else "R724"


def _maker(part: PartMaker) -> str:
    return "none of them" if part.is_none else " or ".join(part.alike)


def _rates(part: PartMaker, names: tuple[str, ...]) -> str:
    told = sorted(zip(part.rates, names, strict=True))[:2]
    return ", ".join(f"{100 * rate:.2f} % differ from {name}" for rate, name in told)
