"""What is wrong in one layer of a rank's file: how many rows, and whether they are a neighbour's.

Shape suffixes: R rows of a run, K top_k.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...routes import Bools

__all__ = ["SHIFTS", "WrongLayer"]

Ids = NDArray[Any]
SHIFTS = (1, -1, 2, -2)  # that are told: rows of the token so many positions later


def _none() -> dict[int, int]:
    return dict.fromkeys(SHIFTS, 0)


@dataclass(slots=True)
class WrongLayer:
    """Counts over the rows of one layer in one file; those of shards add up.

    rows     rows that are a route of the dump; wrong: of these, with other experts
    beside   by shift, wrong rows whose token has a neighbour that many positions later in its run
    shifted  of these, rows that hold the neighbour's experts
    """

    rows: int = 0
    wrong: int = 0
    beside: dict[int, int] = field(default_factory=_none)
    shifted: dict[int, int] = field(default_factory=_none)

    @property
    def shift(self) -> int | None:
        """The shift that explains them: most wrong rows hold that neighbour's experts, all do that
        have one. None where no shift does.
        """
        for by in SHIFTS:
            if self.shifted[by] == self.beside[by] and 2 * self.shifted[by] > self.wrong:
                return by
        return None

    def __add__(self, other: "WrongLayer") -> "WrongLayer":
        return WrongLayer(
            self.rows + other.rows,
            self.wrong + other.wrong,
            {by: self.beside[by] + other.beside[by] for by in SHIFTS},
            {by: self.shifted[by] + other.shifted[by] for by in SHIFTS},
        )

    def add(self, got_RK: Ids, expected_RK: Ids, positions_R: Ids, wrong_R: Bools) -> None:
        """Count the rows of one run, of ascending positions, that are not as expected."""
        at = np.flatnonzero(wrong_R)
        self.wrong += len(at)
        got_RK, expected_RK = np.sort(got_RK, axis=1), np.sort(expected_RK, axis=1)
        for by in SHIFTS:
            own = at[(at + by >= 0) & (at + by < len(wrong_R))]
            own = own[positions_R[own + by] == positions_R[own] + by]
            self.beside[by] += len(own)
            self.shifted[by] += int((got_RK[own] == expected_RK[own + by]).all(axis=1).sum())
