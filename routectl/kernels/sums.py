"""The loops of exact sums: floats taken apart into limbs of a wide integer.

Shape suffixes: X values, N sums, W limbs.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["LIMB_BITS", "add_floats", "carry"]

LIMB_BITS = 32
Ints = NDArray[np.int64]


@njit(nogil=True, cache=True)
def _add(limbs, first, rows, bits):  # type: ignore[no-untyped-def]
    low = (1 << 32) - 1
    for x in range(len(bits)):
        raw = bits[x]
        exponent = (raw >> 52) & 0x7FF
        mantissa = raw & ((1 << 52) - 1)
        if exponent:
            mantissa |= 1 << 52
        else:
            exponent = 1  # a subnormal counts in the same units
        shift = exponent - 1
        at, by = (shift >> 5) - first, shift & 31
        lower, upper = (mantissa & low) << by, (mantissa >> 32) << by
        sign = -1 if raw < 0 else 1
        row = limbs[rows[x]]
        row[at] += sign * (lower & low)
        row[at + 1] += sign * ((lower >> 32) + (upper & low))
        row[at + 2] += sign * (upper >> 32)


@njit(nogil=True, cache=True)
def _carry(limbs):  # type: ignore[no-untyped-def]
    low = (1 << 32) - 1
    for n in range(limbs.shape[0]):
        more = 0
        for w in range(limbs.shape[1] - 1):
            value = limbs[n, w] + more
            limbs[n, w] = value & low
            more = value >> 32
        limbs[n, limbs.shape[1] - 1] += more


def add_floats(limbs_NW: Ints, first: int, rows_X: Ints, bits_X: Ints) -> None:
    """Add finite float64s, given as their bits, each to the limbs of its row, in place.

    Limb w of a row, int64, counts units of 2**(32 * (first + w) - 1074); the three limbs from a
    value's lowest bit on must be there. At most 2**29 values before limbs are carried.
    """
    _add(limbs_NW, first, rows_X, bits_X)


def carry(limbs_NW: Ints) -> None:
    """Bring every limb but the last, which has the sign, into 0..2**32 - 1, in place."""
    _carry(limbs_NW)
