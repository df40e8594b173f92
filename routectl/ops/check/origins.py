"""Whose rows a sample holds: another sample's, or first rows of other weights.

Shape suffixes: T tokens, N some, L layers.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ...kernels.check import Hashes
from .orders import Side
from .results import Book, Place
from .token_runs import TokenRuns

__all__ = ["Prefixes", "Sketches"]

_FLOOR = 0.002  # mismatch that is never taken for too much
_TIMES = (3.0, 6.0)  # how much more the prefix may differ than the rest
_EVIDENCE = 30.0  # nats
_MOST = 0.6  # of a prefix; runs beyond that are looked for elsewhere
_STEP = 4  # of the positions that a sketch keeps
_POSITIONS = 256
_LEAST = 3
_SAME = 0.5  # share of a sketch's rows that are another sample's
Counts = NDArray[np.int64]


@dataclass(slots=True)
class Prefixes:
    """Compared and mismatched rows of each token, of the samples without a run of their own."""

    samples: list[tuple[Place, Counts, Counts]] = field(default_factory=list)

    def add(self, place: Place, wrong_T: Counts, rows_T: Counts) -> None:
        """Keep one sample's counts by token, as bytes where they fit."""
        self.samples.append((place, wrong_T.astype(np.int16), rows_T.astype(np.int16)))

    def judge(self, book: Book) -> int:
        """Name samples whose first rows differ far more than is usual; how many rows that are."""
        rates = [wrong.sum() / rows.sum() for _, wrong, rows in self.samples if rows.any()]
        if not rates:
            return 0
        usual = max(float(np.median(rates)), _FLOOR)
        explained = 0
        for place, wrong_T, rows_T in self.samples:
            end, evidence = _best_prefix(wrong_T.astype(np.int64), rows_T.astype(np.int64), usual)
            if evidence < _EVIDENCE:
                continue
            wrong = int(wrong_T[:end].sum())
            whole = "all of the sample" if end > 0.95 * len(wrong_T) else ""
            book.add("R709", place, rows=wrong, detail=whole)
            explained += wrong
        return explained


def _best_prefix(wrong_T: Counts, rows_T: Counts, usual: float) -> tuple[int, float]:
    """The length of the prefix that a higher rate explains best, and by how many nats."""
    best = (0, 0.0)
    for times in _TIMES:
        rate = min(times * usual, _MOST)
        if rate < 2 * usual:
            continue
        gain_T = wrong_T * np.log(rate / usual)
        gain_T = gain_T + (rows_T - wrong_T) * np.log((1 - rate) / (1 - usual))
        total_T = np.cumsum(gain_T)
        end = int(total_T.argmax())
        if total_T[end] > best[1]:
            best = end + 1, float(total_T[end])
    return best


def _sketch(side: Side) -> Hashes:
    """The rows of two layers at every fourth position, 0 where there is none."""
    positions = np.arange(0, _STEP * _POSITIONS, _STEP)
    columns = sorted({0, side.hash_TL.shape[1] // 2})
    hashes, there = side.at(positions)
    return np.where(there, hashes, 0)[:, columns]


@dataclass(slots=True)
class Sketches:
    """A few rows of every sample of the reference, and of the dump's that are not explained."""

    known: dict[str, Hashes] = field(default_factory=dict)
    asked: dict[int, tuple[str, Hashes]] = field(default_factory=dict)

    def know(self, name: str, side: Side) -> None:
        """Keep a sample of the reference."""
        self.known[name] = _sketch(side)

    def ask(self, run: int, name: str, side: Side, first: int, end: int) -> None:
        """Ask whose rows a pending run of the dump's sample are, by its index."""
        rows = _sketch(side)
        positions = np.arange(len(rows)) * _STEP
        self.asked[run] = (
            name,
            np.where(((positions >= first) & (positions < end))[:, None], rows, 0),
        )

    def judge(self, pending: TokenRuns, book: Book) -> int:
        """Name the runs that are another sample's, take them out, and count their rows."""
        names = list(self.known)
        if len(names) < 2 or not self.asked:
            return 0
        known = np.stack([self.known[name] for name in names])
        swapped = set()
        for run, (name, rows) in self.asked.items():
            there = rows != 0
            if there.any(axis=1).sum() < _LEAST:
                continue
            same_B = ((known == rows) & there).sum(axis=(1, 2)) / there.sum()
            best = int(same_B.argmax())
            if same_B[best] >= _SAME and names[best] != name:
                found = pending.runs[run]
                book.add("R710", found.place, rows=found.wrong)
                swapped.add(run)
        explained = sum(pending.runs[i].wrong for i in swapped)
        pending.runs = [run for i, run in enumerate(pending.runs) if i not in swapped]
        pending.kept = sum(len(run.dump_NLK) for run in pending.runs)
        return explained
