"""Rows that no router gives: an expert twice, experts 0, 1, 2, ..., one row in every layer.

Shape suffixes: T tokens, L MoE layers, K top_k, E num_experts.
"""

import numpy as np
from numba import njit

from ..routes import Bools, Ids

__all__ = ["ALIKE", "ORDERED", "TWICE", "count_odd"]

TWICE, ORDERED, ALIKE = range(3)
_NO_MASK = np.zeros((0, 0), np.bool_)


@njit(nogil=True, cache=True)
def _count(ids, missing, stamps, found):  # type: ignore[no-untyped-def]
    layers, top_k, mark = ids.shape[1], ids.shape[2], 0
    for t in range(ids.shape[0]):
        alike = layers > 1
        for layer in range(layers):
            if missing.shape[0] > 0 and missing[t, layer]:
                alike = False
                continue
            mark += 1
            twice, ordered = False, top_k > 1
            for k in range(top_k):
                expert = ids[t, layer, k]
                twice |= stamps[expert] == mark
                stamps[expert] = mark
                ordered &= expert == k
                alike &= expert == ids[t, 0, k]
            alike &= not (twice or ordered)
            if twice or ordered:
                kind = 0 if twice else 1
                if found[kind, 0] == 0:
                    found[kind, 1], found[kind, 2] = t, layer
                found[kind, 0] += 1
        if alike:
            if found[2, 0] == 0:
                found[2, 1] = t
            found[2, 0] += layers


def count_odd(
    ids_TLK: Ids, num_experts: int, missing_TL: Bools | None = None
) -> tuple[tuple[int, int, int], ...]:
    """How many rows that are there are of each kind, and the first's (token, layer's index).

    By TWICE: an expert twice; ORDERED: 0, 1, 2, ... of K > 1; ALIKE: of a token with the same row,
    that is neither, in each of its several layers. Every id is below num_experts; (0, 0, 0) where
    no row is.
    """
    found, stamps = np.zeros((3, 3), np.int64), np.zeros(num_experts, np.int64)
    _count(ids_TLK, _NO_MASK if missing_TL is None else missing_TL, stamps, found)
    return tuple((int(rows), int(token), int(layer)) for rows, token, layer in found)
