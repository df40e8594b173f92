"""Rows that differ where they are, kept until all samples are seen.

Shape suffixes: N tokens, C columns, L compared layers, K top_k.
"""

from dataclasses import dataclass

import numpy as np

from ....routes import Bools
from .models import RowBlock
from .side import Ints, Side, differing

__all__ = ["KeptRuns", "PairedSides", "Pending", "blocks_of", "runs_of"]

_BLOCK = 32  # tokens of a block


@dataclass(frozen=True, slots=True, eq=False)
class PairedSides:
    """A sample's compared layers, of the dump and of the reference."""

    ours: Side
    theirs: Side

    def compared(self, positions_N: Ints, columns: Ints) -> tuple[Bools, Bools]:
        """(differs, both there) [N, C] of some rows in place."""
        wrong, both = differing(self.ours, self.theirs, positions_N, positions_N)
        return wrong[:, columns], both[:, columns]


@dataclass(frozen=True, slots=True, eq=False)
class Pending:
    """Rows of one sample that no order of rows explains, by position.

    wrong and rows count those that differ and those that both sides have, in the columns; margins
    says of how many that differ the margin is known, and of how many it is not small.
    """

    index: int
    name: str
    columns: tuple[int, ...]
    positions: Ints
    wrong: int
    rows: int
    margins: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class KeptRuns:
    """The same as it is kept: runs of positions, in a sample's span of compared ones.

    counts are rows that differ, and rows.
    """

    index: int
    name: str
    columns: tuple[int, ...]
    span: tuple[int, int]
    runs: tuple[tuple[int, int], ...]
    counts: tuple[int, int]
    margins: tuple[int, int]

    @property
    def place(self) -> tuple[int, int, int, int]:
        """What they are ordered by."""
        return self.index, -len(self.columns), self.columns[0], self.runs[0][0]

    def pending(self) -> Pending:
        """The rows, to be judged."""
        positions = np.concatenate([np.arange(first, end) for first, end in self.runs])
        return Pending(self.index, self.name, self.columns, positions, *self.counts, self.margins)


def runs_of(positions: Ints) -> list[tuple[int, int]]:
    """Runs of adjacent positions, ascending: (first, after the last)."""
    cuts = np.flatnonzero(np.diff(positions) != 1) + 1
    return [(int(p[0]), int(p[-1]) + 1) for p in np.split(positions, cuts)]


def blocks_of(pending: Pending, sides: PairedSides, lag: int = 0) -> list[RowBlock]:
    """A pending run in blocks, against the reference's rows ``lag`` positions before."""
    found = []
    columns = np.array(pending.columns)
    for first in range(0, len(pending.positions), _BLOCK):
        here = pending.positions[first : first + _BLOCK]
        ours_N, inside_N = sides.ours.rows_at(here)
        theirs_N, also_N = sides.theirs.rows_at(here - lag)
        both = sides.ours.there_TL[ours_N] & sides.theirs.there_TL[theirs_N]
        both &= (inside_N & also_N)[:, None]
        found.append(
            RowBlock(
                int(here[0]),
                np.ascontiguousarray(sides.ours.ids_TLK[ours_N][:, columns]),
                sides.theirs.ids_TLK[theirs_N],
                np.ascontiguousarray(both[:, columns]),
            )
        )
    return found
