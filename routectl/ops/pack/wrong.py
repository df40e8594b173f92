"""What is wrong in one layer of a rank's file: how many rows, and whether they are a neighbour's,
another layer's, experts by other ids, or all alike.

Shape suffixes: R rows of a run, N rows looked at, L MoE layers, K top_k.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...routes import Bools, Routes

__all__ = ["SHIFTS", "WrongLayer"]

Ids = NDArray[Any]
Rows = tuple[tuple[int, ...], ...]
SHIFTS = (1, -1, 2, -2)  # that are told: rows of the token so many positions later
_LOOKED = 64  # wrong rows that are held against every layer
_OF_RUN = 16  # of these, of one run
_FEWEST = 8  # rows that may be called another layer's: fewer may be so by chance
_TOLD = 4  # slots by which each expert's other id is told, in the mean
_TWO = -2  # in place of an id: an expert has two of them
_ID = 1 << 20  # ids that are told apart


def _none() -> dict[int, int]:
    return dict.fromkeys(SHIFTS, 0)


def _both(one: dict[int, int], two: dict[int, int]) -> dict[int, int]:
    """Ids of experts by both; those that are two."""
    there = {n: one.get(n, two.get(n, _TWO)) for n in sorted({*one, *two})}
    return {n: held if two.get(n, held) == held else _TWO for n, held in there.items()}


def _first(one: Rows, two: Rows) -> Rows:
    return tuple(sorted({*one, *two})[:2])


def _sums(one: dict[int, int], two: dict[int, int]) -> dict[int, int]:
    return {n: one.get(n, 0) + two.get(n, 0) for n in sorted({*one, *two})}


@dataclass(slots=True)
class WrongLayer:
    """Counts over the rows of one layer in one file; those of shards add up.

    rows     rows that are a route of the dump; wrong: of these, with other experts
    beside   by shift, wrong rows whose token has a neighbour that many positions later in its run
    shifted  of these, rows that hold the neighbour's experts
    looked   by MoE layer of the dump, wrong rows that were held against its route of their token
    matched  of these, rows that hold its experts
    alike    what wrong rows hold, two of them where they are not all the same
    ids      of wrong rows, by the expert that belongs in a slot the id that is there, -2 for
             several; slots: so many were looked at
    """

    rows: int = 0
    wrong: int = 0
    beside: dict[int, int] = field(default_factory=_none)
    shifted: dict[int, int] = field(default_factory=_none)
    looked: dict[int, int] = field(default_factory=dict)
    matched: dict[int, int] = field(default_factory=dict)
    alike: Rows = ()
    ids: dict[int, int] = field(default_factory=dict)
    slots: int = 0

    @property
    def shift(self) -> int | None:
        """The shift that explains them: most wrong rows hold that neighbour's experts, all do that
        have one. None where no shift does.
        """
        for by in SHIFTS:
            if self.shifted[by] == self.beside[by] and 2 * self.shifted[by] > self.wrong:
                return by
        return None

    @property
    def holds(self) -> int | None:
        """The layer whose routes the rows are, where most are wrong: all that were looked at."""
        if 2 * self.wrong <= self.rows:
            return None
        most = max(self.looked.values(), default=0)
        for layer, looked in self.looked.items():
            if self.matched[layer] == looked >= max(_FEWEST, (most + 1) // 2):
                return layer
        return None

    @property
    def filled(self) -> tuple[int, ...] | None:
        """What every wrong row holds, where they are several and all hold the same."""
        return self.alike[0] if len(self.alike) == 1 and self.wrong >= _FEWEST else None

    @property
    def renamed(self) -> dict[int, int] | None:
        """The id of each expert, where most rows are wrong and slots have other ids one for one."""
        known = self.ids.values()
        if 2 * self.wrong <= self.rows or self.wrong < _FEWEST or _TWO in known:
            return None
        enough = self.slots >= _TOLD * len(self.ids) and len({*known}) == len(self.ids)
        return self.ids if enough else None

    def __add__(self, other: "WrongLayer") -> "WrongLayer":
        return WrongLayer(
            self.rows + other.rows,
            self.wrong + other.wrong,
            {by: self.beside[by] + other.beside[by] for by in SHIFTS},
            {by: self.shifted[by] + other.shifted[by] for by in SHIFTS},
            _sums(self.looked, other.looked),
            _sums(self.matched, other.matched),
            _first(self.alike, other.alike),
            _both(self.ids, other.ids),
            self.slots + other.slots,
        )

    def look(self, got_RK: Ids, held: Routes, rows_R: Ids, wrong_R: Bools) -> None:
        """Hold some wrong rows of a run against every layer of a sample; rows_R are its rows."""
        left = min(_OF_RUN, _LOOKED - max(self.looked.values(), default=0))
        at = np.flatnonzero(wrong_R)
        if left < 1:
            return
        at = at[:: -(-len(at) // left)]
        rows_N = rows_R[at]
        got_N1K = np.sort(got_RK[at], axis=1)[:, None]
        same_NL = (np.sort(held.ids_TLK[rows_N], axis=2) == got_N1K).all(axis=2)
        there_NL = np.ones_like(same_NL)
        if held.missing_TL is not None:
            there_NL = ~held.missing_TL[rows_N]
        looked_L, matched_L = there_NL.sum(axis=0), (same_NL & there_NL).sum(axis=0)
        layers = held.layers_L
        self.looked = _sums(self.looked, dict(zip(layers, looked_L.tolist(), strict=True)))
        self.matched = _sums(self.matched, dict(zip(layers, matched_L.tolist(), strict=True)))

    def add(self, got_RK: Ids, expected_RK: Ids, positions_R: Ids, wrong_R: Bools) -> None:
        """Count the rows of one run, of ascending positions, that are not as expected."""
        at = np.flatnonzero(wrong_R)
        self.wrong += len(at)
        if len(at):
            self._name(got_RK[at], expected_RK[at])
        got_RK, expected_RK = np.sort(got_RK, axis=1), np.sort(expected_RK, axis=1)
        for by in SHIFTS:
            own = at[(at + by >= 0) & (at + by < len(wrong_R))]
            own = own[positions_R[own + by] == positions_R[own] + by]
            self.beside[by] += len(own)
            self.shifted[by] += int((got_RK[own] == expected_RK[own + by]).all(axis=1).sum())

    def _name(self, got_NK: Ids, expected_NK: Ids) -> None:
        """Note what wrong rows hold, and the id in the slot of each expert, while it is one."""
        if len(self.alike) < 2:
            others = got_NK[(got_NK != got_NK[0]).any(axis=1)]
            rows = [tuple(row) for row in (*got_NK[:1].tolist(), *others[:1].tolist())]
            self.alike = _first(self.alike, tuple(rows))
        self.slots += got_NK.size
        if _TWO in self.ids.values():
            return
        there = np.clip(got_NK.astype(np.int64), -1, _ID - 2) + 1
        pairs = np.unique(expected_NK.astype(np.int64) * _ID + there)
        for expert, held in zip((pairs // _ID).tolist(), (pairs % _ID - 1).tolist(), strict=True):
            self.ids[expert] = held if self.ids.get(expert, held) == held else _TWO
