"""Margins as float16: how close each row was to selecting another expert, or another group.

A boundary margin is the k-th minus the (k+1)-th selection score of a row, a group margin the same
between kept and dropped groups, both in units of that score (docs/metrics.md). The bit pattern of a
float16 that is not negative, read as an integer, orders as the value does: 0 is a tie, 0x7C00
infinity, what is beyond it NaN.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "EPS",
    "MARGIN_EDGES",
    "PATTERNS",
    "Margins",
    "least_margins",
    "margins_to_float16",
    "pattern_of",
]

Margins = NDArray[np.float16]
EPS = 1e-3  # the default of what a near-tie is; docs/metrics.md has the reason
PATTERNS = 0x7C01  # bit patterns of known margins: 0 to infinity
MARGIN_EDGES = (0, 1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1)


def margins_to_float16(margins: NDArray[np.floating[Any]]) -> Margins:
    """Each margin as the nearest float16 that is not below it.

    Rounded outward like this, a stored margin <= eps says that the true one is: no row is ever
    called nearer to a tie than it was. Exactly 0 stays 0 and nothing else becomes 0 (the least
    positive float16 is 2^-24, about 6e-8); beyond 65504 comes inf, which also stands for K = E,
    where there is no (k+1)-th score. NaN, a margin that is not known, stays NaN.

    Any shape; float16, float32 or float64. Raises ValueError for a negative margin, since the
    scores were not in order then.
    """
    if margins.dtype.kind != "f":
        raise ValueError(f"margins must be floats, got {margins.dtype}")
    if (margins < 0).any():
        raise ValueError(f"a margin is negative: {float(margins[margins < 0][0])}")
    with np.errstate(over="ignore"):
        nearest = np.abs(margins.astype(np.float16))  # -0 is 0; a NaN has no sign
    below = nearest.astype(margins.dtype) < margins
    return (nearest.view(np.uint16) + below).view(np.float16)  # the next pattern is the next value


def least_margins(a: Margins, b: Margins) -> Margins:
    """The smaller of two stored margins, element by element; where one is NaN, the other."""
    return np.minimum(a.view(np.uint16), b.view(np.uint16)).view(np.float16)


def pattern_of(eps: float) -> int:
    """The bit pattern of the greatest float16 <= eps: a margin is within eps up to this one.

    Raises ValueError when eps is negative or not finite.
    """
    if not 0 <= eps < np.inf:
        raise ValueError(f"eps must be finite and not negative, got {eps}")
    with np.errstate(over="ignore"):
        nearest = np.float16(eps)
    pattern = int(nearest.view(np.uint16))
    return pattern - 1 if float(nearest) > eps else pattern
