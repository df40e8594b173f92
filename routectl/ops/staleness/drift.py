"""How fast routes drift: per layer, and over the steps of a run; which experts move most.

Shape suffixes: L compared layers, E experts, K top_k, R mismatched rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...dump import Dump
from ...kernels.rows import diff_rows
from ..adding.intervals import Interval, interval_of, resample
from ..diff.result import DiffResult
from ..pairs.align import Aligner
from ..pairs.join import join_keys
from .comparison import Clustering, Comparison
from .half_life import HalfLife

__all__ = [
    "Drift",
    "ExpertMove",
    "LayerSpeed",
    "Nearest",
    "expert_moves",
    "layer_speeds",
    "nearest_version",
    "slope_of",
]


@dataclass(frozen=True, slots=True)
class LayerSpeed:
    """Share of a layer's rows that change over ``lag`` updates, the smallest lag there is.

    layer is None for all layers together. per_update is rate / lag: at a lag of 1 the speed
    itself, at a greater one a lower bound of it, since rows change back too.
    """

    layer: int | None
    lag: int
    rows: int
    rows_mismatched: int
    interval: Interval | None

    @property
    def rate(self) -> float:
        """Share of the rows that changed over the lag."""
        return self.rows_mismatched / self.rows

    @property
    def per_update(self) -> float:
        """The share per update."""
        return self.rate / self.lag


@dataclass(frozen=True, slots=True)
class ExpertMove:
    """Of the rows of a layer: how many an expert entered and left from ``old`` to ``new``.

    load_old and load_new count the rows that took it; rows is all compared rows of the layer.
    """

    layer: int
    expert: int
    entered: int
    left: int
    load_old: int
    load_new: int
    rows: int

    @property
    def moved_rate(self) -> float:
        """Share of the layer's rows that the expert entered or left."""
        return (self.entered + self.left) / self.rows


@dataclass(frozen=True, slots=True)
class Nearest:
    """The version whose routes are closest to the dump's rows of version ``own``.

    gap is the interval of mismatch(own) - mismatch(nearest), over sequences; None where nearest is
    own. Where it lies above 0, the dump was not made by the weights that its label says, or the
    recompute is off. rates has the mismatch rate against every version.
    """

    own: str
    nearest: str
    mode: str
    rates: dict[str, float]
    gap: Interval | None

    @property
    def is_other(self) -> bool:
        """Another version than its own is nearest, and not by chance."""
        return self.nearest != self.own and self.gap is not None and self.gap.low > 0


@dataclass(frozen=True, slots=True)
class Drift:
    """What the comparisons say of the movement between versions; empty with one version.

    speeds and half_lives are of ``mode``, forced where every lag has it (it isolates a layer's own
    movement from the cascade), else free; the first entry is of all layers, then one a layer.
    fastest_layers are layers by speed, fastest first, those at rest left out. experts are the
    few that moved most between the first and the last version, most first. experts_between
    names these two. nearest has one entry for each version that made rows and mode.
    """

    mode: str | None
    speeds: tuple[LayerSpeed, ...]
    half_lives: tuple[HalfLife, ...]
    fastest_layers: tuple[int, ...]
    experts: tuple[ExpertMove, ...]
    experts_between: tuple[str, str] | None
    nearest: tuple[Nearest, ...]


def layer_speeds(by_lag: Sequence[Comparison]) -> tuple[LayerSpeed, ...]:
    """What changed over the smallest lag of one mode: of all layers, then of each."""
    least = min(by_lag, key=lambda c: c.lag or 0, default=None)
    if least is None or least.lag is None:
        return ()
    result, intervals = least.result, least.intervals
    rows_L = result.counts.swaps_LS.sum(axis=1).tolist()
    moved_L = result.counts.swaps_LS[:, 1:].sum(axis=1).tolist()
    parts = zip(result.layers, rows_L, moved_L, intervals.layers, strict=True)
    return (
        LayerSpeed(None, least.lag, result.rows, result.rows_mismatched, intervals.mismatch),
        *(LayerSpeed(layer, least.lag, *found) for layer, *found in parts if found[0]),
    )


def expert_moves(old: Dump, new: Dump, result: DiffResult, limit: int) -> tuple[ExpertMove, ...]:
    """The ``limit`` experts that rows entered and left most, from one pass over two dumps.

    old and new are what result compared, with one id per sample. Experts at rest are left out.
    """
    counts, layers = result.counts, result.layers
    shape = counts.load_old_LE.shape
    entered_LE, left_LE = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    aligner = Aligner(old.meta, new.meta, (layers, (), ()), result.tokens, by_prompt=False)
    for i, j in join_keys(old.keys, new.keys, "id").pairs:
        before, after = old[i], new[j]
        if before.routes is None or after.routes is None:
            continue
        pair = aligner.pair(before, after, before.sample_id or "")
        marked = diff_rows(
            pair.old_TLK, pair.new_TLK, shape[1], skip_TL=pair.skip_TL, mark=True
        ).differs_TL
        assert marked is not None
        where = np.nonzero(marked)
        old_RK, new_RK = pair.old_TLK[where], pair.new_TLK[where]
        shared_RKK = old_RK[:, :, None] == new_RK[:, None, :]
        place_RK = where[1][:, None] * shape[1]
        for ids_RK, axis, counted in ((old_RK, 2, left_LE), (new_RK, 1, entered_LE)):
            moved = (place_RK + ids_RK)[~shared_RKK.any(axis=axis)]
            counted += np.bincount(moved, minlength=counted.size).reshape(shape)
    rows_L = counts.swaps_LS.sum(axis=1)
    with np.errstate(invalid="ignore"):
        rate_LE = np.nan_to_num((entered_LE + left_LE) / rows_L[:, None])
    order = np.argsort(-rate_LE, axis=None, kind="stable")[:limit]
    return tuple(
        ExpertMove(
            layers[layer],
            expert,
            int(entered_LE[layer, expert]),
            int(left_LE[layer, expert]),
            int(counts.load_old_LE[layer, expert]),
            int(counts.load_new_LE[layer, expert]),
            int(rows_L[layer]),
        )
        for layer, expert in (divmod(int(place), shape[1]) for place in order)
        if rate_LE[layer, expert] > 0
    )


def nearest_version(
    own: str, mode: str, results: dict[str, DiffResult], clustering: Clustering
) -> Nearest:
    """Which of several versions, by name, is closest to the dump's rows of version ``own``."""
    rates = {name: result.rows_mismatched / result.rows for name, result in results.items()}
    nearest = min(rates, key=lambda name: (rates[name], name != own))
    gap = None
    if nearest != own and own in results:
        gap = _gap(results[own], results[nearest], clustering)
    return Nearest(own, nearest, mode, rates, gap)


def _gap(a: DiffResult, b: DiffResult, clustering: Clustering) -> Interval | None:
    """The interval of a's mismatch rate less b's, over the clusters that both have."""
    sums = [clustering.sums(result) for result in (a, b)]
    names = [name for name in sums[0] if name in sums[1]]
    if len(names) < 2:
        return None
    swaps = np.array([[found[name][0].sum(axis=0) for found in sums] for name in names])
    parts = np.stack([swaps.sum(axis=2), swaps[:, :, 1:].sum(axis=2)], axis=1)
    drawn = resample(parts.reshape(len(names), 4), clustering.plan).reshape(-1, 2, 2)
    with np.errstate(invalid="ignore"):
        rates_B2 = drawn[:, 1] / drawn[:, 0]
    return interval_of(rates_B2[:, 0] - rates_B2[:, 1], len(names), clustering.plan.level)


def slope_of(steps: Sequence[int], values: Sequence[float]) -> float | None:
    """The change of a figure per step, by least squares; None for fewer than two steps."""
    if len(steps) < 2:
        return None
    x = np.asarray(steps, np.float64) - np.mean(steps)
    with np.errstate(over="ignore", invalid="ignore"):  # of figures near the end of float64
        return float((x * np.asarray(values, np.float64)).sum() / (x * x).sum())
