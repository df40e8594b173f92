"""A Staleness as a JSON document, routectl.staleness/1; docs/json.md is the contract."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal, cast

from ...dump import DumpMeta
from ...margins import EPS
from ...ops.adding.intervals import Interval
from ...ops.diff.result import DiffResult
from ...ops.diff.thresholds import NOTHING, Failure, Unmatched
from ...ops.staleness.attribution import MODES
from ...ops.staleness.comparison import Comparison
from ...ops.staleness.drift import Drift
from ...ops.staleness.gamma import GAMMA_FLOOR, LagShift, shift_of
from ...ops.staleness.order import Disorder
from ...ops.staleness.staleness import Staleness, StalenessOptions
from ..diff.detail import places_document
from ..diff.document import counted_rows, figures_document, sample_figures
from ..diff.schema import UnmatchedEntry
from ..document import CountedRows, IntervalEntry, dump_document, failure_entries, finite
from ..text.wording import plural
from .advice import Advice
from .gain import gain_document
from .schema import (
    AdviceEntry,
    ComparisonEntry,
    ComparisonExtras,
    DriftEntry,
    ExpertEntry,
    Kind,
    Mode,
    SpanEntry,
    StalenessDocument,
    ThresholdVerdict,
    VersionEntry,
)
from .shift import RouterShiftEntry

__all__ = [
    "Judged",
    "disorder_text",
    "staleness_document",
    "verdict_document",
    "warnings_of",
]

_QUANTILES = (0.01, 0.1, 0.5)
_ALIKE = 1000  # rows from which two versions that agree in all of them are no chance


@dataclass(frozen=True, slots=True)
class Judged:
    """The thresholds that a result was held against, as written, and those that it crosses.

    eps is the margin up to which a flip is a near-tie. unmatched is what counts as a difference,
    allowed tells that it was asked not to. fail_on is "alarm" where an alarm is exit 1.
    """

    thresholds: tuple[str, ...] = ()
    failed: tuple[Failure, ...] = ()
    eps: float = EPS
    unmatched: Unmatched = NOTHING
    allowed: bool = False
    fail_on: str | None = None


def disorder_text(found: Disorder) -> str:
    """Two versions in the wrong order, in words."""
    text = f"versions are given out of order, oldest first is expected: {found.first} before "
    if found.why in ("names", "made"):
        made = f"; the dump says that {', '.join(found.made)} made it" if found.made else ""
        return f"{text}{found.second}{made}"
    if found.said is not None:
        return f"{text}{found.second}, which the dump calls {' and '.join(found.said)}"
    went = plural(found.samples, "sample")
    return f"{text}{found.second}, but {went} went from {found.second} to {found.first}"


def warnings_of(result: Staleness) -> list[str]:
    """What in a result may not be what was meant: first the order of its versions."""
    found = [disorder_text(one) for one in result.disorders]
    alike = {  # free and forced are of the same two
        (one.old, one.new): one.result.rows
        for one in result.comparisons
        if one.kind == "staleness" and one.result.rows >= _ALIKE and not one.result.rows_mismatched
    }
    return found + [
        f"{old} and {new} have the same routes in all {rows:,} rows: the same weights twice, or an "
        "update that moved none"
        for (old, new), rows in alike.items()
    ]


def verdict_document(judged: Judged, alarms: int) -> ThresholdVerdict:
    """The verdict of a dump, or of a series by its last step, which has so many alarms."""
    over = bool(judged.failed) or bool(judged.unmatched) or bool(judged.fail_on and alarms)
    return {
        "thresholds": list(judged.thresholds),
        "failed": failure_entries(judged.failed),
        "unmatched": cast("UnmatchedEntry", asdict(judged.unmatched)),
        "allow_unmatched": judged.allowed,
        "fail_on": cast("Literal['alarm'] | None", judged.fail_on),
        "alarms": alarms,
        "exit_code": int(over),
    }


def _interval(found: Interval | None) -> IntervalEntry | None:
    """The level is that of the whole document."""
    return None if found is None else {"low": found.low, "high": found.high}


def _counted(result: DiffResult) -> CountedRows:
    return counted_rows(result.rows, result.rows_mismatched)


def _shift(shift: LagShift) -> RouterShiftEntry:
    """The router shift of a staleness that has one."""
    found = shift.total
    mean_L, old_L, new_L = (
        found.mean_shift_L,
        found.confidence_L("old"),
        found.confidence_L("new"),
    )
    assert mean_L is not None
    assert old_L is not None
    assert new_L is not None
    layers = zip(found.layers, mean_L.tolist(), old_L.tolist(), new_L.tolist(), strict=True)
    p01, p10, p50 = (found.quantile(q) for q in _QUANTILES)
    return {
        "tokens": found.tokens,
        "tokens_partial": found.partial,
        "mean_gamma": found.mean_gamma,
        "interval": _interval(shift.interval),
        "p01": p01,
        "p10": p10,
        "p50": p50,
        "floor": GAMMA_FLOOR,
        "below_rate": found.below_rate,
        "confidence_old": float(old_L.mean()),
        "confidence_new": float(new_L.mean()),
        "layers": [
            {"layer": layer, "mean_shift": mean, "confidence_old": old, "confidence_new": new}
            for layer, mean, old, new in layers
        ],
    }


def _comparison(comparison: Comparison, eps: float, shift: LagShift | None) -> ComparisonEntry:
    """All figures of a comparison, and the intervals of those that have one."""
    figures = figures_document(comparison.result, eps)
    found, detail = comparison.intervals, comparison.result.detail
    for layer, interval in zip(figures["layers"], found.layers, strict=True):
        layer["mismatch_interval"] = _interval(interval)
    extras: ComparisonExtras = {} if shift is None else {"router_shift": _shift(shift)}
    if detail is not None:
        extras["detail"] = places_document(detail)
    return {
        "kind": cast("Kind", comparison.kind),
        "old": comparison.old,
        "new": comparison.new,
        "lag": comparison.lag,
        "mode": cast("Mode", comparison.mode),
        "pairs": [list(pair) for pair in comparison.pairs],
        "samples": sample_figures(comparison.result),
        "intervals": {
            "clusters": found.clusters,
            "mismatch_rate": _interval(found.mismatch),
            "overlap_rate": _interval(found.overlap),
            "token_mismatch_rate": _interval(found.token_mismatch),
            "k3": _interval(found.k3),
            "f_tau": _interval(found.f2),
        },
        **figures,
        **extras,
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


def _versions(result: Staleness) -> list[VersionEntry]:
    entries = {key: dump_document(*about) for key, about in _metas(result).items()}
    return [
        {
            "name": name,
            "place": place,
            "rows": result.spans.by_version[name],
            "free": entries.get((name, "free")),
            "forced": entries.get((name, "forced")),
            "samples_lacking": {
                "free": result.lacking.get((name, "free")),
                "forced": result.lacking.get((name, "forced")),
            },
        }
        for name, place in zip(result.versions, result.places, strict=True)
    ]


def _drift(drift: Drift) -> DriftEntry:
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
        "experts": [
            cast("ExpertEntry", {**asdict(e), "moved_rate": e.moved_rate}) for e in drift.experts
        ],
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


def _advice(advice: Advice) -> AdviceEntry:
    return {
        "mode": advice.mode,
        "findings": [
            {"about": f.about, "alarm": f.alarm, "text": f.text, "evidence": list(f.evidence)}
            for f in advice.findings
        ],
    }


def staleness_document(
    result: Staleness,
    advice: Advice,
    options: StalenessOptions | None = None,
    *,
    judged: Judged | None = None,
) -> StalenessDocument:
    """The routectl.staleness/1 document; options are those that the result was made with."""
    judged = judged or Judged()
    options = options or StalenessOptions()

    def compared(parts: Sequence[Comparison]) -> list[ComparisonEntry]:
        plan = options.bootstrap
        return [_comparison(c, judged.eps, shift_of(c, result.shifts, plan)) for c in parts]

    metas = _metas(result)
    dump = next(metas["dump", mode] for mode in MODES if ("dump", mode) in metas)
    document: StalenessDocument = {
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
        "spans": cast("SpanEntry", asdict(result.spans)),
        "boundary": {
            "engine": result.boundary.engine,
            "exact": result.boundary.exact,
            "known": result.boundary.known,
            "tokens": result.spans.boundaries,
            "rows": result.spans.rows["boundary"],
        },
        "unmatched": cast("UnmatchedEntry", asdict(result.unmatched)),
        "drift": _drift(result.drift),
        "gain": gain_document(result.gains),
        "noise": [
            {"name": n.name, **counted_rows(n.rows, n.rows_mismatched)} for n in result.noise
        ],
        "advice": _advice(advice),
        "warnings": warnings_of(result),
        "verdict": verdict_document(judged, sum(f.alarm for f in advice.findings)),
    }
    return finite(document)
