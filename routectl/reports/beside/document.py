"""Two reports of one kind as one JSON document, routectl.beside/1; docs/json.md is the contract."""

from collections.abc import Mapping
from typing import Any

from ...errors import MismatchError
from ..document import Document
from ..text.recorded import Render, printed_parts
from ..text.tables import Labelled
from .figures import COMPARED, figures_of, is_rate
from .schema import BesideDocument, BesideSide, FigurePair, LayerFigure, LayerPair, PairedFigure

__all__ = ["beside_document"]

_WORST = 8


def beside_document(
    a: tuple[str, Document], b: tuple[str, Document], render: Render
) -> BesideDocument:
    """Two visible reports, each with the name of its file; ``render`` prints one of their kind.

    Figures of the whole come first, then by layer; of each layer figure the layers in which the
    reports part most. Raises MismatchError where the reports are of other kinds or of other models.
    """
    _refuse_others(a, b)
    found = figures_of(a[1]), figures_of(b[1])
    names = list(dict.fromkeys(key for side in found for key in side))
    figures: list[FigurePair] = []
    by_layer: dict[str, list[LayerPair]] = {}
    for name, layer in names:
        pair = _paired(found[0].get((name, layer)), found[1].get((name, layer)))
        if layer is None:
            figures.append({"name": name, "rate": is_rate(name), **pair})
        else:
            by_layer.setdefault(name, []).append({"layer": layer, **pair})
    return {
        "schema": "routectl.beside/1",
        "of": a[1]["schema"],
        "a": _side(*a, render),
        "b": _side(*b, render),
        "figures": figures,
        "layer_figures": [_layer_figure(name, pairs) for name, pairs in by_layer.items()],
        "figures_differing": sum(f["a"] != f["b"] for f in figures),
    }


def _paired(a: float | None, b: float | None) -> PairedFigure:
    return {"a": a, "b": b, "difference": None if a is None or b is None else b - a}


def _layer_figure(name: str, pairs: list[LayerPair]) -> LayerFigure:
    pairs = sorted(pairs, key=lambda p: p["layer"])
    apart = [p for p in pairs if p["difference"]]
    apart.sort(key=lambda p: (-abs(p["difference"] or 0), p["layer"]))
    worst = [p["layer"] for p in apart[:_WORST]]
    return {"name": name, "rate": is_rate(name), "layers": pairs, "worst": worst}


def _side(path: str, document: Document, render: Render) -> BesideSide:
    """What a report says first: its verdict, and what it is of."""
    parts = printed_parts(document, render)
    first = "" if isinstance(parts[0], Labelled) else str(parts[0])
    end = parts.index(None) if None in parts else len(parts)
    about = [f"{p.label}: {p.words}" for p in parts[:end] if isinstance(p, Labelled)]
    return {"path": path, "about": about, "verdict": " ".join(first.split())}


def _refuse_others(a: tuple[str, Document], b: tuple[str, Document]) -> None:
    """Raise MismatchError where two reports cannot be laid side by side."""
    kinds = [document["schema"] for _, document in (a, b)]
    if kinds[0] != kinds[1]:
        raise MismatchError(
            f"{a[0]} is of {kinds[0]}, {b[0]} of {kinds[1]}: expected two reports of one command"
        )
    if kinds[0] not in COMPARED:
        raise MismatchError(f"{a[0]}, {b[0]}: reports of {kinds[0]} are not laid side by side")
    models = [_model(document) for _, document in (a, b)]
    if models[0] != models[1]:
        raise MismatchError(
            f"{a[0]} is of a model of {_model_text(models[0])}, {b[0]} of {_model_text(models[1])}"
        )


def _model(document: Document) -> tuple[Any, ...] | None:
    """The MoE layers, K and E that a report is of; None where it does not say them."""
    sizes: Mapping[str, Any] = document
    for key in ("old", "dump"):
        if isinstance(document.get(key), dict):
            sizes = document[key]
            break
    if "layers" not in sizes or "top_k" not in sizes:
        return None
    return tuple(sizes["layers"]), sizes["top_k"], sizes.get("num_experts")


def _model_text(model: tuple[Any, ...] | None) -> str:
    if model is None:
        return "unknown sizes"
    layers, top_k, experts = model
    of = "" if experts is None else f" of {experts}"
    return f"{len(layers)} MoE layers, top-{top_k}{of}"
