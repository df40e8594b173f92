"""A comparison and its intervals. Shape suffixes: C clusters, L compared layers, M columns."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..adding.intervals import Bootstrap, Interval, rate_intervals
from ..diff.measures import rate
from ..diff.result import DiffResult

__all__ = ["Clustering", "Comparison", "RateIntervals", "intervals_of"]


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
    """One comparison: kind is mismatch, staleness or total; result has all of its figures.

    old, new  "dump" or the names of versions; "own version" on the new side of a mismatch;
              "older" and "newer" where the pairs of one lag are added up
    lag       updates between the two sides: 0 for a mismatch, None for a total of several lags
    mode      free or forced: see ``attribution.Version``
    pairs     the (old, new) names that result adds up
    """

    kind: str
    old: str
    new: str
    lag: int | None
    mode: str
    result: DiffResult
    intervals: RateIntervals
    pairs: tuple[tuple[str, str], ...]

    @property
    def mismatch_rate(self) -> float | None:
        """Share of the rows whose sets differ."""
        return rate(self.result.rows_mismatched, self.result.rows)

    @property
    def f2_rate(self) -> float | None:
        """F(2): share of the scored tokens with a ratio over 2 or under 1/2."""
        return rate(self.result.logprobs.over_tau, self.result.logprobs.tokens)


@dataclass(frozen=True, slots=True, eq=False)
class Clustering:
    """How intervals are made: the cluster of each sample by its name, and the bootstrap's plan."""

    cluster_of: Mapping[str, Hashable]
    plan: Bootstrap

    def sums(self, result: DiffResult) -> dict[Hashable, list[NDArray[np.float64]]]:
        """Per cluster, in order of first sight: rows by layer and swaps [L, S], and other sums.

        The other sums are tokens, mismatched tokens, scored tokens, k3 and tokens beyond tau.
        Pairs of versions have the same sequences: one cluster each, whatever is added up.
        """
        found: dict[Hashable, list[NDArray[np.float64]]] = {}
        for one in result.each:
            s, scored = one.counts, one.logprobs
            sums = [s.tokens, s.tokens_mismatched, scored.tokens, scored.sum_k3, scored.over_tau]
            parts = found.setdefault(
                self.cluster_of[s.sample], [np.zeros(one.swaps_LS.shape), np.zeros(len(sums))]
            )
            parts[0] += one.swaps_LS
            with np.errstate(over="ignore", invalid="ignore"):  # log-probs may be infinite
                parts[1] += sums
        return found


def intervals_of(result: DiffResult, clustering: Clustering) -> RateIntervals:
    """Intervals of the rates of a result, from draws of whole clusters."""
    sums = clustering.sums(result)
    swaps_CLS = np.stack([parts[0] for parts in sums.values()])
    tokens, mismatched, scored, k3, f2 = np.stack([parts[1] for parts in sums.values()], axis=1)
    top_k = swaps_CLS.shape[2] - 1
    rows_CL, same_CL = swaps_CLS.sum(axis=2), swaps_CLS[:, :, 0]
    rows, shared = rows_CL.sum(axis=1), (swaps_CLS @ np.arange(top_k, -1, -1)).sum(axis=1)
    parts = [rows - same_CL.sum(axis=1), shared, mismatched, k3, f2, *(rows_CL - same_CL).T]
    wholes = [rows, top_k * rows, tokens, scored, scored, *rows_CL.T]
    found = rate_intervals(np.stack(parts, axis=1), np.stack(wholes, axis=1), clustering.plan)
    mismatch, overlap, token_mismatch, of_k3, of_f2, *layers = found
    return RateIntervals(len(sums), mismatch, overlap, token_mismatch, of_k3, of_f2, tuple(layers))
