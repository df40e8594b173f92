"""Names of estimates: what a model of layers or ids is called, and where it holds.

Shape suffixes: C columns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..book.results import Fact, FoundMap
from .maps import IdMap, map_name
from .models import Model
from .side import Ints

__all__ = ["ModelName", "Where", "found_map", "name_model", "name_single"]

_WORDS = {1: "one", 2: "two", 3: "three"}
_PAIRS = 8  # exchanged layers that are told
_MOST = 0.9  # of samples that begin at a position, from which it is said of all


@dataclass(frozen=True, slots=True)
class ModelName:
    """The code of a model's finding, its facts, and both in words."""

    code: str
    detail: str
    facts: Mapping[str, Fact]


@dataclass(slots=True)
class Where:
    """The samples that were compared.

    spans are those that are judged, by index: name, first position and the last's end; compared
    the indices of all, ascending, and tokens how many positions they have.
    """

    spans: dict[int, tuple[str, int, int]]
    compared: Ints
    tokens: int

    def words(self, runs: Sequence[tuple[int, int, int]]) -> str:
        """Where runs (index, first position, after the last) are; nothing for everywhere."""
        held: dict[int, tuple[int, int]] = {}
        for index, first, end in runs:
            low, high = held.get(index, (first, end))
            held[index] = min(low, first), max(high, end)
        inside, size = sorted(held), len(self.compared)
        firsts = np.array([held[i][0] - self.spans[i][1] for i in inside])
        ends = np.array([self.spans[i][2] - held[i][1] for i in inside])
        whole = float((firsts <= 2).mean()) >= _MOST and float((ends <= 2).mean()) >= _MOST
        if whole and len(inside) >= _MOST * size:
            return ""
        if whole:
            return self._samples(inside)
        for edge, word in ((0, "from"), (1, "up to")):
            places = np.array([held[i][edge] for i in inside])
            middle = int(np.median(places))
            other = firsts if edge else ends
            if (np.abs(places - middle) <= 2).mean() >= _MOST and (other <= 2).mean() >= _MOST:
                return f"{word} position {middle} on" if edge == 0 else f"up to position {middle}"
        return "" if len(inside) == size else f"in {len(inside)} of {size} samples"

    def _samples(self, inside: list[int]) -> str:
        first, last = (int(np.searchsorted(self.compared, inside[n])) for n in (0, -1))
        names = [self.spans[i][0] for i in (inside[0], inside[-1])]
        size = len(self.compared)
        if len(inside) < _MOST * (last - first + 1) or len(inside) == 1:
            return f"in {len(inside)} of {size} samples"
        if last == size - 1:
            return f"from sample {names[0]} on"
        if first == 0:
            return f"up to sample {names[1]}"
        return f"from sample {names[0]} to {names[1]}"


def name_model(model: Model, layers: tuple[int, ...], num_experts: int) -> ModelName:
    """The name of what was done in all layers together."""
    if model.maps is not None:
        changed = [
            (c, m) for c, m in zip(model.columns, model.maps, strict=True) if not m.is_identity
        ]
        return _map_named([m for _, m in changed], num_experts)
    moved = {c: s for c, s in zip(model.columns, model.source_C, strict=True) if c != s}
    steps, counts = np.unique([s - c for c, s in moved.items()], return_counts=True)
    step = int(steps[counts.argmax()])
    if counts.max() >= len(layers) - abs(step) and counts.max() > 1:  # around the end, or not
        return ModelName("R702", _shift_words(step), {"shift": step})
    named = {layers[c]: layers[s] for c, s in moved.items()}
    if sorted(moved) == sorted(moved.values()):
        return _permuted(named)
    taken = _pairs(named)
    return ModelName("R705", taken, {"taken": taken})


def _pairs(source: Mapping[int, int]) -> str:
    """Which layer has whose routes, the first ones of many."""
    pairs = [f"{a} has {b}'s" for a, b in sorted(source.items())]
    more = len(pairs) - _PAIRS
    return f"layer {', '.join(pairs[:_PAIRS])}" + (f", and {more} more" if more > 0 else "")


def _permuted(source: Mapping[int, int]) -> ModelName:
    words = _pairs(source)
    return ModelName("R703", words, {"order": words})


def name_single(
    model: Model, layers: tuple[int, ...], num_experts: int, exchanged: Mapping[int, int]
) -> ModelName:
    """The name of what was done in one layer; ``exchanged`` has the layer that each column has."""
    column, source = model.columns[0], model.source_C[0]
    if model.maps is not None:
        named = _map_named(list(model.maps), num_experts)
        detail = ": ".join(w for w in (f"layer {layers[column]}", named.detail) if w)
        return ModelName(named.code, detail, {**named.facts, "layer": layers[column]})
    if exchanged.get(source) is not None and set(exchanged) == set(exchanged.values()):
        return _permuted({layers[a]: layers[b] for a, b in exchanged.items()})
    detail = f"layer {layers[column]} has the routes of layer {layers[source]}"
    return ModelName("R705", detail, {"layer": layers[column], "source": layers[source]})


def _map_named(maps: Sequence[IdMap], num_experts: int) -> ModelName:
    """Renumbered where each id still says which expert it was, else cut."""
    names = {map_name(m, num_experts) for m in maps}
    name = names.pop() if len(names) == 1 else "renumbered"
    code = "R706" if all(m.backward for m in maps) else "R717"
    return ModelName(code, name if name != "renumbered" else "", {"map": name})


def _shift_words(shift: int) -> str:
    size = _WORDS.get(abs(shift), str(abs(shift)))
    return f"routes of the MoE layer {size} {'further on' if shift > 0 else 'before'}"


def found_map(
    model: Model,
    layers: tuple[int, ...],
    name: str,
    where: tuple[tuple[int, int, int], ...],
) -> FoundMap:
    """The map as it is reported, and as ``check --save`` undoes it."""
    assert model.maps is not None
    changed = [(c, m) for c, m in zip(model.columns, model.maps, strict=True) if not m.is_identity]
    invertible = all(m.backward for _, m in changed)
    to = tuple((layers[c], tuple(int(n) for n in m.filled().tolist())) for c, m in changed)
    return FoundMap(name, to, invertible, where)
