"""After how many updates half of the rows have other experts.

Shape suffixes: L compared layers, M = 1 + L (all of them, then each), N lags, C clusters,
B replicates.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..adding.fewest import FEWEST
from ..adding.intervals import Bootstrap, Interval, interval_of, resample
from .comparison import Comparison

__all__ = ["REACH", "HalfLife", "half_lives", "half_lives_of"]

Floats = NDArray[np.float64]
REACH = 4  # times the greatest lag: how far a fitted law is trusted
_LOG_HALF = float(np.log(np.log(2)))
_LOST = 0.05  # share of replicates without a half-life from which an interval says nothing


@dataclass(frozen=True, slots=True)
class HalfLife:
    """After how many updates half of the rows have other experts; layer None for all layers.

    updates      None where it is not identifiable: one lag, no change, agreement that does not
                 fall, or a half-life of more than REACH times the greatest lag
    interval     of updates, over sequences; it does not hold the error of the law itself
    exponent     b of agreement(lag) = exp(-(lag / tau)^b): 1 straight drift, 1/2 a random walk
    extrapolated fewer than half of the rows have changed at every lag: updates, where it is known,
                 is read off the fitted law
    bounds       where extrapolated: updates if from the greatest lag on the drift is straight
                 (b = 1), and if it is a walk (b = 1/2); training that slows down takes longer
    """

    layer: int | None
    updates: float | None
    interval: Interval | None
    exponent: float | None
    extrapolated: bool
    lags: tuple[int, ...]
    bounds: tuple[float, float] | None = None


def half_lives_of(
    lags_N: Sequence[int], rows_BNM: Floats, same_BNM: Floats
) -> tuple[Floats, Floats]:
    """The half-life and the exponent b that rows and unchanged rows at some lags give, [B, M].

    The law is agreement(lag) = exp(-(lag / tau)^b), a line in log lag and log(-log agreement),
    fitted by least squares weighted by the inverse variance of the latter for independent rows,
    rows * a * log(a)^2 / (1 - a). The half-life is where the line reaches log log 2; where half of
    the rows have changed between two lags, the line through these two instead. nan where nothing
    or everything changed at some lag, with one lag, or where agreement does not fall.
    """
    x_N1 = np.log(np.asarray(lags_N, np.float64))[:, None]
    with np.errstate(all="ignore"):
        agree = same_BNM / rows_BNM
        y = np.log(-np.log(agree))
        weight = rows_BNM * agree * np.log(agree) ** 2 / (1 - agree)
        total = weight.sum(axis=1, keepdims=True)
        x0 = (weight * x_N1).sum(axis=1, keepdims=True) / total
        y0 = (weight * y).sum(axis=1, keepdims=True) / total
        spread = (weight * (x_N1 - x0) ** 2).sum(axis=1)
        exponent = (weight * (x_N1 - x0) * (y - y0)).sum(axis=1) / spread
        found = x0[:, 0] + (_LOG_HALF - y0[:, 0]) / exponent
        for n in range(len(lags_N) - 2, -1, -1):  # the first crossing has the last word
            crossed = (agree[:, n] > 0.5) & (agree[:, n + 1] <= 0.5)
            part = (_LOG_HALF - y[:, n]) / (y[:, n + 1] - y[:, n])
            found = np.where(crossed, x_N1[n] + part * (x_N1[n + 1] - x_N1[n]), found)
        updates = np.exp(found)
    bad = ~(exponent > 0) | ~np.isfinite(updates)
    return np.where(bad, np.nan, updates), np.where(bad, np.nan, exponent)


def _agreement(by_lag: Sequence[Comparison]) -> tuple[Floats, Floats]:
    """Rows and unchanged rows of each bucket of clusters at each lag, [C, N, M]."""
    layers = len(by_lag[0].result.layers)
    known_G = np.any([c.counted.sums.known_G for c in by_lag], axis=0)
    found = []
    for column in (0, 1):
        sums = [c.counted.sums.rows_of(column, layers)[known_G] for c in by_lag]
        rows_CNL = np.stack(sums, axis=1).astype(np.float64)
        found.append(np.concatenate([rows_CNL.sum(axis=2, keepdims=True), rows_CNL], axis=2))
    rows_CNM, wrong_CNM = found
    return rows_CNM, rows_CNM - wrong_CNM


def half_lives(by_lag: Sequence[Comparison], plan: Bootstrap) -> tuple[HalfLife, ...]:
    """The half-life of all layers' routes, then of each layer's, from the lags of one mode.

    Every interval is over whole clusters, drawn alike at every lag, each draw fitted anew.
    """
    if not by_lag:
        return ()
    lags = tuple(c.lag for c in by_lag if c.lag is not None)
    rows_CNM, same_CNM = _agreement(by_lag)
    clusters, _, columns = rows_CNM.shape
    rows_NM, same_NM = rows_CNM.sum(axis=0), same_CNM.sum(axis=0)
    updates, exponent = half_lives_of(lags, rows_NM[None], same_NM[None])
    drawn_BM = np.full((1, columns), np.nan)
    if clusters >= FEWEST and len(lags) > 1:
        both = np.stack([rows_CNM, same_CNM]).swapaxes(0, 1).reshape(clusters, -1)
        sums = resample(both, plan).reshape(-1, 2, len(lags), columns)
        drawn_BM, _ = half_lives_of(lags, sums[:, 0], sums[:, 1])
    found = []
    for m, layer in enumerate((None, *by_lag[0].result.layers)):
        rows_N, same_N = rows_NM[:, m], same_NM[:, m]
        extrapolated = not bool((2 * same_N <= rows_N).any())
        known = bool(updates[0, m] <= (REACH * lags[-1] if extrapolated else np.inf))  # not nan
        steady = known and np.isnan(drawn_BM[:, m]).mean() <= _LOST
        level = plan.level
        found.append(
            HalfLife(
                layer=layer,
                updates=float(updates[0, m]) if known else None,
                interval=interval_of(drawn_BM[:, m], clusters, level) if steady else None,
                exponent=None if np.isnan(exponent[0, m]) else float(exponent[0, m]),
                extrapolated=extrapolated,
                lags=lags,
                bounds=_bounds(lags[-1], same_N[-1], rows_N[-1]) if extrapolated else None,
            )
        )
    return tuple(found)


def _bounds(lag: int, same: float, rows: float) -> tuple[float, float] | None:
    """The half-life from one lag, for a straight drift and for a random walk."""
    if same == rows:
        return None
    ratio = float(np.log(2) / -np.log(same / rows))
    return lag * ratio, lag * ratio**2
