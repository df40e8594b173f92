"""Pieces of a stream of packed samples, and the runs of tokens that they hold.

A piece is (first place in the stream, number of places); a rank's rows are its pieces in order.
Shape suffixes: B samples.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Run", "bshd_runs", "cut", "thd_runs", "zigzag"]

Piece = tuple[int, int]


class Run(NamedTuple):
    """Rows ``row``, ``row + step``, ... hold ``size`` positions of a sample from ``position``."""

    row: int
    step: int
    sample: int
    position: int
    size: int

    @property
    def rows(self) -> slice:
        """The rows, as a slice of a tensor's first axis."""
        return slice(self.row, self.row + self.step * self.size, self.step)

    def within(self, start: int, stop: int) -> "Run | None":
        """The part whose positions are in [start, stop); None when none is."""
        lo, hi = max(self.position, start), min(self.position + self.size, stop)
        if lo >= hi:
            return None
        return Run(self.row + self.step * (lo - self.position), self.step, self.sample, lo, hi - lo)


def zigzag(sequences: Iterable[tuple[int, int]], cp: int, rank: int) -> list[Piece]:
    """The rank-th and the rank-th last of 2 cp equal pieces of each sequence [start, end)."""
    pieces = []
    for start, end in sequences:
        size = (end - start) // (2 * cp)
        pieces += [(start + rank * size, size), (end - (rank + 1) * size, size)]
    return pieces


def cut(pieces: Sequence[Piece], begin: int, rows: int) -> list[Piece]:
    """Rows ``begin`` up to ``begin + rows`` of what the pieces spell."""
    held, row = [], 0
    for start, count in pieces:
        lo, hi = max(begin - row, 0), min(begin + rows - row, count)
        if lo < hi:
            held.append((start + lo, hi - lo))
        row += count
    return held or [(0, 0)]


def thd_runs(
    pieces: Sequence[Piece], starts_B: NDArray[np.int64], rows: Sequence[int]
) -> list[Run]:
    """The runs of samples laid end to end: sample i has rows[i] tokens from place starts_B[i]."""
    starts = starts_B.tolist()
    runs, row = [], 0
    for begin, count in pieces:
        sample = bisect_right(starts, begin) - 1
        while sample < len(rows) and starts[sample] < begin + count:
            first = max(begin, starts[sample])
            end = min(begin + count, starts[sample] + rows[sample])
            if first < end:
                at = first - starts[sample]
                runs.append(Run(row + first - begin, 1, sample, at, end - first))
            sample += 1
        row += count
    return runs


def bshd_runs(pieces: Sequence[Piece], rows: Sequence[int], *, s_major: bool) -> list[Run]:
    """The runs of padded samples: in the stream, place s * B + b is position s of sample b.

    Rows are as in the stream, or sample by sample when not ``s_major``.
    """
    size = max(len(rows), 1)
    local = sum(count for _, count in pieces) // size
    runs, at = [], 0
    for begin, count in pieces:
        position, positions = begin // size, count // size
        for b, tokens in enumerate(rows):
            there = min(positions, tokens - position)
            if there > 0:
                row, step = (at * size + b, size) if s_major else (b * local + at, 1)
                runs.append(Run(row, step, b, position, there))
        at += positions
    return runs
