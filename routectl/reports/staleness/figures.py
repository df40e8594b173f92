"""Figures read off a routectl.staleness/1 document by the names that thresholds have."""

from typing import Any

from ...ops.diff.thresholds import Threshold
from ..diff.document import Document

__all__ = ["figure_order", "figures_of", "headline_figures"]

_KEYS = {
    "mismatch": "mismatch_rate",
    "overlap": "overlap_rate",
    "order": "order_mismatch_rate",
    "zero_overlap": "zero_overlap_rate",
    "load_shift": "load_shift",
    "rows_mismatched": "rows_mismatched",
    "rows_missing": "rows_missing",
    "token_mismatch": "token_mismatch_rate",
    "coverage": "coverage_rate",
}
_OF_LOGPROBS = {
    "k1": "k1",
    "k3": "k3",
    "abs_d": "mean_abs_d",
    "max_d": "max_abs_d",
    "f2": "f_tau",
}
_HEADLINES = (
    "mismatch",
    "staleness",
    "total",
    "k3",
    "f2",
    "total_k3",
    "total_f2",
    "noise",
    "half_life",
)
_OF_COMPARISONS = 7
_OF_MARGINS = ("tie", "near", "clear", "margin_coverage")


def _value(found: Document, metric: str) -> Any:
    """A metric of a comparison, or of one of its layers; None where it has none."""
    if metric in _KEYS:
        return found.get(_KEYS[metric])
    if metric in _OF_LOGPROBS:
        return (found.get("logprobs") or {}).get(_OF_LOGPROBS[metric])
    if metric in _OF_MARGINS:
        return found.get("margins", {}).get(f"{metric}_rate")
    assert metric == "unmatched", metric
    return found["samples"]["only_old"] + found["samples"]["only_new"]


def _gated(doc: Document, metric: str) -> tuple[str, list[tuple[str, Document]]]:
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


def figures_of(doc: Document, limit: Threshold) -> list[tuple[str, int | None, float | None]]:
    """Metric, layer and value of every figure that a threshold is about; free ones if there are."""
    inner, parts = _gated(doc, limit.metric)
    found: list[tuple[str, int | None, float | None]] = []
    for name, c in parts:
        if limit.layer is None:
            found.append((name, None, _value(c, inner)))
            continue
        layers = [part for part in c["layers"] if limit.layer in ("*", part["layer"])]
        found += [(name, part["layer"], _value(part, inner)) for part in layers]
    return found


def figure_order(name: str) -> tuple[int, int]:
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
    found["noise"] = max((n["mismatch_rate"] or 0.0 for n in doc["noise"]), default=None)
    lives = doc["drift"]["half_lives"]
    found["half_life"] = lives[0]["updates"] if lives else None
    return found
