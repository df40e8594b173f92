"""Sums of float64 without rounding: whatever the order, one value, rounded once when it is read.

A sum is kept as a wide integer in limbs of 32 bits, as in a long accumulator (U. Kulisch, Computer
Arithmetic and Validity, 2013); only limbs that values reached are there. Shape suffixes: N sums,
X values, W limbs.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["ExactSums"]

Ints = NDArray[np.int64]
_BITS = 32  # of a limb
_LOW = (1 << _BITS) - 1
_UNIT = 1074  # of limb 0: 2**-1074, the least float64
_ROOM = 4  # limbs that a value and its carry take
_KINDS = 3  # not finite: inf, -inf, nan
_MOST = 1 << 20  # values at a time, between two carries


@dataclass(slots=True, eq=False)
class ExactSums:
    """N sums of float64; those of parts add up to those of the whole, bit for bit.

    A sum with nan, or with both infinities, is nan; with one of them, that.

    first       limb 0 counts units of 2**(32 * first - 1074)
    limbs_NW    int64, in 0..2**32 - 1 but for the last, which has the sign
    special_N3  int64, how many were inf, -inf, nan
    """

    first: int
    limbs_NW: Ints
    special_N3: Ints

    @classmethod
    def zeros(cls, count: int) -> "ExactSums":
        """N sums of nothing."""
        return cls(0, np.zeros((count, 0), np.int64), np.zeros((count, _KINDS), np.int64))

    def __len__(self) -> int:
        return len(self.limbs_NW)

    def add(self, values_X: ArrayLike, rows_X: ArrayLike | None = None) -> None:
        """Add values to the sums of their rows, in place; without rows, value n to sum n."""
        values = np.ascontiguousarray(values_X, np.float64)
        rows = np.arange(len(values)) if rows_X is None else np.asarray(rows_X, np.int64)
        known = np.isfinite(values)
        if not known.all():
            odd = values[~known]
            kinds = np.where(np.isnan(odd), 2, np.where(odd > 0, 0, 1))
            np.add.at(self.special_N3, (rows[~known], kinds), 1)
        known &= values != 0
        values, rows = values[known], rows[known]
        for begin in range(0, len(values), _MOST):
            self._add(values[begin : begin + _MOST], rows[begin : begin + _MOST])

    def _add(self, values_X: NDArray[np.float64], rows_X: Ints) -> None:
        bits = values_X.view(np.int64)
        shifts = np.maximum((bits >> 52) & 0x7FF, 1) - 1
        self._reach(int(shifts.min()) // _BITS, int(shifts.max()) // _BITS + _ROOM)
        hidden = (bits & 0x7FF << 52 != 0).astype(np.int64) << 52  # a subnormal has no leading 1
        mantissas, by = bits & (1 << 52) - 1 | hidden, shifts % _BITS
        lower, upper = (mantissas & _LOW) << by, (mantissas >> _BITS) << by
        signs, flat = np.where(bits < 0, -1, 1), self.limbs_NW.reshape(-1)
        at = rows_X * self.limbs_NW.shape[1] + shifts // _BITS - self.first
        np.add.at(flat, at, signs * (lower & _LOW))
        np.add.at(flat, at + 1, signs * ((lower >> _BITS) + (upper & _LOW)))
        np.add.at(flat, at + 2, signs * (upper >> _BITS))
        _carry(self.limbs_NW)

    def _reach(self, begin: int, end: int) -> None:
        """Make the limbs from begin up to end be there."""
        count, width = self.limbs_NW.shape
        if not width:
            self.first, self.limbs_NW = begin, np.zeros((count, end - begin), np.int64)
            return
        first, last = min(begin, self.first), max(end, self.first + width)
        if (first, last - first) != (self.first, width):
            limbs = np.zeros((count, last - first), np.int64)
            limbs[:, self.first - first : self.first - first + width] = self.limbs_NW
            _carry(limbs)
            self.first, self.limbs_NW = first, limbs

    def copy(self) -> "ExactSums":
        """The same sums, apart."""
        return ExactSums(self.first, self.limbs_NW.copy(), self.special_N3.copy())

    def __add__(self, other: "ExactSums") -> "ExactSums":
        if len(self) != len(other):
            raise ValueError(f"{len(self)} sums and {len(other)} do not add up")
        found = self.copy()
        found.special_N3 += other.special_N3
        width = other.limbs_NW.shape[1]
        if width:
            found._reach(other.first, other.first + width + 1)  # and what is carried
            at = other.first - found.first
            found.limbs_NW[:, at : at + width] += other.limbs_NW
            _carry(found.limbs_NW)
        return found

    @property
    def values_N(self) -> NDArray[np.float64]:  # noqa: N802
        """float64 [N], each sum rounded once, to the nearest."""
        return np.array([self[n] for n in range(len(self))], np.float64)

    def __getitem__(self, n: int) -> float:
        """One sum."""
        plus, minus, nan = self.special_N3[n].tolist()
        if plus or minus or nan:
            return math.nan if nan or (plus and minus) else math.inf if plus else -math.inf
        total = 0
        for limb in reversed(self.limbs_NW[n].tolist()):
            total = (total << _BITS) + limb
        try:
            return (total << _BITS * self.first) / (1 << _UNIT)  # integers: rounded correctly
        except OverflowError:
            return math.inf if total > 0 else -math.inf


def _carry(limbs_NW: Ints) -> None:
    """Bring every limb but the last, which has the sign, into 0..2**32 - 1, in place."""
    for w in range(limbs_NW.shape[1] - 1):
        limbs_NW[:, w + 1] += limbs_NW[:, w] >> _BITS
        limbs_NW[:, w] &= _LOW
