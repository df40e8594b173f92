"""Expert loads of one dump or two, of which one at least has no routes: routectl.loads/1."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from ...errors import MismatchError
from ...ops.diff.measures import dead_experts, entropy, load_shift, vio
from ..document import finite
from ..text.tables import Column, Headline, print_layers, print_line, under_verdict
from ..text.wording import amount, figure, figures, layers_text, plural
from .schema import LayerLoads, LoadsDocument

__all__ = ["Loads", "loads_document", "render_loads"]

_NOTE = "load-only: how often experts were taken; which tokens took them is not there"


@dataclass(frozen=True, slots=True, eq=False)
class Loads:
    """The load of one side, int64 [L, E], and where it is from.

    passes are forward passes that were counted, None where routes were; experts says by which map
    ids were counted as logical ones.
    """

    path: str
    layers_L: tuple[int, ...]
    load_LE: NDArray[np.int64]
    passes: int | None = None
    mode: str | None = None
    experts: str | None = None
    model: str | None = None


def loads_document(sides: Sequence[Loads], names: Sequence[str]) -> LoadsDocument:
    """The routectl.loads/1 document of one side, or of two that are compared.

    Raises MismatchError where two have other numbers of experts, or no layer in common.
    """
    shared = [layer for layer in sides[0].layers_L if all(layer in s.layers_L for s in sides)]
    counts = sorted({side.load_LE.shape[1] for side in sides})
    if len(counts) > 1:
        raise MismatchError(
            f"{' and '.join(s.path for s in sides)}: of {counts[0]} and {counts[1]} experts"
        )
    if len(sides) > 1 and not shared:
        raise MismatchError(f"{' and '.join(s.path for s in sides)}: no layer in common")
    layers = [_layer(layer, sides) for layer in shared]
    shifts = [one["load_shift"] or 0.0 for one in layers]
    differs = len(sides) > 1 and any(shifts)
    document: LoadsDocument = {
        "schema": "routectl.loads/1",
        "note": _NOTE,
        "sides": [
            {
                "name": name,
                "path": side.path,
                "of": "routes" if side.passes is None else "counts",
                "mode": side.mode,
                "forward_passes": side.passes,
                "model": side.model,
                "expert_map": side.experts,
                "layers": list(side.layers_L),
                "num_experts": int(side.load_LE.shape[1]),
                "taken": int(side.load_LE.sum()),
            }
            for name, side in zip(names, sides, strict=True)
        ],
        "max_load_shift": max(shifts, default=0.0) if len(sides) > 1 else None,
        "layers": layers,
        "verdict": {"exit_code": int(differs)},
    }
    return finite(document)


def _layer(layer: int, sides: Sequence[Loads]) -> LayerLoads:
    loads = [side.load_LE[side.layers_L.index(layer)] for side in sides]
    return {
        "layer": layer,
        "taken": [int(load_E.sum()) for load_E in loads],
        "max_vio": [None if (off := vio(load_E)) is None else off.max for load_E in loads],
        "entropy": [entropy(load_E) for load_E in loads],
        "dead_experts": [dead_experts(load_E) for load_E in loads],
        "load_shift": load_shift(*loads) if len(loads) > 1 else None,
        "load": [load_E.tolist() for load_E in loads],
    }


def render_loads(doc: LoadsDocument, console: Console) -> None:
    """Print a routectl.loads/1 document."""
    rows, sides = doc["layers"], doc["sides"]
    with under_verdict(console, _headline(doc)):
        print_line(console, "", doc["note"])
        for side in sides:
            how = "counted of its routes"
            if side["of"] == "counts":
                passes = amount(side["forward_passes"] or 0)
                how = f"mode {side['mode']}, {passes} forward passes counted"
            print_line(
                console,
                side["name"].lower(),
                f"{side['path']}  ({how}; {layers_text(side['layers'])}, {side['num_experts']} "
                f"experts, {amount(side['taken'])} ids)",
            )
            if side["expert_map"] is not None:
                print_line(console, "ids by", side["expert_map"])
        console.print()
        columns = [Column("layer", [str(row["layer"]) for row in rows])]
        for i, side in enumerate(sides):
            of = f" {side['name']}" if len(sides) > 1 else ""
            columns += [
                Column(f"ids{of}", [amount(row["taken"][i]) for row in rows]),
                Column(f"max_vio{of}", figures([row["max_vio"][i] for row in rows])),
                Column(f"entropy{of}", figures([row["entropy"][i] for row in rows]), 1),
                Column(f"dead{of}", [amount(row["dead_experts"][i]) for row in rows]),
            ]
        if len(sides) > 1:
            columns.append(Column("load shift", figures([row["load_shift"] for row in rows])))
        scores = [row["load_shift"] if len(sides) > 1 else row["max_vio"][0] for row in rows]
        print_layers(
            console,
            columns,
            scores,
            lambda left: f"of {figure(min(left))} to {figure(max(left))}",
        )


def _headline(doc: LoadsDocument) -> Headline:
    shift = doc["max_load_shift"]
    if shift is None:
        return Headline("LOADS", "bold", f"load-only, of {plural(len(doc['layers']), 'layer')}")
    differ = bool(doc["verdict"]["exit_code"])
    word, style = ("DIFFERS", "bold yellow") if differ else ("SAME", "bold green")
    return Headline(word, style, f"load-only: load shift up to {figure(shift)} of a layer")
