"""How much work a foreign file may ask for: every budget, in one place, and how to raise one.

A door asks ``limits()`` when it opens something, and keeps what it was told: a thread that reads
later would not be. docs/formats.md has the table.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields, replace
from typing import NoReturn

from .errors import FormatError, RoutectlError, misspelt

__all__ = [
    "DEFLATE",
    "Limits",
    "check_budget",
    "check_inflation",
    "limits",
    "parse_limits",
    "raised_limits",
    "refuse",
    "within",
]

_SIZE = re.compile(r"([0-9]{1,15})(?:([kmgt])(i(?=b))?)?b?")
DEFLATE = 1100  # beyond what deflate can reach: 1032 to 1


@dataclass(frozen=True, slots=True)
class Limits:
    """The budgets. Sizes are in bytes.

    cell      of one cell: a value of a column, a payload, the rows of one sample
    decoded   what any file may decode to, however small it is
    ratio     decoded bytes for each stored one, beyond ``decoded``
    coded     as ratio, of ids that went through a codec
    line      of a line of JSON lines
    document  of one JSON document, or another file that is read whole
    nodes     values of one JSON document, those within lists and objects counted
    depth     lists and objects within each other
    stdin     of a dump on a pipe; None: what TMPDIR holds, less 1 GB
    answer    of one answer of a server
    answers   of all answers of servers under way
    cache     of what is kept of checkpoints that were run (no file asks for it)
    """

    cell: int = 256 << 20
    decoded: int = 64 << 20
    ratio: int = 200
    coded: int = 1000
    line: int = 1 << 30
    document: int = 2 << 30
    nodes: int = 50_000_000
    depth: int = 200
    stdin: int | None = None
    answer: int = 256 << 20
    answers: int = 4 << 30
    cache: int = 20_000_000_000


_NAMES = tuple(one.name for one in fields(Limits))
_COUNTS = ("ratio", "coded", "nodes", "depth")  # the others are bytes
_EXAMPLES = {name: "1000" if name in _COUNTS else "4GB" for name in _NAMES}
_STANDARD = Limits()
_CURRENT: ContextVar[Limits] = ContextVar("limits", default=_STANDARD)


def limits() -> Limits:
    """The budgets that hold here."""
    return _CURRENT.get()


def _size(text: str) -> int | None:
    """A count, or one with k, M, G or T (powers of ten), KB, MB and so on too; None for others.

    KiB, MiB and so on are powers of two.
    """
    found = _SIZE.fullmatch(text.lower())
    if found is None:
        return None
    power = " kmgt".index(found[2] or " ")
    size: int = int(found[1]) * (1024 if found[3] else 1000) ** power
    return size


def parse_limits(given: Iterable[str]) -> dict[str, int]:
    """Budgets by name, each given as NAME=SIZE, once. Raises RoutectlError."""
    found = {}
    for text in given:
        name, _, value = text.partition("=")
        if name not in _NAMES:
            said = f"--limit {text}: expected NAME=SIZE, and {name!r} is not known"
            raise misspelt(said, name, _NAMES, RoutectlError)
        if name in found:
            raise RoutectlError(f"--limit {name} is given twice: it takes one value")
        size = _size(value)
        if not size:
            raise RoutectlError(f"--limit {text}: expected a size, as {name}={_EXAMPLES[name]}")
        found[name] = size
    return found


@contextmanager
def raised_limits(**sizes: int | str) -> Iterator[None]:
    """Other budgets within the block, by name: ``raised_limits(cell="4GB", ratio=1000)``.

    What was opened within the block keeps them when it is read later. Raises RoutectlError for a
    name that no budget has, or a size that is none.
    """
    given = parse_limits(f"{name}={size}" for name, size in sizes.items())
    token = _CURRENT.set(replace(limits(), **given))
    try:
        yield
    finally:
        _CURRENT.reset(token)


@contextmanager
def within(kept: Limits) -> Iterator[None]:
    """The budgets that held where something was opened, while it is read."""
    token = _CURRENT.set(kept)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def _shown(name: str, size: int) -> str:
    """A size that --limit takes, at least ``size``."""
    if name in _COUNTS:
        return str(size)
    for unit, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if size >= 10 * unit:
            return f"{-(-size // unit)}{letter}B"
    return str(size)


def refuse(name: str, needed: int, message: str) -> NoReturn:
    """Raise FormatError for what is over the budget ``name``, and would pass one of ``needed``."""
    raise FormatError(
        f"{message}: refused",
        hint=f"--limit {name}={_shown(name, needed)} reads it, if you trust whoever wrote it",
    )


def check_budget(name: str, size: int, message: str) -> None:
    """Raise FormatError where ``size`` is over the budget ``name``; ``message`` tells of what."""
    most = getattr(limits(), name)
    if size > most:
        refuse(name, size, f"{message}: got {size}, expected at most {most}")


def check_inflation(
    inflated: int,
    stored: int,
    where: str,
    *,
    part: int = 1,
    ratio: str = "ratio",
    most: int | None = None,
) -> None:
    """Raise FormatError when ``stored`` bytes claim to hold too many ``inflated`` ones.

    Up to the budget ``decoded`` pass; beyond that so many to 1 as the budget ``ratio`` names has.
    ``part``: only one in so many of ``decoded``, for a payload of many in a file. ``most`` is what
    the compression can reach at all, where the whole is not known yet. Text and
    ids of real dumps compress 2 to 20 times.
    """
    budget = limits()
    times: int = getattr(budget, ratio)
    if inflated * part <= budget.decoded or inflated <= times * max(stored, 1):
        return
    name, needed = ("decoded", inflated * part) if most is None else (ratio, most)
    refuse(
        name,
        needed,
        f"{where}: {stored} bytes inflate to more than {times} times their size, which no "
        "dump does",
    )
