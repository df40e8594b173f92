"""A comparison and its intervals.

Shape suffixes: G buckets of clusters, C those that are not empty, X samples, L compared layers,
M columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..adding.fewest import FEWEST
from ..adding.intervals import Bootstrap, Interval, interval_of, rate_intervals, resample
from ..adding.least import Worst
from ..adding.resampled import Resampled
from ..diff.measures import rate
from ..diff.result import ComparedSample, DiffResult, SequenceCount

__all__ = [
    "BROKEN",
    "BROKEN_TOKENS",
    "ClusterSums",
    "Comparison",
    "ComparisonCounts",
    "RateIntervals",
    "gap_of",
    "intervals_of",
]

Ints = NDArray[np.int64]
_OTHERS = 5  # columns that are not by layer
BROKEN = 0.5  # row mismatch of a sample that no arithmetic makes
BROKEN_TOKENS = 4  # compared tokens of such a sample: of fewer, one early flip turns most rows


@dataclass(frozen=True, slots=True, eq=False)
class ClusterSums:
    """What intervals are made of, by bucket of clusters; sums of parts add up.

    sums    columns rows and rows mismatched; where there are ``layers``, of each, and then shared
            ids, tokens, mismatched tokens, scored tokens, tokens beyond tau; one float, k3
    """

    layers: int
    sums: Resampled

    @classmethod
    def empty(cls, layers: int = 0) -> "ClusterSums":
        """Of no sample; by layer where ``layers`` is not 0."""
        ints = 2 * layers + _OTHERS if layers else 2
        return cls(layers, Resampled.empty(ints, int(layers > 0)))

    def row(self, found: ComparedSample) -> tuple[Ints, float]:
        """The columns of one sample."""
        swaps_LS, scored = found.swaps_LS, found.logprobs
        rows_L, same_L = swaps_LS.sum(axis=1), swaps_LS[:, 0]
        if not self.layers:
            rows = int(rows_L.sum())
            return np.array([rows, rows - int(same_L.sum())]), 0.0
        top_k = swaps_LS.shape[1] - 1
        shared = int((swaps_LS @ np.arange(top_k, -1, -1)).sum())
        counts = found.counts
        others = [shared, counts.tokens, counts.tokens_mismatched, scored.tokens, scored.over_tau]
        return np.concatenate([rows_L, rows_L - same_L, others]), scored.sum_of("k3")

    def add(self, buckets: Sequence[int], rows: Sequence[tuple[Ints, float]]) -> None:
        """Count samples, in place."""
        if buckets:
            ints, floats = zip(*rows, strict=True)
            k3_X1 = np.array(floats)[:, None] if self.layers else None
            self.sums.add(buckets, np.stack(ints), k3_X1)

    def __add__(self, other: "ClusterSums") -> "ClusterSums":
        return ClusterSums(self.layers, self.sums + other.sums)

    @property
    def known_G(self) -> NDArray[np.bool_]:  # noqa: N802
        """Which buckets have a sample."""
        return self.sums.samples_G > 0

    def rows_of(self, column: int, width: int) -> Ints:
        """Some columns of every bucket, int64 [G, width]: 0 rows, 1 rows mismatched, by layer."""
        return self.sums.ints_GM[:, column * width : (column + 1) * width]


@dataclass(frozen=True, slots=True, eq=False)
class ComparisonCounts:
    """One comparison of some samples. broken counts the samples whose mismatch is over BROKEN."""

    result: DiffResult
    sums: ClusterSums
    broken: int
    worst: Worst[SequenceCount]

    def __add__(self, other: "ComparisonCounts") -> "ComparisonCounts":
        return ComparisonCounts(
            self.result + other.result,
            self.sums + other.sums,
            self.broken + other.broken,
            self.worst + other.worst,
        )


@dataclass(frozen=True, slots=True)
class RateIntervals:
    """Intervals of a comparison's rates, over ``clusters`` sequences (or prompts).

    None where the figure has no interval: one cluster, nothing varies, no log-probs.
    layers has one entry a compared layer: of the row mismatch rate.
    """

    clusters: int
    mismatch: Interval | None
    overlap: Interval | None
    token_mismatch: Interval | None
    k3: Interval | None
    f2: Interval | None
    layers: tuple[Interval | None, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """One comparison: kind is mismatch, staleness or total; counted has all of its figures.

    old, new  "dump" or the names of versions; "own version" on the new side of a mismatch;
              "older" and "newer" where the pairs of one lag are added up
    lag       updates between the two sides: 0 for a mismatch, None for a total of several lags
    mode      free or forced: see ``attribution.Version``
    pairs     the (old, new) names that are added up
    """

    kind: str
    old: str
    new: str
    lag: int | None
    mode: str
    counted: ComparisonCounts
    intervals: RateIntervals
    pairs: tuple[tuple[str, str], ...]

    @property
    def result(self) -> DiffResult:
        """The figures, as those of any two dumps."""
        return self.counted.result

    @property
    def mismatch_rate(self) -> float | None:
        """Share of the rows whose sets differ."""
        return rate(self.result.rows_mismatched, self.result.rows)

    @property
    def f2_rate(self) -> float | None:
        """F(2): share of the scored tokens with a ratio over 2 or under 1/2."""
        return rate(self.result.logprobs.over_tau, self.result.logprobs.tokens)


def intervals_of(found: ClusterSums, top_k: int, clusters: int, plan: Bootstrap) -> RateIntervals:
    """Intervals of the rates of a comparison over so many clusters."""
    columns, layers = found.sums.sums_CM, found.layers
    rows_CL, wrong_CL = columns[:, :layers], columns[:, layers : 2 * layers]
    shared, tokens, mismatched, scored, f2, k3 = columns[:, 2 * layers :].T
    rows = rows_CL.sum(axis=1)
    parts = [wrong_CL.sum(axis=1), shared, mismatched, k3, f2, *wrong_CL.T]
    wholes = [rows, top_k * rows, tokens, scored, scored, *rows_CL.T]
    intervals = rate_intervals(np.stack(parts, axis=1), np.stack(wholes, axis=1), plan)
    mismatch, overlap, token_mismatch, of_k3, of_f2, *of_layers = intervals
    return RateIntervals(
        clusters, mismatch, overlap, token_mismatch, of_k3, of_f2, tuple(of_layers)
    )


def gap_of(a: ClusterSums, b: ClusterSums, plan: Bootstrap) -> Interval | None:
    """The interval of a's mismatch rate less b's, over the buckets of clusters that both have."""
    both = a.known_G & b.known_G
    if both.sum() < FEWEST:
        return None
    sums = [
        side.rows_of(column, side.layers or 1)[both].sum(axis=1)
        for column in (0, 1)
        for side in (a, b)
    ]
    drawn = resample(np.stack(sums, axis=1), plan).reshape(-1, 2, 2)
    with np.errstate(invalid="ignore"):
        rates_B2 = drawn[:, 1] / drawn[:, 0]
    return interval_of(rates_B2[:, 0] - rates_B2[:, 1], int(both.sum()), plan.level)
