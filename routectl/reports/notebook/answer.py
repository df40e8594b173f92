"""A document as a notebook shows it: the verdict, the main pictures, and the report folded."""

import html
from collections.abc import Callable
from typing import Any

import numpy as np

from ..document import Document, visible_document
from ..page.markup import report_markup
from ..page.page import render_of
from .pictures import Bar, bars, heat

__all__ = ["notebook_html"]

_OPEN = ("routectl.check/1", "routectl.verify/1")  # what there is to read is findings
_TONES = {0: "#2e7d32", 1: "#c0392b", 2: "#b26a00"}  # by exit code


def notebook_html(doc: Document) -> str:
    """HTML of a document that needs no script and fetches nothing, for ``_repr_html_``.

    Raises FormatError for a schema without a view.
    """
    shown = visible_document(doc)
    verdict, compared, rest = report_markup(shown, render_of(doc))
    tone = _TONES.get(shown.get("verdict", {}).get("exit_code", 0), _TONES[2])
    draw = _PICTURES.get(str(doc["schema"]), lambda _: [])
    head = ""
    if verdict:
        style = f"border-left:4px solid {tone};padding-left:8px;font-weight:bold"
        head = f'<div style="{style}">{html.escape(verdict)}</div>'
    parts = [head, compared, *draw(shown)]
    if rest:
        shut = "<details open>" if doc["schema"] in _OPEN else "<details>"
        parts.append(f"{shut}<summary>the whole report</summary>{rest}</details>")
    return f'<div class="routectl">{"".join(parts)}</div>'


def _layers(entries: Any, figure: str) -> list[Bar]:
    return [
        Bar(str(e["layer"]), e[figure], *_ends(e.get("mismatch_interval")))
        for e in entries
        if e["layer"] is not None
    ]


def _ends(interval: Any) -> tuple[float | None, float | None]:
    return (None, None) if interval is None else (interval["low"], interval["high"])


def _of_diff(doc: Any) -> list[str]:
    positions = [Bar(str(p["from"]), p["mismatch_rate"]) for p in doc["positions"]]
    return [
        bars("mismatch rate by layer", _layers(doc["layers"], "mismatch_rate")),
        bars("mismatch rate by first position of a bin", positions),
        *_places(doc.get("detail"), [entry["layer"] for entry in doc["layers"]]),
    ]


def _places(detail: Any, layers: list[int]) -> list[str]:
    """Where rows differ, by layer and position, all places added up."""
    if not detail or not detail.get("places"):
        return []
    bins = max(len(place["rows"][0]) for place in detail["places"])
    rows, wrong = np.zeros((len(layers), bins)), np.zeros((len(layers), bins))
    for place in detail["places"]:
        for total, name in ((rows, "rows"), (wrong, "rows_mismatched")):
            counted = np.array(place[name])
            total[:, : counted.shape[1]] += counted
    with np.errstate(invalid="ignore"):
        rates = wrong / rows
    foot = (
        f"layers {layers[0]} (top) to {layers[-1]}, positions 0 to {bins * detail['bin_width']:,}"
    )
    return [heat("mismatch rate by layer and position", rates, foot)]


def _of_check(doc: Any) -> list[str]:
    found = doc["explanation"]
    if found is None:
        return []
    return [bars("mismatch rate by layer", _layers(found["layers"], "mismatch_rate"))]


def _of_staleness(doc: Any) -> list[str]:
    drawn = []
    for mode in ("free", "forced"):
        parts = [c for c in doc["comparisons"] if c["mode"] == mode and c["kind"] == "mismatch"]
        parts += [c for c in doc["by_lag"] if c["mode"] == mode]
        lags = [
            Bar(
                "mismatch" if c["kind"] == "mismatch" else f"lag {c['lag']}",
                c["mismatch_rate"],
                *_ends(c["intervals"]["mismatch_rate"]),
            )
            for c in parts
        ]
        drawn.append(bars(f"rows that differ, {mode} routes, with intervals", lags))
    speeds = doc["drift"]["speeds"]
    lag = next((s["lag"] for s in speeds), None)
    title = f"rows that change over lag {lag}, by layer, with intervals"
    replays = [
        Bar(f"{one['version']} {mode['mode']}", mode["k3"], *_ends(mode["intervals"]["k3"]))
        for one in doc["gain"]["versions"]
        for mode in one["modes"]
    ]
    if replays:
        drawn.append(bars("k3 by replay, with intervals", replays, percent=False))
    return [*drawn, bars(title, _layers(speeds, "mismatch_rate"))]


def _of_show(doc: Any) -> list[str]:
    title = "max_vio by layer: the busiest expert over the even share, less 1"
    drawn = [bars(title, _layers(doc["layers"], "max_vio"), percent=False)]
    load = (doc.get("detail") or {}).get("load")
    if load is not None:
        counts = np.array(load["dump"], np.float64)
        with np.errstate(invalid="ignore"):
            shares = counts / counts.sum(axis=1, keepdims=True)
        foot = f"layers {doc['layers'][0]['layer']} (top) to {doc['layers'][-1]['layer']}"
        drawn.append(heat("share of the load by layer and expert", shares, foot))
    return drawn


_PICTURES: dict[str, Callable[[Any], list[str]]] = {
    "routectl.diff/1": _of_diff,
    "routectl.check/1": _of_check,
    "routectl.staleness/1": _of_staleness,
    "routectl.show/1": _of_show,
}
