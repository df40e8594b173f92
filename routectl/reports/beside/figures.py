"""The figures of a report by name, of the whole and of layers, for whatever kind it is of."""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..ci.scalars import SCALED, metrics
from ..document import Document

__all__ = ["COMPARED", "figures_of", "is_rate"]

Figures = dict[tuple[str, int | None], float]  # by name and layer, None of the whole
_SCALAR = re.compile(r"(.*?)(?:routectl/)(.*?)(?:/layer_(\d+))?")
_RATES = re.compile(
    r"(?:.*/)?(?:total_)?(?:mismatch|overlap|order|zero_overlap|tie|near|clear|margin_coverage|"
    r"token_mismatch|coverage|f[0-9.]+|equal_logprobs|noise(?: .*)?|total|"
    r"staleness(?:@lag\d+)?|accuracy .*|stale .*|entropy|load_shift)"
)
_OF_SHOW = (
    "samples",
    "samples_without_routes",
    "samples_with_logprobs",
    "samples_retracted",
    "prompt_tokens",
    "response_tokens",
    "cached_tokens",
    "tokens_with_routes",
    "rows",
    "rows_missing",
    "rows_with_margin",
    "ties",
    "file_bytes_per_token",
)
_OF_VERIFY = (
    "files",
    "rows",
    "rows_wrong",
    "rows_reordered",
    "routes",
    "routes_absent",
    "routes_repeated",
    "rows_masked",
    "rows_unmasked",
    "rows_missing",
    "rows_made_up",
    "ep_imbalance",
    "ep_imbalance_padding",
)
_OF_CHECKPOINT = (
    "files",
    "file_bytes",
    "tensors",
    "tensor_bytes",
    "streamed_bytes",
    "other_bytes",
)


def is_rate(name: str) -> bool:
    """Whether a figure is a share, which is told in percent."""
    return _RATES.fullmatch(name) is not None


def figures_of(document: Document) -> Figures:
    """The figures of a report by name and layer; those that are undefined, or no number, are not.

    Of a diff, a check, a staleness, a series and a ci they are its scalars (docs/metrics.md).
    """
    schema = document["schema"]
    found: Figures = {}
    if schema in SCALED:
        for scalar, value in metrics(document).items():
            match = _SCALAR.fullmatch(scalar)
            run, name, layer = match.groups() if match else ("", scalar, None)
            found[run + name, None if layer is None else int(layer)] = value
        return found
    for name, layer, value in _OWN[schema](document):
        if isinstance(value, int | float) and math.isfinite(value):
            found[name, layer] = float(value)
    return found


_Own = Iterator[tuple[str, int | None, Any]]


def _picked(document: Mapping[str, Any], names: tuple[str, ...]) -> _Own:
    for name in names:
        yield name, None, document.get(name)


def _show(document: Document) -> _Own:
    yield from _picked(document, _OF_SHOW)
    for entry in document["layers"]:
        for name in ("max_vio", "entropy", "dead_experts", "rows_missing", "lift"):
            yield name, entry["layer"], entry.get(name)


def _verify(document: Document) -> _Own:
    yield from _picked(document, _OF_VERIFY)


def _checkpoint(document: Document) -> _Own:
    yield from _picked(document, _OF_CHECKPOINT)
    yield "router_bytes", None, document["router"]["bytes"]
    for entry in document["layer_bytes"]:
        yield "bytes", entry["layer"], entry["bytes"]


def _predict(document: Document) -> _Own:
    for one in document["comparisons"]:
        for layer, entry in ((None, one), *((e["layer"], e) for e in one["layers"])):
            for kind in ("frozen", "extrapolated", "predicted"):
                if kind in entry:
                    figures = entry[kind]
                    name = f"{kind} at {one['version']}"
                    yield f"accuracy {name}", layer, figures["accuracy"]["value"]
                    yield f"stale {name}", layer, figures["mismatch"]["value"]


def _recompute(document: Document) -> _Own:
    """Those of the dump against each mode, named by it."""
    for one in document["comparisons"]:
        for (name, layer), value in figures_of(one["diff"]).items():
            yield f"{one['mode']}/{name}", layer, value
    for run in document["noise"]:
        yield f"noise {run['name']}", None, run["mismatch_rate"]


_OWN: Mapping[str, Callable[[Document], _Own]] = {
    "routectl.show/1": _show,
    "routectl.verify/1": _verify,
    "routectl.checkpoint/1": _checkpoint,
    "routectl.predict/1": _predict,
    "routectl.recompute/1": _recompute,
}
COMPARED = (*SCALED, *_OWN)  # the schemas of which two reports can be laid side by side
