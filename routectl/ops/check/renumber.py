"""A dump with the experts of some layers renumbered: physical ids made logical again.

Shape suffixes: T tokens, L MoE layers, K top_k, E experts.
"""

from dataclasses import replace

import numpy as np

from ...dump import Dump, Sample
from ...errors import MismatchError
from .explained import Explanation

__all__ = ["renumbered_dump"]

_WHOLE = 0.8  # of a layer's rows that differ, from which all of them are taken to be renumbered


def renumbered_dump(dump: Dump, found: Explanation) -> Dump:
    """The same samples, each layer's ids mapped by ``found.permutations``; lazily, none is read.

    Raises MismatchError where there is nothing to map, or where only part of a layer's rows is
    renumbered: the map would break the others.
    """
    if not found.permutations:
        raise MismatchError("nothing to fix: no layer's experts are renumbered (R706)")
    rates = {
        layer: wrong / rows if rows else 0.0
        for layer, rows, wrong in zip(found.layers, found.rows_L, found.mismatched_L, strict=True)
    }
    for layer, _ in found.permutations:
        if rates[layer] < _WHOLE:
            raise MismatchError(
                f"layer {layer}: got {rates[layer]:.0%} of its rows renumbered, expected all: "
                "a map of the layer would break the others"
            )
    maps = {
        dump.meta.layers_L.index(layer): np.array(to, np.int64) for layer, to in found.permutations
    }

    def load(index: int) -> Sample:
        sample = dump[index]
        routes = sample.routes
        if routes is None:
            return sample
        ids_TLK = routes.ids_TLK.copy()
        for column, to_E in maps.items():
            ids_TLK[:, column] = to_E[ids_TLK[:, column]]
        if routes.missing_TL is not None:
            ids_TLK[routes.missing_TL] = 0
        return replace(sample, routes=replace(routes, ids_TLK=ids_TLK), gates=None)

    return Dump(replace(dump.meta, gates=False), dump.keys, load)
