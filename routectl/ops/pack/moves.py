"""Whose rows a rank's tensors do hold, where they are not its own.

Shape suffixes: R rows of a rank, K top_k.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .truth import Truth

__all__ = ["AXES", "Candidate", "Move", "moves_of", "owner_of"]

AXES = ("mb", "dp", "cp", "tp", "pp")
Place = tuple[int, ...]  # by AXES; without pp where rows are looked at, which are those of any
_FIRST_ROWS = 256  # looked at before all of them
_MIN_RATE = 0.9  # of a rank's rows, for tensors to be called another rank's


@dataclass(frozen=True, slots=True)
class Move:
    """What some files are of, and whose rows they hold: axes that differ, as (name, own, other)."""

    axes: tuple[tuple[str, int, int], ...]
    files: int


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """What a rank should hold of a micro-batch: (sample, position) of each row, and the routes."""

    table_R2: NDArray[np.int64]
    truth: Truth

    def equal(self, sorted_RK: NDArray[Any]) -> int:
        """Rows that hold their route, where they are nine tenths of those that should; else 0."""
        equal = 0
        for rows in (_FIRST_ROWS, len(sorted_RK)):
            equal, real = self.truth.rate(self.table_R2[:rows], sorted_RK[:rows], 0)
            if equal < _MIN_RATE * real:
                return 0
        return equal


def owner_of(
    ids_RK: NDArray[Any],
    own: Place,
    sizes: Mapping[Place, int],
    candidate: Callable[[Place], Candidate],
) -> Place | None:
    """The place whose rows the tensor holds, by most of them; None when it is nobody's.

    sizes are the rows of each place. Of places with equally many, the nearest to its own is taken:
    unlike in one axis alone.
    """
    ids = np.sort(ids_RK, axis=1)

    def distance(place: Place) -> tuple[int, int]:
        apart = [abs(a - b) for a, b in zip(own, place, strict=True)]
        return sum(map(bool, apart)), sum(apart)

    most, found = 0, None
    for place in sorted((p for p, rows in sizes.items() if rows == len(ids)), key=distance):
        equal = candidate(place).equal(ids)
        if equal > most:
            most, found = equal, place
    return found


def moves_of(owners: Iterable[tuple[Place, Place]]) -> tuple[Move, ...]:
    """Files of the same kind of move as one; pairs are (a file's place, whose rows it holds)."""
    counts: Counter[tuple[tuple[str, int, int], ...]] = Counter()
    for own, other in owners:
        pairs = zip(AXES, own, other, strict=True)
        counts[tuple((axis, a, b) for axis, a, b in pairs if a != b)] += 1
    return tuple(Move(axes, files) for axes, files in sorted(counts.items()))
