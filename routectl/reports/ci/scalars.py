"""The figures of a result as named scalars, for the dashboard of a run."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from ...ops.check.book.results import CheckResult
from ...ops.diff.metrics import METRICS
from ...ops.diff.result import DiffResult
from ...ops.diff.thresholds import scalar_name
from ...ops.staleness.staleness import Staleness
from ...visible import visible
from ..check.document import check_document
from ..diff.document import diff_document
from ..diff.named import figure_of
from ..document import Document
from ..staleness.advice import advise
from ..staleness.document import staleness_document
from ..staleness.gain import gain_figures

__all__ = ["SCALED", "metrics"]

_Scalars = Iterator[tuple[str, Any]]


def metrics(result: DiffResult | CheckResult | Staleness | Document) -> dict[str, float]:
    """The scalars of a result of diff, check or staleness, or of its JSON document.

    Names are stable: ``routectl/mismatch``, ``routectl/mismatch/layer_007``; docs/metrics.md lists
    them. Rates are 0..1. A figure that is not defined, or not finite, is left out. Of a
    routectl.ci/1 document, names begin with the run's, made visible. Raises ValueError for other
    documents.
    """
    document = _document(result)
    schema = str(document.get("schema"))
    if schema not in _VOICES:
        raise ValueError(f"no metrics of {schema}: expected one of {', '.join(_VOICES)}")
    found = _VOICES[schema](dict(document))
    return {visible(name): float(value) for name, value in found if _is_number(value)}


def _document(result: Any) -> Document:
    if isinstance(result, DiffResult):
        return diff_document(result)
    if isinstance(result, CheckResult):
        return check_document(result)
    if isinstance(result, Staleness):
        return staleness_document(result, advise(result))
    if not isinstance(result, Mapping):
        raise TypeError(f"got {type(result).__name__}, expected a result or its document")
    return result


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _at(document: Document, place: str) -> Any:
    """An entry by its dotted path; None where the document has none."""
    found: Any = document
    for key in place.split("."):
        found = None if found is None else found.get(key)
    return found


def _figures(document: Document, prefix: str = "") -> _Scalars:
    """The figures of one comparison; ``total_`` before those of the total."""
    for metric in METRICS:
        plain = "total" if prefix and metric.name == "mismatch" else f"{prefix}{metric.name}"
        yield scalar_name(plain), figure_of(document, metric)
        if metric.of_measures is not None:
            for layer in document["layers"]:
                yield scalar_name(plain, layer["layer"]), figure_of(layer, metric)
    yield scalar_name(f"{prefix}rows"), document.get("rows")


def _of_diff(document: Document) -> _Scalars:
    yield from _figures(document)
    for noise in document.get("noise", ()):
        yield scalar_name("noise"), noise["mismatch_rate"]


def _of_check(document: Document) -> _Scalars:
    for severity, count in document["counts"].items():
        yield scalar_name(f"findings/{severity}"), count
    yield scalar_name("rows"), document.get("rows")
    found = document["explanation"]
    if found is None:
        return
    yield scalar_name("mismatch"), found["mismatch_rate"]
    for layer in found["layers"]:
        yield scalar_name("mismatch", layer["layer"]), layer["mismatch_rate"]
    for name in ("rows_mismatched", "rows_explained"):
        yield scalar_name(name), found[name]


def _of_staleness(document: Document) -> _Scalars:
    """Of the first mode, as thresholds are."""
    mode = document["comparisons"][0]["mode"]
    for one in document["comparisons"]:
        if one["mode"] == mode and one["kind"] != "staleness":
            yield from _figures(one, "total_" if one["kind"] == "total" else "")
    for one in document["by_lag"]:
        if one["mode"] != mode or one["kind"] != "staleness":
            continue
        name = f"staleness@lag{one['lag']}"
        yield scalar_name(name), one["mismatch_rate"]
        for layer in one["layers"]:
            yield scalar_name(name, layer["layer"]), layer["mismatch_rate"]
        yield scalar_name(f"gamma@lag{one['lag']}"), _at(one, "router_shift.mean_gamma")
        name = f"confidence@lag{one['lag']}"
        yield scalar_name(name), _at(one, "router_shift.confidence_new")
        for layer in _at(one, "router_shift.layers") or ():
            yield scalar_name(name, layer["layer"]), layer.get("confidence_new")
    for metric, value in gain_figures(document.get("gain")).items():
        yield scalar_name(metric), value
    rates = [noise["mismatch_rate"] for noise in document["noise"]]
    yield scalar_name("noise"), max((r for r in rates if r is not None), default=None)
    for life in document["drift"]["half_lives"]:
        yield scalar_name("half_life", life["layer"]), life["updates"]


def _of_series(document: Document) -> _Scalars:
    """Of the last step."""
    for figure, value in document["steps"][-1]["figures"].items():
        yield scalar_name(figure), value


def _of_runs(document: Document) -> _Scalars:
    for run in document["runs"]:
        for name, value in run["metrics"].items():
            yield f"{run['name']}/{name}", value


_VOICES = {
    "routectl.diff/1": _of_diff,
    "routectl.check/1": _of_check,
    "routectl.staleness/1": _of_staleness,
    "routectl.staleness_series/1": _of_series,
    "routectl.ci/1": _of_runs,
}
SCALED = tuple(_VOICES)  # the schemas that have scalars
