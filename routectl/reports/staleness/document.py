"""A Staleness as a JSON document, routectl.staleness/1; docs/json.md is the contract."""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from typing import Any

from ...dump import DumpMeta
from ...margins import EPS
from ...ops.diff.diff import DiffResult
from ...ops.diff.measures import rate
from ...ops.diff.thresholds import Failure
from ...ops.staleness.advice import Advice
from ...ops.staleness.attribution import MODES
from ...ops.staleness.comparison import Comparison
from ...ops.staleness.drift import Drift
from ...ops.staleness.gamma import GAMMA_FLOOR, RouterShift, shift_interval
from ...ops.staleness.intervals import Bootstrap, Interval
from ...ops.staleness.staleness import Staleness, StalenessOptions
from ..diff.detail import places_document
from ..diff.document import Document, dump_document, figures_document, finite

__all__ = ["Judged", "staleness_document"]

_QUANTILES = (0.01, 0.1, 0.5)
Shifts = Mapping[tuple[str, str, str], RouterShift]


@dataclass(frozen=True, slots=True)
class Judged:
    """The thresholds that a result was held against, as written, and those that it crosses.

    eps is the margin up to which a flip is a near-tie.
    """

    thresholds: tuple[str, ...] = ()
    failed: tuple[Failure, ...] = ()
    eps: float = EPS


def _interval(found: Interval | None) -> Document | None:
    """The level is that of the whole document."""
    return None if found is None else {"low": found.low, "high": found.high}


def _counted(result: DiffResult) -> Document:
    return {
        "rows": result.rows,
        "rows_mismatched": result.rows_mismatched,
        "mismatch_rate": rate(result.rows_mismatched, result.rows),
    }


def _shift(comparison: Comparison, shifts: Shifts, plan: Bootstrap) -> Document:
    """The entry ``router_shift`` of a staleness all of whose pairs have one; else nothing."""
    keys = [(*pair, comparison.mode) for pair in comparison.pairs]
    if comparison.kind != "staleness" or not all(key in shifts for key in keys):
        return {}
    found = reduce(operator.add, [shifts[key] for key in keys])
    mean_L = found.mean_shift_L
    assert mean_L is not None
    return {
        "router_shift": {
            "tokens": found.tokens,
            "tokens_partial": found.partial,
            "mean_gamma": found.mean_gamma,
            "interval": _interval(shift_interval(found, plan)),
            **{f"p{round(100 * q):02}": found.quantile(q) for q in _QUANTILES},
            "floor": GAMMA_FLOOR,
            "below_rate": found.below_rate,
            "layers": [
                {"layer": layer, "mean_shift": mean}
                for layer, mean in zip(found.layers, mean_L.tolist(), strict=True)
            ],
        }
    }


def _comparison(comparison: Comparison, eps: float, shift: Document) -> Document:
    """All figures of a comparison, and the intervals of those that have one."""
    figures = figures_document(comparison.result, eps)
    found = comparison.intervals
    for layer, interval in zip(figures["layers"], found.layers, strict=True):
        layer["mismatch_interval"] = _interval(interval)
    return {
        "kind": comparison.kind,
        "old": comparison.old,
        "new": comparison.new,
        "lag": comparison.lag,
        "mode": comparison.mode,
        "pairs": [list(pair) for pair in comparison.pairs],
        "samples": {**asdict(comparison.result.samples), "matched_by": comparison.result.match},
        "intervals": {
            "clusters": found.clusters,
            "mismatch_rate": _interval(found.mismatch),
            "overlap_rate": _interval(found.overlap),
            "token_mismatch_rate": _interval(found.token_mismatch),
            "k3": _interval(found.k3),
            "f_tau": _interval(found.f2),
        },
        **figures,
        **shift,
        **places_document(comparison.result),
    }


def _metas(result: Staleness) -> dict[tuple[str, str], tuple[DumpMeta, int]]:
    """What was compared, and its samples, by name and mode; the dump's own name is "dump"."""
    found: dict[tuple[str, str], tuple[DumpMeta, int]] = {}
    for cell in result.cells:
        samples = cell.result.samples.new
        found.setdefault((cell.version, cell.mode), (cell.result.new, samples))
    for comparison in result.comparisons:
        if comparison.kind == "mismatch":
            continue
        sides, counted = comparison.result, comparison.result.samples
        found.setdefault((comparison.old, comparison.mode), (sides.old, counted.old))
        found.setdefault((comparison.new, comparison.mode), (sides.new, counted.new))
    return found


def _versions(result: Staleness) -> list[Document]:
    metas = _metas(result)
    return [
        {
            "name": name,
            "place": place,
            "rows": result.spans.by_version[name],
            **{
                mode: dump_document(*metas[name, mode]) if (name, mode) in metas else None
                for mode in MODES
            },
        }
        for name, place in zip(result.versions, result.places, strict=True)
    ]


def _drift(drift: Drift) -> Document:
    return {
        "mode": drift.mode,
        "speeds": [
            {
                "layer": s.layer,
                "lag": s.lag,
                "rows": s.rows,
                "rows_mismatched": s.rows_mismatched,
                "mismatch_rate": s.rate,
                "mismatch_interval": _interval(s.interval),
                "per_update": s.per_update,
            }
            for s in drift.speeds
        ],
        "half_lives": [
            {
                "layer": h.layer,
                "updates": h.updates,
                "interval": _interval(h.interval),
                "exponent": h.exponent,
                "extrapolated": h.extrapolated,
                "lags": list(h.lags),
                "bounds": None if h.bounds is None else list(h.bounds),
            }
            for h in drift.half_lives
        ],
        "fastest_layers": list(drift.fastest_layers),
        "experts": [{**asdict(e), "moved_rate": e.moved_rate} for e in drift.experts],
        "experts_between": None if drift.experts_between is None else list(drift.experts_between),
        "nearest": [
            {
                "own": n.own,
                "mode": n.mode,
                "nearest": n.nearest,
                "mismatch_rates": n.rates,
                "gap": _interval(n.gap),
                "is_other": n.is_other,
            }
            for n in drift.nearest
        ],
    }


def _advice(advice: Advice) -> Document:
    findings: list[dict[str, Any]] = [
        {"about": f.about, "alarm": f.alarm, "text": f.text, "evidence": list(f.evidence)}
        for f in advice.findings
    ]
    return {"mode": advice.mode, "findings": findings}


def staleness_document(
    result: Staleness,
    advice: Advice,
    options: StalenessOptions | None = None,
    *,
    judged: Judged | None = None,
    shifts: Shifts | None = None,
) -> Document:
    """The routectl.staleness/1 document.

    options are those that the result was made with; shifts those of its versions, by older and
    newer name and mode (``router_shifts``).
    """
    judged = judged or Judged()
    options = options or StalenessOptions()

    def compared(parts: Sequence[Comparison]) -> list[Document]:
        plan = options.bootstrap
        return [_comparison(c, judged.eps, _shift(c, shifts or {}, plan)) for c in parts]

    metas = _metas(result)
    dump = next(metas["dump", mode] for mode in MODES if ("dump", mode) in metas)
    document: Document = {
        "schema": "routectl.staleness/1",
        "dump": dump_document(*dump),
        "versions": _versions(result),
        "token_selection": options.tokens,
        "row_selection": options.rows,
        "clusters": options.clusters,
        "level": options.bootstrap.level,
        "eps": judged.eps,
        "comparisons": compared(result.comparisons),
        "by_lag": compared(result.by_lag),
        "own_rows": [
            {"own": c.own, "version": c.version, "lag": c.lag, "mode": c.mode, **_counted(c.result)}
            for c in result.cells
        ],
        "apart": [
            {
                "group": group,
                "mode": c.mode,
                **_counted(c.result),
                "mismatch_interval": _interval(c.intervals.mismatch),
            }
            for group, parts in result.apart.items()
            for c in parts
        ],
        "cached_apart": result.cached_apart,
        "spans": asdict(result.spans),
        "drift": _drift(result.drift),
        "noise": [
            {**asdict(n), "mismatch_rate": rate(n.rows_mismatched, n.rows)} for n in result.noise
        ],
        "advice": _advice(advice),
        "verdict": {
            "thresholds": list(judged.thresholds),
            "failed": [asdict(f) for f in judged.failed],
            "exit_code": int(bool(judged.failed)),
        },
    }
    return finite(document)  # type: ignore[no-any-return]
