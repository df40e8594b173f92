"""How much work a foreign file may ask for: every budget, in one place, and how to raise one.

A door asks ``limits()`` when it opens something. docs/formats.md has the table.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields, replace

from .errors import FormatError, RoutectlError

__all__ = ["Limits", "check_inflation", "limits", "parse_limits", "raised_limits"]

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


@dataclass(frozen=True, slots=True)
class Limits:
    """The budgets. Sizes are in bytes.

    cell      of one cell: a value of a column, a payload, a tensor of one sample
    decoded   what any file may decode to, however small it is
    ratio     decoded bytes for each stored one, beyond ``decoded``
    line      of a line of JSON lines
    document  of one JSON document
    nodes     values of one JSON document, those within lists and objects counted
    depth     lists and objects within each other
    answer    of one answer of a server
    answers   of all answers of servers under way
    """

    cell: int = 256 << 20
    decoded: int = 64 << 20
    ratio: int = 200
    line: int = 1 << 30
    document: int = 2 << 30
    nodes: int = 50_000_000
    depth: int = 200
    answer: int = 256 << 20
    answers: int = 4 << 30


_STANDARD = Limits()
_CURRENT: ContextVar[Limits] = ContextVar("limits", default=_STANDARD)


def limits() -> Limits:
    """The budgets that hold here."""
    return _CURRENT.get()


@contextmanager
def raised_limits(given: Limits) -> Iterator[None]:
    """Other budgets, within the block."""
    token = _CURRENT.set(given)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def _size(text: str) -> int | None:
    """A count, or one with k, M, G or T (powers of ten), KB, MB and so on too; None for others."""
    digits = text.lower().removesuffix("b")
    unit = digits[-1:] if digits[-1:] in "kmgt" else ""
    digits = digits.removesuffix(unit) if unit else digits
    return int(digits) * _UNITS[unit] if digits.isdecimal() and len(digits) < 16 else None


def parse_limits(given: tuple[str, ...]) -> Limits:
    """The budgets with some of them given anew, each as NAME=SIZE. Raises RoutectlError."""
    names = [one.name for one in fields(Limits)]
    found = {}
    for text in given:
        name, _, value = text.partition("=")
        size = _size(value)
        if name not in names:
            raise RoutectlError(
                f"--limit {text}: expected NAME=SIZE, NAME one of {', '.join(names)}"
            )
        if not size:
            raise RoutectlError(f"--limit {text}: expected a size, as {name}=4GB")
        found[name] = size
    return replace(Limits(), **found)


def check_inflation(
    inflated: int,
    compressed: int,
    where: str,
    always: int | None = None,
    ratio: int | None = None,
) -> None:
    """Raise FormatError when ``compressed`` bytes claim to hold too many ``inflated`` ones.

    Up to ``always`` pass (the budget ``decoded`` where it is None); beyond that ``ratio`` to 1.
    Text and ids of real dumps compress 2 to 20 times; deflate's limit is 1032.
    """
    budget = limits()
    always = budget.decoded if always is None else always
    ratio = budget.ratio if ratio is None else ratio
    if inflated > always and inflated > ratio * max(compressed, 1):
        raise FormatError(
            f"{where}: {compressed} bytes inflate to more than {ratio} times their size, "
            "which no dump does: refused"
        )
