"""Whether samples begin with rows of other weights. Shape suffixes: T tokens."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .found import Book, Place

__all__ = ["Prefixes"]

_FLOOR = 0.002  # mismatch that is never taken for too much
_TIMES = (3.0, 6.0)  # how much more the prefix may differ than the rest
_EVIDENCE = 30.0  # nats
_MOST = 0.6  # of a prefix; runs beyond that are looked for elsewhere
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
