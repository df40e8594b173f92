"""How a rate is spread over many samples: its quantiles, in bounded memory.

Up to EXACT samples every rate is kept. Of more, bins are counted that are as wide as 1/128 of the
octave they are in, as in an HDR histogram: a quantile is then within QUANTILE_ERROR of the true
one, relatively. 0, the mean and the greatest stay exact. Shape suffixes: X rates, B bins.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .exact import ExactSums

__all__ = ["EXACT", "QUANTILE_ERROR", "Spread"]

Ints = NDArray[np.int64]
EXACT = 1024
_PER_OCTAVE = 128
_OCTAVES = 40  # the least bin takes what is below 2**-40
_BINS = _PER_OCTAVE * _OCTAVES + 2  # of 0; by size; of 1
QUANTILE_ERROR = 1 / (2 * _PER_OCTAVE)


def _bins(rates_X: NDArray[np.float64]) -> Ints:
    """The bin of each rate."""
    share, exponent = np.frexp(rates_X)  # rate = share * 2**exponent, share in [0.5, 1)
    of_octave = ((share - 0.5) * (2 * _PER_OCTAVE)).astype(np.int64)
    octave = np.maximum(exponent + _OCTAVES - 1, 0)
    low = exponent + _OCTAVES - 1 < 0
    return np.where(rates_X == 0, 0, np.where(low, 1, 1 + octave * _PER_OCTAVE + of_octave))


def _middle(index: int) -> float:
    """What stands for a rate of a bin."""
    if index in (0, _BINS - 1):
        return float(index > 0)
    octave, step = divmod(index - 1, _PER_OCTAVE)
    return float(np.ldexp(0.5 + (step + 0.5) / (2 * _PER_OCTAVE), octave - _OCTAVES + 1))


@dataclass(slots=True, eq=False)
class Spread:
    """The distribution of a rate, 0..1, over samples.

    total     the sum of the rates, exact
    greatest  the greatest rate, None where there is none
    bins_B    int64, rates by bin
    kept      float64 [count], all rates, ascending, as long as there are at most EXACT; else None
    """

    total: ExactSums = field(default_factory=lambda: ExactSums.zeros(1))
    greatest: float | None = None
    bins_B: Ints = field(default_factory=lambda: np.zeros(_BINS, np.int64))
    kept: NDArray[np.float64] | None = field(default_factory=lambda: np.zeros(0))

    def add(self, rates_X: ArrayLike) -> None:
        """Count more rates, in place. Raises ValueError for one outside 0..1."""
        rates = np.asarray(rates_X, np.float64)
        if not len(rates):
            return
        if not ((rates >= 0) & (rates <= 1)).all():
            raise ValueError("a rate must be in 0..1")
        self.total.add(rates, np.zeros(len(rates), np.int64))
        self.greatest = max(float(rates.max()), self.greatest or 0.0)
        self.bins_B += np.bincount(_bins(rates), minlength=_BINS)
        self.kept = _joined(self.kept, rates)

    def __add__(self, other: "Spread") -> "Spread":
        known = [side.greatest for side in (self, other) if side.greatest is not None]
        return Spread(
            self.total + other.total,
            max(known, default=None),
            self.bins_B + other.bins_B,
            None if other.kept is None else _joined(self.kept, other.kept),
        )

    @property
    def count(self) -> int:
        """How many rates there are."""
        return int(self.bins_B.sum())

    @property
    def above_zero(self) -> int:
        """How many of them are not 0."""
        return self.count - int(self.bins_B[0])

    @property
    def mean(self) -> float | None:
        """The mean rate; None where there is none."""
        return self.total[0] / self.count if self.count else None

    @property
    def error(self) -> float:
        """By how much a quantile may be off, relatively."""
        return QUANTILE_ERROR if self.kept is None else 0.0

    def quantile(self, q: float) -> float | None:
        """The rate that a share ``q`` of the samples does not exceed; None where there is none.

        Interpolated while every rate is kept; else the nearest rank's bin.
        """
        if self.greatest is None:
            return None
        if self.kept is not None:
            return float(np.quantile(self.kept, q))
        wanted = max(1, int(np.ceil(q * self.count)))
        middle = _middle(int(np.searchsorted(np.cumsum(self.bins_B), wanted)))
        return min(middle, self.greatest)


def _joined(
    kept: NDArray[np.float64] | None, more: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    """Rates in order, None where they are too many to keep."""
    if kept is None or len(kept) + len(more) > EXACT:
        return None
    return np.sort(np.concatenate([kept, more]))
