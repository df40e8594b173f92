"""Many staleness documents, one a step, as one: routectl.staleness_series/1.

Figures are read off documents by the names that thresholds have.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from typing import Any

from ...errors import MismatchError
from ...ops.diff.metrics import METRICS
from ...ops.diff.thresholds import Failure, Threshold, Unmatched, is_over, left_over
from ...ops.staleness.drift import slope_of
from ..diff.named import figure_of
from ..document import Document, finite, not_finite
from .document import Judged, verdict_document
from .gain import gain_figures
from .schema import (
    ComparisonEntry,
    CrossingEntry,
    SeriesDocument,
    StepEntry,
    TrendEntry,
)

__all__ = ["Step", "headline_figures", "series_document"]

_METRICS = {metric.name: metric for metric in METRICS}
_HEADLINES = (
    "mismatch",
    "staleness",
    "total",
    "k3",
    "f2",
    "total_k3",
    "total_f2",
    "gain_r2",
    "gain_r3",
    "noise",
    "half_life",
)
_OF_COMPARISONS = 7
_OF_GAIN = ("gain_r2", "gain_r3")


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a run: its number, the entry that it was read from, its staleness document."""

    number: int
    entry: str
    document: Document


def _value(found: Mapping[str, Any], metric: str, gated: bool = False) -> Any:
    """A metric of a comparison, or of one of its layers; None where it has none.

    Gated, a figure of log-probs is NaN where tokens have one on one side alone.
    """
    one = _METRICS[metric]
    figures = found.get("logprobs")
    if figures is None or not one.key.startswith("logprobs."):
        return figure_of(found, one)
    if gated and figures.get("tokens_of_one_side"):
        return nan
    value, name = figure_of(found, one), one.key.removeprefix("logprobs.")
    said = figures.get("not_finite", {})
    undefined = name.startswith("pearson") and name not in said  # a side is constant
    if value is None and name in figures and not undefined:
        return float(said.get(name, "nan"))
    return value


def _gated(doc: Document, metric: str) -> tuple[str, list[tuple[str, ComparisonEntry]]]:
    """The metric within a comparison, and the comparisons that it is of by full name."""
    mode = doc["comparisons"][0]["mode"]
    if metric.startswith("staleness"):
        parts = [(f"staleness@lag{c['lag']}", c) for c in doc["by_lag"] if c["mode"] == mode]
        return "mismatch", [(n, c) for n, c in parts if metric in ("staleness", n)]
    total = metric == "total" or metric.startswith("total_")
    kind = "total" if total else "mismatch"
    inner = (metric.removeprefix("total").removeprefix("_") or "mismatch") if total else metric
    found = [c for c in doc["comparisons"] if (c["kind"], c["mode"]) == (kind, mode)]
    return inner, [(metric, c) for c in found]


def _figures_of(doc: Document, limit: Threshold) -> list[tuple[str, int | None, float | None]]:
    """Metric, layer and value of every figure that a threshold is about; free ones if there are."""
    gains = gain_figures(doc.get("gain"), gated=True)
    if limit.metric in gains:
        return [(limit.metric, None, gains[limit.metric])]
    if "_r2" in limit.metric or "_r3" in limit.metric:
        return []
    if limit.metric.partition("@")[0] in ("gamma", "confidence"):
        return _shift_of(doc, limit)
    inner, parts = _gated(doc, limit.metric)
    found: list[tuple[str, int | None, float | None]] = []
    for name, c in parts:
        if limit.layer is None:
            found.append((name, None, _value(c, inner, True)))
            continue
        layers = [part for part in c["layers"] if limit.layer in ("*", part["layer"])]
        found += [(name, part["layer"], _value(part, inner)) for part in layers]
    return found


def _shift_of(doc: Document, limit: Threshold) -> list[tuple[str, int | None, float | None]]:
    """The same of a threshold on the router shift."""
    name, mode = limit.metric.partition("@")[0], doc["comparisons"][0]["mode"]
    key = {"gamma": "mean_gamma", "confidence": "confidence_new"}[name]
    found: list[tuple[str, int | None, float | None]] = []
    for c in doc["by_lag"]:
        metric, shift = f"{name}@lag{c['lag']}", c.get("router_shift")
        if c["mode"] != mode or limit.metric not in (name, metric) or shift is None:
            continue
        if limit.layer is None:
            found.append((metric, None, shift.get(key)))
            continue
        layers = [part for part in shift["layers"] if limit.layer in ("*", part["layer"])]
        found += [(metric, part["layer"], part.get(key)) for part in layers]
    return found


def _figure_order(name: str) -> tuple[int, int]:
    """Where a figure of a trend stands among the others: as below, staleness by lag."""
    kind, _, lag = name.partition("@lag")
    return _HEADLINES.index(kind), int(lag or 0)


def headline_figures(doc: Document) -> dict[str, float | None]:
    """The figures of a step that a trend is made of; None where it has them not."""
    found: dict[str, float | None] = {}
    for metric in _HEADLINES[:_OF_COMPARISONS]:
        inner, parts = _gated(doc, metric)
        found |= {name: _value(c, inner) for name, c in parts}
        if not parts and metric != "staleness":
            found[metric] = None
    gains = gain_figures(doc.get("gain"))
    found |= {name: gains[name] for name in _OF_GAIN if name in gains}
    found["noise"] = max((n["mismatch_rate"] or 0.0 for n in doc["noise"]), default=None)
    lives = doc["drift"]["half_lives"]
    found["half_life"] = lives[0]["updates"] if lives else None
    return found


def _crossed(step: Step, limit: Threshold) -> list[Failure]:
    """A failure for each figure that is beyond a limit; figures that are not there are none."""
    return [
        Failure(limit.text, metric, layer, value, limit.limit)
        for metric, layer, value in _figures_of(step.document, limit)
        if value is not None and is_over(value, limit.limit, over=limit.over)
    ]


def _judge_last(step: Step, limits: Sequence[Threshold]) -> list[Failure]:
    """The limits that the last step crosses. Raises MismatchError where a figure is not there."""
    failed = []
    for limit in limits:
        found = _figures_of(step.document, limit)
        if not found or any(value is None for _, _, value in found):
            raise MismatchError(
                f"threshold {limit.text!r}: the last step, {step.entry}, has no {limit.metric}"
            )
        failed += _crossed(step, limit)
    return failed


def _trends(points: Sequence[StepEntry]) -> list[TrendEntry]:
    """First, last and slope of each figure over the steps that have it, as a finite number."""
    names = sorted({name for point in points for name in point["figures"]}, key=_figure_order)
    found: list[TrendEntry] = []
    for name in names:
        values = [(point["step"], point["figures"].get(name)) for point in points]
        known = [
            (number, value) for number, value in values if value is not None and isfinite(value)
        ]
        if known:
            found.append(
                {
                    "figure": name,
                    "steps": len(known),
                    "first": known[0][1],
                    "last": known[-1][1],
                    "slope": slope_of([n for n, _ in known], [value for _, value in known]),
                }
            )
    return found


def _entry(step: Step) -> StepEntry:
    entry: StepEntry = {
        "step": step.number,
        "entry": step.entry,
        "advice": step.document["advice"]["mode"],
        "alarms": [f["text"] for f in step.document["advice"]["findings"] if f["alarm"]],
        "figures": headline_figures(step.document),
    }
    infinite = not_finite(entry["figures"])
    if infinite:
        entry["not_finite"] = infinite
    return entry


def series_document(
    path: str,
    steps: Sequence[Step],
    skipped: Sequence[tuple[str, str]],
    limits: Sequence[Threshold] = (),
    fail_on: str | None = None,
) -> SeriesDocument:
    """The routectl.staleness_series/1 document.

    steps ascend by number; skipped names the entries that are none, each with the reason. limits
    are held against the last step; where each was first crossed is said. What no version of the
    last step covers counts as in its own verdict, its alarms where fail_on is "alarm". Raises
    MismatchError when the last step lacks a figure that is held against a limit.
    """
    points = [_entry(step) for step in steps]
    crossings: list[CrossingEntry] = []
    for limit in limits:
        first = next((step.number for step in steps if _crossed(step, limit)), None)
        crossings.append({"threshold": limit.text, "first_step": first})
    failed = _judge_last(steps[-1], limits)
    last = steps[-1].document["verdict"]
    judged = Judged(
        tuple(limit.text for limit in limits),
        tuple(failed),
        unmatched=left_over(Unmatched(**last.get("unmatched", {})), limits),
        allowed=last.get("allow_unmatched", False),
        fail_on=fail_on,
    )
    document: SeriesDocument = {
        "schema": "routectl.staleness_series/1",
        "path": path,
        "steps": points,
        "skipped": [{"entry": entry, "reason": reason} for entry, reason in skipped],
        "trends": _trends(points),
        "crossings": crossings,
        "verdict": verdict_document(judged, len(points[-1]["alarms"])),
    }
    return finite(document)
