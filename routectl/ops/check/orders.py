"""Hypotheses about the order of one sample's rows: shifts, padding sides, context-parallel order.

Rows are compared by a number of their set (``check_kernels.hash_sets``). Shape suffixes: T tokens,
L compared layers.
"""

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...kernels.check import Hashes
from ...layouts.packing import Packing
from ...routes import Bools
from .results import Score

__all__ = ["Ints", "Side", "differing", "row_scores", "wins"]

_LAGS = (-3, -2, -1, 1, 2, 3)
_CP_SIZES = (2, 4, 8, 16)
_VOTING_LAYERS = 4
_LEAST_VOTES = 3
_LEFT = 0.45  # mismatch that a hypothesis may leave, with the rounding of deep layers
_WORDS = {1: "one", 2: "two", 3: "three", 4: "four", 8: "eight", 16: "sixteen"}
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """A sample's rows by position: hash_TL and there_TL of positions start and on."""

    hash_TL: Hashes
    there_TL: Bools
    start: int

    @property
    def stop(self) -> int:
        """The position after the last row."""
        return self.start + len(self.hash_TL)

    def at(self, position_N: Ints) -> tuple[Hashes, Bools]:
        """The rows of some positions; those that are not there have False."""
        if not len(self.hash_TL):
            nothing = np.zeros((len(position_N), self.hash_TL.shape[1]), self.hash_TL.dtype)
            return nothing, nothing.astype(np.bool_)
        row_N = position_N - self.start
        inside_N = (row_N >= 0) & (row_N < len(self.hash_TL))
        row_N = np.where(inside_N, row_N, 0)
        return self.hash_TL[row_N], self.there_TL[row_N] & inside_N[:, None]


def differing(dump: Side, reference: Side, here_N: Ints, source_N: Ints) -> tuple[Bools, Bools]:
    """(differs, both there) of the dump's rows at some positions and the reference's at others."""
    ours, there = dump.at(here_N)
    theirs, also = reference.at(source_N)
    both = there & also
    return (ours != theirs) & both, both


def row_scores(dump: Side, reference: Side, here_N: Ints, tokens: int) -> list[Score]:
    """What each order of rows leaves of some positions' mismatch; ``tokens`` is N of the sample."""
    before_NL, _ = differing(dump, reference, here_N, here_N)
    found = []
    for code, name, source_N in _orders(dump, reference, here_N, tokens):
        wrong_NL, both_NL = differing(dump, reference, here_N, source_N)
        rows = int(both_NL.sum())
        if rows * 2 < before_NL.size:  # of rows that mostly are not there nothing can be said
            continue
        before = int((before_NL & both_NL).sum())
        found.append(Score(code, name, rows, int(wrong_NL.sum()), before))
    return found


def wins(scores: list[Score]) -> Score | None:
    """The hypothesis that clearly leaves less than every other and than none; None without one."""
    known = sorted((s for s in scores if s.rate is not None), key=lambda s: s.rate or 0.0)
    if not known:
        return None
    best, left = known[0], known[0].rate or 0.0
    others = [s.rate or 0.0 for s in known[1:] if s.code != best.code or s.name != best.name]
    before = best.rate_before or 0.0
    if left > _LEFT or left > before / 2 or any(rate < 2 * left for rate in others if left):
        return None
    return best if left or not others or min(others) > 0 else None


def _orders(
    dump: Side, reference: Side, here_N: Ints, tokens: int
) -> Iterator[tuple[str, str, Ints]]:
    """(code, name, source positions) of every order that is tried."""
    for lag in _LAGS:
        yield "R701", _lag_name(lag), here_N + lag
    voted = _voted_lag(dump, reference, here_N)
    if voted is not None and abs(voted) > max(_LAGS):
        yield "R707", f"padding side: {_lag_name(voted)}", here_N + voted
    for cp, size in itertools.product(_CP_SIZES, (tokens, tokens - 1)):  # a row for each, or not
        for name, order_T in _cp_orders(size, cp):
            inside = here_N < len(order_T)
            yield "R708", name, np.where(inside, order_T[np.where(inside, here_N, 0)], -1)


def _lag_name(lag: int) -> str:
    """A shift in words: the rows of the token so many positions later or earlier."""
    size = _WORDS[abs(lag)] if abs(lag) in _LAGS else abs(lag)
    unit = "position" if abs(lag) == 1 else "positions"
    return f"rows of the token {size} {unit} {'later' if lag > 0 else 'earlier'}"


def _voted_lag(dump: Side, reference: Side, here_N: Ints) -> int | None:
    """The shift that most rows ask for, by where in the reference their set is found."""
    layers = dump.hash_TL.shape[1]
    ours_NL, there_NL = dump.at(here_N)
    lags = []
    for column in np.unique(np.linspace(0, layers - 1, min(layers, _VOTING_LAYERS)).astype(int)):
        theirs_T = reference.hash_TL[:, column]
        order = np.argsort(theirs_T, kind="stable")
        place_N = np.searchsorted(theirs_T[order], ours_NL[:, column])
        place_N = order[np.minimum(place_N, len(order) - 1)]
        hit_N = (theirs_T[place_N] == ours_NL[:, column]) & there_NL[:, column]
        lags.append((place_N + reference.start - here_N)[hit_N])
    values, counts = np.unique(np.concatenate(lags), return_counts=True)
    if not len(counts) or counts.max() < _LEAST_VOTES:
        return None
    return int(values[counts.argmax()])


def _cp_orders(tokens: int, cp: int) -> list[tuple[str, Ints]]:
    """Orders of N tokens that a missing or a wrong undoing of the CP split leaves."""
    found: list[tuple[str, Ints]] = []
    with contextlib.suppress(ValueError):
        packing = Packing([tokens], framework="verl", cp=cp)
        padded = np.concatenate([packing.local_rows(rank)[:, 1] for rank in range(cp)])
        plain = padded[padded >= 0]
        undone = np.argsort(plain, kind="stable")
        size = f"{_WORDS[cp]} context-parallel ranks"
        found.append((f"zigzag order of {size}", plain))
        if len(padded) > len(plain):
            found.append((f"zigzag order of {size}, padding kept", padded))
        if (undone != plain).any():
            found.append((f"zigzag of {size} undone where there was none", undone))
    return found
