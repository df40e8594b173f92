"""From counts to the figures that people compare; None where a denominator is 0.

Formulas and sources: docs/metrics.md. Shape suffixes: E experts, L layers, S = K + 1.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...margins import EPS
from .counts import Counts
from .flips import Flips, MarginCounts, flips_of
from .result import DiffResult

__all__ = [
    "Measures",
    "Vio",
    "dead_experts",
    "entropy",
    "layer_measures",
    "load_js",
    "load_shift",
    "rate",
    "total_measures",
    "vio",
]

Ints = NDArray[np.int64]


def rate(part: float, whole: float) -> float | None:
    """part / whole, None when there is no whole."""
    return float(part) / float(whole) if whole else None


@dataclass(frozen=True, slots=True)
class Vio:
    """How far experts are from the even share: of load * E / total - 1 (verl's max_vio and kin).

    max of the busiest expert, at least 0; min of the idlest, -1 where it took no row; avg the mean
    of its absolute value over experts: the mean itself is always 0.
    """

    max: float
    min: float
    avg: float


def vio(load_E: Ints) -> Vio | None:
    """How far experts are from the even share; None without rows."""
    total, experts = int(load_E.sum()), len(load_E)
    if not total:
        return None
    off = np.abs(load_E * experts - total).sum()  # of integers, so that the order has no effect
    return Vio(
        int(load_E.max()) * experts / total - 1,
        int(load_E.min()) * experts / total - 1,
        int(off) / total / experts,
    )


def entropy(load_E: Ints) -> float | None:
    """Entropy of the load as a share of the uniform one's, 0..1."""
    total = int(load_E.sum())
    if not total or len(load_E) < 2:
        return None
    p = load_E[load_E > 0] / total
    return float(-(p * np.log(p)).sum() / np.log(len(load_E))) + 0.0


def dead_experts(load_E: Ints) -> int:
    """Experts that no row took."""
    return int((load_E == 0).sum())


def load_shift(old_E: Ints, new_E: Ints) -> float | None:
    """Total variation between two loads: half the sum of |share_old - share_new|, 0..1."""
    if not old_E.sum() or not new_E.sum():
        return None
    return float(np.abs(old_E / old_E.sum() - new_E / new_E.sum()).sum() / 2)


def load_js(old_E: Ints, new_E: Ints) -> float | None:
    """Jensen-Shannon divergence of two loads in nats, 0 to ln 2; None where one has no rows.

    The mean of KL(old || m) and KL(new || m), m the mean of both shares.
    """
    if not old_E.sum() or not new_E.sum():
        return None
    p, q = old_E / old_E.sum(), new_E / new_E.sum()
    m = (p + q) / 2
    parts = [share[share > 0] * np.log(share[share > 0] / m[share > 0]) for share in (p, q)]
    return max(0.0, float(parts[0].sum() + parts[1].sum()) / 2)


@dataclass(frozen=True, slots=True)
class Measures:
    """The figures of one layer, or of all (layer None; then load figures are the worst layer's).

    swaps[n] counts rows in which n ids differ. overlap_rate is the mean of shared ids / K. flips
    splits the mismatched rows by margin; None when the dumps have no margins.
    """

    layer: int | None
    rows: int
    rows_mismatched: int
    rows_missing: int
    order_mismatches: int
    swaps: tuple[int, ...]
    load_shift: float | None
    load_js: float | None
    vio_old: Vio | None
    vio_new: Vio | None
    flips: Flips | None = None

    @property
    def mismatch_rate(self) -> float | None:
        """Share of rows whose sets differ."""
        return rate(self.rows_mismatched, self.rows)

    @property
    def overlap_rate(self) -> float | None:
        """Mean of |A ∩ B| / K."""
        top_k = len(self.swaps) - 1
        shared = sum((top_k - n) * rows for n, rows in enumerate(self.swaps))
        return rate(shared, top_k * self.rows)

    @property
    def order_mismatch_rate(self) -> float | None:
        """Share of rows with equal sets in another slot order."""
        return rate(self.order_mismatches, self.rows)

    @property
    def zero_overlap_rate(self) -> float | None:
        """Share of rows that share no id."""
        return rate(self.swaps[-1], self.rows)

    @property
    def tie_rate(self) -> float | None:
        """Share of the rows with a known margin that are mismatched at a margin of 0."""
        return None if self.flips is None else rate(self.flips.ties, self.flips.rows)

    @property
    def near_rate(self) -> float | None:
        """Share of the rows with a known margin that are mismatched above 0 and up to eps."""
        return None if self.flips is None else rate(self.flips.near, self.flips.rows)

    @property
    def clear_rate(self) -> float | None:
        """Share of the rows with a known margin that are mismatched above eps."""
        return None if self.flips is None else rate(self.flips.clear, self.flips.rows)

    @property
    def margin_coverage_rate(self) -> float | None:
        """Share of the rows whose margin is known on a side."""
        return None if self.flips is None else rate(self.flips.rows, self.rows)


def _worst(values: list[float | None]) -> float | None:
    return max((v for v in values if v is not None), default=None)


def _worst_vio(values: list[Vio | None]) -> Vio | None:
    """Each figure of the layer where it is worst."""
    known = [v for v in values if v is not None]
    if not known:
        return None
    return Vio(max(v.max for v in known), min(v.min for v in known), max(v.avg for v in known))


def layer_measures(
    counts: Counts, layers: tuple[int, ...], margins: MarginCounts | None = None, eps: float = EPS
) -> list[Measures]:
    """The figures of each compared layer; a margin up to ``eps`` is a near-tie."""
    return [
        Measures(
            layer=layer,
            rows=int(counts.swaps_LS[i].sum()),
            rows_mismatched=int(counts.swaps_LS[i, 1:].sum()),
            rows_missing=int(counts.missing_L[i]),
            order_mismatches=int(counts.order_L[i]),
            swaps=tuple(counts.swaps_LS[i].tolist()),
            load_shift=load_shift(counts.load_old_LE[i], counts.load_new_LE[i]),
            load_js=load_js(counts.load_old_LE[i], counts.load_new_LE[i]),
            vio_old=vio(counts.load_old_LE[i]),
            vio_new=vio(counts.load_new_LE[i]),
            flips=None if margins is None else flips_of(margins, eps, i),
        )
        for i, layer in enumerate(layers)
    ]


def total_measures(result: DiffResult, eps: float = EPS) -> Measures:
    """The figures of all compared layers together; a margin up to ``eps`` is a near-tie."""
    parts = layer_measures(result.counts, result.layers)
    return Measures(
        layer=None,
        rows=result.rows,
        rows_mismatched=result.rows_mismatched,
        rows_missing=int(result.counts.missing_L.sum()),
        order_mismatches=int(result.counts.order_L.sum()),
        swaps=tuple(result.counts.swaps_LS.sum(axis=0).tolist()),
        load_shift=_worst([p.load_shift for p in parts]),
        load_js=_worst([p.load_js for p in parts]),
        vio_old=_worst_vio([p.vio_old for p in parts]),
        vio_new=_worst_vio([p.vio_new for p in parts]),
        flips=None if result.margins is None else flips_of(result.margins, eps),
    )
