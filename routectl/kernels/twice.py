"""Rows in which an expert stands twice, and nothing else of them.

Shape suffixes: T tokens, L MoE layers, K top_k, E num_experts.
"""

import numpy as np
from numba import njit

from ..routes import Bools, Ids

__all__ = ["count_twice"]

_NO_MASK = np.zeros((0, 0), np.bool_)


@njit(nogil=True, cache=True)
def _count(ids, missing, stamps, first):  # type: ignore[no-untyped-def]
    rows, mark = 0, 0
    for t in range(ids.shape[0]):
        for layer in range(ids.shape[1]):
            if missing.shape[0] > 0 and missing[t, layer]:
                continue
            mark += 1
            twice = False
            for k in range(ids.shape[2]):
                twice |= stamps[ids[t, layer, k]] == mark
                stamps[ids[t, layer, k]] = mark
            if twice:
                if rows == 0:
                    first[0], first[1] = t, layer
                rows += 1
    return rows


def count_twice(
    ids_TLK: Ids, num_experts: int, missing_TL: Bools | None = None
) -> tuple[int, int, int]:
    """How many rows that are there name an expert twice, and the first's (token, layer's index).

    Every id is below num_experts; (0, 0, 0) where no row does.
    """
    first, stamps = np.zeros(2, np.int64), np.zeros(num_experts, np.int64)
    mask = _NO_MASK if missing_TL is None else missing_TL
    rows = _count(ids_TLK, mask, stamps, first)
    return int(rows), int(first[0]), int(first[1])
