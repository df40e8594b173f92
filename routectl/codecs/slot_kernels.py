"""Rows as slots: transposed, renamed, and each row sorted by a network.

Slot-major arrays make of a sorting network a few vector minima and maxima.
Shape suffixes: R rows, K top_k, E num_experts, P pairs of a network.
"""

import functools

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["count_ids", "rows_of_slots", "slots_of_rows", "sort_slots", "sorting_pairs"]

_NETWORK_UP_TO = 64  # K from which a network takes longer than a sort
_BLOCK = 2048  # rows that are sorted together: K slots of them stay in the first-level cache


@functools.lru_cache(maxsize=8)
def sorting_pairs(top_k: int) -> NDArray[np.int64]:
    """Batcher's merge exchange of K values as pairs [P, 2] (D. Knuth, TAOCP 3, 5.2.2, M).

    None beyond 64: from there on rows are to be sorted one by one.
    """
    pairs: list[tuple[int, int]] = []
    if top_k > _NETWORK_UP_TO:
        return np.empty((0, 2), np.int64)
    merged = 1
    while merged < top_k:
        step = merged
        while step:
            for low in range(step % merged, top_k - step, 2 * step):
                ends = range(low, min(low + step, top_k - step))
                group = 2 * merged
                pairs += [(i, i + step) for i in ends if i // group == (i + step) // group]
            step //= 2
        merged *= 2
    return np.array(pairs, np.int64).reshape(-1, 2)


@njit(nogil=True, cache=True)
def count_ids(ids_RK, counts_E):  # type: ignore[no-untyped-def]
    """Count how often each id occurs; the caller has checked that all are below E."""
    for r in range(ids_RK.shape[0]):
        for k in range(ids_RK.shape[1]):
            counts_E[ids_RK[r, k]] += 1


@njit(nogil=True, cache=True)
def slots_of_rows(ids_RK, rename_E, slots_KR):  # type: ignore[no-untyped-def]
    """Turn rows into slots, each id renamed."""
    rows, top_k = ids_RK.shape
    for lo in range(0, rows, 64):
        for k in range(top_k):
            for r in range(lo, min(lo + 64, rows)):
                slots_KR[k, r] = rename_E[ids_RK[r, k]]


@njit(nogil=True, cache=True)
def sort_slots(slots_KR, pairs_P2):  # type: ignore[no-untyped-def]
    """Sort each row in place, by a network of pairs."""
    rows = slots_KR.shape[1]
    for lo in range(0, rows, _BLOCK):
        hi = min(lo + _BLOCK, rows)
        for p in range(pairs_P2.shape[0]):
            low = slots_KR[pairs_P2[p, 0], lo:hi]
            high = slots_KR[pairs_P2[p, 1], lo:hi]
            for r in range(hi - lo):
                a, b = low[r], high[r]
                low[r] = min(a, b)
                high[r] = max(a, b)


@njit(nogil=True, cache=True)
def rows_of_slots(slots_KR, order_E, pairs_P2, ids_RK):  # type: ignore[no-untyped-def]
    """Turn slots into rows, each id named again, each row ascending."""
    top_k, rows = slots_KR.shape
    block = np.empty((top_k, min(rows, _BLOCK)), ids_RK.dtype)
    for lo in range(0, rows, _BLOCK):
        width = min(_BLOCK, rows - lo)
        for k in range(top_k):
            slot, named = slots_KR[k, lo : lo + width], block[k]
            for r in range(width):
                named[r] = order_E[slot[r]]
        sort_slots(block[:, :width], pairs_P2)
        part = ids_RK[lo : lo + width]
        for k in range(top_k):
            named = block[k]
            for r in range(width):
                part[r, k] = named[r]
