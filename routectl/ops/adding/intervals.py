"""Intervals of rates whose rows come in clusters: the bootstrap draws whole sequences, not rows.

Shape suffixes: C clusters, M columns, B bootstrap replicates.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from .fewest import FEWEST

__all__ = ["Bootstrap", "Interval", "interval_of", "rate_intervals", "resample", "tail_share"]

Floats = NDArray[np.float64]
_CHUNK = 1 << 19  # weights held at a time: what fits in a cache
_KNOWN = 64  # shares that are kept


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """How intervals are made: their level, the replicates drawn, and the seed of the draws.

    Raises ValueError for a level outside 0..1 or fewer than 100 replicates.
    """

    level: float = 0.95
    replicates: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ValueError(f"level must be between 0 and 1, got {self.level}")
        if self.replicates < 100:
            raise ValueError(f"replicates must be at least 100, got {self.replicates}")


@dataclass(frozen=True, slots=True)
class Interval:
    """Where a figure lies with a confidence of ``level``, as far as other sequences may tell."""

    low: float
    high: float
    level: float


def _within(t: float, freedom: int) -> float:
    """P(|T| < t) of Student's t, exactly: Abramowitz and Stegun 26.7.3 and 26.7.4."""
    angle = np.arctan(t / np.sqrt(freedom))
    sine, cosine = np.sin(angle), np.cos(angle)
    odd = freedom % 2
    k = np.arange(1, (freedom - 1) // 2 if odd else freedom // 2)
    ratios = 2 * k / (2 * k + 1) if odd else (2 * k - 1) / (2 * k)
    terms = 1 + np.cumprod(ratios * cosine**2).sum() if freedom > 1 else 0.0
    if odd:
        return float(2 / np.pi * (angle + sine * cosine * terms))
    return float(sine * terms)


def _t_quantile(share: float, freedom: int) -> float:
    """The t that |T| stays under with probability ``share``, by bisection."""
    low, high = 0.0, 1.0
    while _within(high, freedom) < share:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < share else (low, middle)
    return high


@lru_cache(_KNOWN)  # a figure in each layer has its own interval, and all of them one share
def tail_share(clusters: int, level: float) -> float:
    """The share of replicates to cut off at each end, for n clusters.

    Plain percentile intervals are too short for few clusters: they divide by n where n - 1 is
    due, and take the normal's quantile for Student's. The expanded share,
    Phi(-sqrt(n / (n - 1)) t_{n-1}), undoes both: T. Hesterberg, What Teachers Should Know About
    the Bootstrap (The American Statistician 69, 2015; arXiv 1411.5279), section 5.3.
    """
    t = _t_quantile(level, clusters - 1)
    return NormalDist().cdf(-float(np.sqrt(clusters / (clusters - 1))) * t)


def _draw_weights(clusters: int, plan: Bootstrap) -> Iterator[Floats]:
    """How often each replicate draws each cluster, float64 [b, C], some replicates at a time."""
    rng = np.random.default_rng(plan.seed)
    step = max(1, _CHUNK // clusters)
    for done in range(0, plan.replicates, step):
        size = min(step, plan.replicates - done)
        picked = rng.integers(0, clusters, (size, clusters))
        picked += np.arange(size)[:, None] * clusters
        counts = np.bincount(picked.ravel(), minlength=size * clusters)
        yield counts.reshape(size, clusters).astype(np.float64)


def interval_of(values_B: Floats, clusters: int, level: float) -> Interval | None:
    """The interval that replicates of one figure give; nan, a figure that is not there, left out.

    None of fewer than FEWEST clusters, whose draws do not reach as far as the truth may lie, or
    where no two replicates differ: then the data say nothing about what other sequences would give
    (a rate of exactly 0 is not known to be 0).
    """
    known = values_B[np.isfinite(values_B)]
    if clusters < FEWEST or not len(known) or known.min() == known.max():
        return None
    tail = tail_share(clusters, level)
    with np.errstate(over="ignore", invalid="ignore"):  # of figures near the end of float64
        low, high = np.quantile(known, [tail, 1 - tail])
    if not np.isfinite([low, high]).all():
        return None
    return Interval(float(low), float(high), level)


def resample(sums_CM: NDArray[np.number], plan: Bootstrap) -> Floats:
    """The column sums of each replicate, float64 [B, M]: C clusters drawn with replacement.

    Every call with one plan and one C makes the same draws, so columns may come apart.
    """
    columns_CM = sums_CM.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # an infinite sum, not drawn, is nan
        drawn = [weights @ columns_CM for weights in _draw_weights(len(columns_CM), plan)]
    return np.concatenate(drawn)


def rate_intervals(
    parts_CM: NDArray[np.number], wholes_CM: NDArray[np.number], plan: Bootstrap
) -> list[Interval | None]:
    """An interval for each of M rates, sum of parts / sum of wholes, over C clusters.

    None as in interval_of, or where the whole is 0.
    """
    clusters, columns = parts_CM.shape
    if clusters < FEWEST:
        return [None] * columns
    sums_BM = resample(np.concatenate([parts_CM, wholes_CM], axis=1), plan)
    with np.errstate(divide="ignore", invalid="ignore"):
        rates_BM = sums_BM[:, :columns] / sums_BM[:, columns:]
    return [interval_of(rates_BM[:, m], clusters, plan.level) for m in range(columns)]
