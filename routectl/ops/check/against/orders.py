"""Orders of rows that have a name: what context-parallel ranks leave, undone wrongly or not at all.

Shape suffixes: T rows.
"""

import contextlib
import itertools
from collections.abc import Iterator

import numpy as np

from ....layouts.packing import Packing
from .side import Ints

__all__ = ["known_order"]

_CP_SIZES = (2, 3, 4, 6, 8, 12, 16, 32)
_FITS = 0.9  # share of the rows with a known source that an order must place
_LESS_FITS = 0.6  # where every other order places so much less
_APART = 0.25
_WORDS = {2: "two", 3: "three", 4: "four", 6: "six", 8: "eight", 12: "twelve", 16: "sixteen"}


def known_order(source_T: Ints, start: int, tokens: int) -> tuple[str, Ints] | None:
    """The name of the order that rows are in, and the position of each row's token by it.

    ``source_T`` is the position whose row each row is, -1 where that is not known. None where no
    order that has a name places nine rows in ten, or most and far more than any other.
    """
    known_T = source_T >= 0
    tried: list[tuple[float, str, Ints]] = []
    for name, order_T in _orders(len(source_T), start, tokens):
        size = min(len(order_T), len(source_T))
        whole_T = np.full(len(source_T), -1, np.int64)
        whole_T[:size] = order_T[:size]
        both_T = known_T & (whole_T >= 0)
        if both_T.any():
            tried.append((float((whole_T == source_T)[both_T].mean()), name, whole_T))
    if not tried:
        return None
    fits, name, whole_T = max(tried, key=lambda t: t[0])
    others = max((f for f, other, _ in tried if other != name), default=0.0)
    if fits >= _FITS or (fits >= _LESS_FITS and others <= fits - _APART):
        return name, whole_T
    return None


def _orders(rows: int, start: int, tokens: int) -> Iterator[tuple[str, Ints]]:
    """(name, source positions) of every order that has one."""
    yield "reversed", np.arange(rows)[::-1] + start
    for cp, size in itertools.product(_CP_SIZES, sorted({tokens, tokens - 1, rows})):
        if size >= 2 * cp:
            yield from _cp_orders(size, cp)


def _cp_orders(tokens: int, cp: int) -> list[tuple[str, Ints]]:
    """Orders of N tokens that a missing or a wrong undoing of the CP split leaves."""
    found: list[tuple[str, Ints]] = []
    ranks = f"{_WORDS.get(cp, cp)} context-parallel ranks"
    with contextlib.suppress(ValueError):
        packing = Packing([tokens], framework="verl", cp=cp)
        padded = np.concatenate([packing.local_rows(rank)[:, 1] for rank in range(cp)])
        plain = padded[padded >= 0]
        undone = np.argsort(plain, kind="stable")
        found.append((f"zigzag order of {ranks}", plain))
        if len(padded) > len(plain):
            found.append((f"zigzag order of {ranks}, padding kept", padded))
        if (undone != plain).any():
            found.append((f"zigzag of {ranks} undone where there was none", undone))
    every = np.arange(tokens)
    striped = np.concatenate([every[rank::cp] for rank in range(cp)])
    found.append((f"striped order of {ranks}", striped))
    found.append((f"striped order of {ranks} undone where there was none", np.argsort(striped)))
    for size in sorted({tokens // cp, -(-tokens // cp)}):  # what is over goes to one end
        cuts = [size * n for n in range(1, cp)]
        parts = np.split(every, [c for c in cuts if c < tokens])
        found.append((f"parts of {ranks} in reverse", np.concatenate(parts[::-1])))
    return found
