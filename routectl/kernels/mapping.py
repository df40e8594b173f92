"""Ids of physical experts looked up in a map, row by row.

Shape suffixes: T tokens, L MoE layers, K top_k, P physical experts.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["look_up"]

_NO_MASK = np.empty((0, 0), np.bool_)


@njit(nogil=True, cache=True)
def _look_up(ids, missing, table, found):  # type: ignore[no-untyped-def]
    """Fill ``found``; the first row and layer with two copies of one expert, (-1, -1) without."""
    tokens, layers, top_k = ids.shape
    row, column = -1, -1
    for t in range(tokens):
        for layer in range(layers):
            if missing.size and missing[t, layer]:
                found[t, layer] = 0
                continue
            copies, filler = False, True
            for k in range(top_k):
                physical = ids[t, layer, k]
                expert = table[layer, physical]
                found[t, layer, k] = expert
                filler = filler and physical == k
                for j in range(k):
                    if found[t, layer, j] == expert and ids[t, layer, j] != physical:
                        copies = True
            if copies and not filler and row < 0:
                row, column = t, layer
    return row, column


def look_up(
    ids_TLK: NDArray[Any], table_LP: NDArray[Any], missing_TL: NDArray[np.bool_] | None = None
) -> tuple[NDArray[Any], tuple[int, int] | None]:
    """What each layer's map has at its ids, 0 in missing rows; every id is below P.

    Beside it the first row and layer, if any, where two different ids are copies of one expert.
    Rows of 0, 1, 2, ... in this order are filler, and not looked at.
    """
    found = np.empty(ids_TLK.shape, table_LP.dtype)
    mask = _NO_MASK if missing_TL is None else missing_TL
    row, layer = _look_up(ids_TLK, mask, table_LP, found)
    return found, None if row < 0 else (int(row), int(layer))
