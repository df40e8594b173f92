"""How often intervals should cover the truth."""

from math import comb

import numpy as np

__all__ = ["covering"]


def covering(runs, rate, share=0.999):
    """The counts between which a Binomial(runs, rate) lies with probability ``share``."""
    masses = [comb(runs, n) * rate**n * (1 - rate) ** (runs - n) for n in range(runs + 1)]
    total = np.cumsum(masses)
    low, high = np.searchsorted(total, [(1 - share) / 2, (1 + share) / 2])
    return range(int(low), int(high) + 1)
