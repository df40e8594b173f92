"""How fast routes drift: per layer, and over the steps of a run; which experts move most.

Shape suffixes: L compared layers, E experts, K top_k, R mismatched rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...kernels.rows import diff_rows
from ..adding.intervals import Bootstrap, Interval
from ..diff.result import DiffResult
from ..pairs.align import Pair
from .comparison import ClusterSums, Comparison, gap_of
from .half_life import HalfLife
from .sequences import CloserSequences, closer_sequences

__all__ = [
    "Drift",
    "ExpertMove",
    "LayerSpeed",
    "MoveCounts",
    "Nearest",
    "expert_moves",
    "layer_speeds",
    "nearest_version",
    "slope_of",
]

Ints = NDArray[np.int64]


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
    recompute is off. rates has the mismatch rate against every version. sequences are those that
    are of another version each by itself, whatever all rows together say.
    """

    own: str
    nearest: str
    mode: str
    rates: dict[str, float]
    gap: Interval | None
    sequences: CloserSequences

    @property
    def is_wrong(self) -> bool:
        """Rows are of another version than their label says: all together, or some sequences."""
        return self.is_other or self.sequences.number > 0

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
    names these two. nearest has one entry for each version that made rows and mode, without rows
    of reused prefixes where these are older.
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


@dataclass(frozen=True, slots=True, eq=False)
class MoveCounts:
    """How many rows each expert entered and left, int64 [L, E]; those of parts add up."""

    entered_LE: Ints
    left_LE: Ints

    @classmethod
    def of_pair(cls, pair: Pair, num_experts: int) -> "MoveCounts":
        """Those of one pair of samples."""
        marked = diff_rows(
            pair.old_TLK, pair.new_TLK, num_experts, skip_TL=pair.skip_TL, mark=True
        ).differs_TL
        assert marked is not None
        where = np.nonzero(marked)
        shape = (marked.shape[1], num_experts)
        old_RK, new_RK = pair.old_TLK[where], pair.new_TLK[where]
        shared_RKK = old_RK[:, :, None] == new_RK[:, None, :]
        place_R1 = where[1][:, None] * num_experts

        def counted(ids_RK: Any, axis: int) -> Ints:
            moved = (place_R1 + ids_RK)[~shared_RKK.any(axis=axis)]
            return np.bincount(moved, minlength=shape[0] * shape[1]).reshape(shape)

        return cls(counted(new_RK, 1), counted(old_RK, 2))

    def __add__(self, other: "MoveCounts") -> "MoveCounts":
        return MoveCounts(self.entered_LE + other.entered_LE, self.left_LE + other.left_LE)


def expert_moves(found: MoveCounts, result: DiffResult, limit: int) -> tuple[ExpertMove, ...]:
    """The ``limit`` experts that rows entered and left most; result is of the same rows.

    Experts at rest are left out.
    """
    counts, layers = result.counts, result.layers
    entered_LE, left_LE = found.entered_LE, found.left_LE
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
        for layer, expert in (divmod(int(place), rate_LE.shape[1]) for place in order)
        if rate_LE[layer, expert] > 0
    )


def nearest_version(
    own: str,
    mode: str,
    found: Mapping[str, tuple[DiffResult, ClusterSums]],
    plan: Bootstrap,
) -> Nearest:
    """Which of several versions, by name, is closest to the dump's rows of version ``own``."""
    rates = {name: result.rows_mismatched / result.rows for name, (result, _) in found.items()}
    nearest = min(rates, key=lambda name: (rates[name], name != own))
    gap = None
    if nearest != own and own in found:
        gap = gap_of(found[own][1], found[nearest][1], plan)
    others = {name: sums for name, (_, sums) in found.items() if name != own}
    closer = closer_sequences(found[own][1], others) if own in found else CloserSequences(0, {})
    return Nearest(own, nearest, mode, rates, gap, closer)


def slope_of(steps: Sequence[int], values: Sequence[float]) -> float | None:
    """The change of a figure per step, by least squares; None for fewer than two steps."""
    if len(steps) < 2:
        return None
    x = np.asarray(steps, np.float64) - np.mean(steps)
    with np.errstate(over="ignore", invalid="ignore"):  # of figures near the end of float64
        return float((x * np.asarray(values, np.float64)).sum() / (x * x).sum())
