"""The loop over rows of selection scores: top-k with lowest ids first, in one pass.

Shape suffixes: T tokens, E columns, K top_k.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["top_k_rows"]


@njit(nogil=True, cache=True)
def _top_k_rows(scores, k, ids, margin):  # type: ignore[no-untyped-def]
    """Insert each score into the row's sorted best; an equal one goes behind, so lower ids win."""
    width = min(k + 1, scores.shape[1])
    best = np.empty(width, np.float32)
    who = np.empty(width, np.int64)
    for t in range(scores.shape[0]):
        filled = 0
        broken = False
        for e in range(scores.shape[1]):
            score = scores[t, e]
            if score != score:
                broken = True
                score = np.float32(np.inf)
            if filled == width:
                if not score > best[width - 1]:
                    continue
                place = width - 1
            else:
                place = filled
                filled += 1
            while place > 0 and score > best[place - 1]:
                best[place] = best[place - 1]
                who[place] = who[place - 1]
                place -= 1
            best[place] = score
            who[place] = e
        for slot in range(k):
            ids[t, slot] = who[slot]
        if broken:
            margin[t] = np.nan
        elif width == k:
            margin[t] = np.inf
        elif best[k - 1] == best[k]:
            margin[t] = 0.0
        else:
            margin[t] = best[k - 1] - best[k]


def top_k_rows(
    scores_TE: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Ids [T, k] by descending score, equal ones by ascending id, and the boundary margin [T].

    The same as ``routers.top_k`` on float32, and several times as fast; a row with NaN has the
    margin NaN. ``scores_TE`` is float32, C order.
    """
    ids_TK = np.empty((scores_TE.shape[0], k), np.int64)
    margin_T = np.empty(scores_TE.shape[0], np.float32)
    _top_k_rows(scores_TE, k, ids_TK, margin_T)
    return ids_TK, margin_T
