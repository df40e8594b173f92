"""What is counted over rows by numpy alone: rows are told apart by their words, few are sets.

For what is done before compiled loops would be loaded, which takes half a second. Ids may lie token
by token or layer by layer (``routes.by_layer``), which is three times as fast.
Shape suffixes: T tokens, L MoE layers, K top_k, E num_experts, N rows that differ in their bytes.
"""

import numpy as np
from numpy.typing import NDArray

from ..routes import Bools, Ids, words_of

__all__ = ["Unlike", "loads_of", "swaps_of", "unlike_rows"]

Ints = NDArray[np.int64]
_ROWS = 1 << 15  # that are compared at a time


class Unlike:
    """The rows that differ in their bytes, layer after layer: where they are, and their ids."""

    def __init__(self, old_TLK: Ids, new_TLK: Ids, layer_N: Ints, token_N: Ints) -> None:
        self.layer_N, self.token_N = layer_N, token_N
        self.old_NK, self.new_NK = (
            np.ascontiguousarray(ids[token_N, layer_N]) for ids in (old_TLK, new_TLK)
        )


def unlike_rows(old_TLK: Ids, new_TLK: Ids, skip_TL: Bools | None, most: int) -> Unlike | None:
    """The rows that differ in their bytes, those in skip_TL aside; None beyond ``most``."""
    old, new = words_of(old_TLK).transpose(1, 0, 2), words_of(new_TLK).transpose(1, 0, 2)
    differ_LT = old[..., 0] != new[..., 0]
    for word in range(1, old.shape[2]):
        differ_LT |= old[..., word] != new[..., word]
    if skip_TL is not None:
        differ_LT &= ~skip_TL.T
    if np.count_nonzero(differ_LT) > most:
        return None
    places_N = np.flatnonzero(differ_LT.ravel())
    return Unlike(old_TLK, new_TLK, *np.divmod(places_N, max(len(old_TLK), 1)))


def loads_of(ids_TLK: Ids, num_experts: int, skip_TL: Bools | None) -> Ints:
    """How often each expert was taken in each layer, int64 [L, E]; rows in skip_TL left out."""
    load = np.empty((ids_TLK.shape[1], num_experts), np.int64)
    for layer, load_E in enumerate(load):
        rows = ids_TLK[:, layer]
        if skip_TL is not None:
            rows = rows[~skip_TL[:, layer]]
        load_E[:] = np.bincount(rows.reshape(-1), minlength=num_experts)
    return load


def swaps_of(old_NK: Ids, new_NK: Ids) -> Ints:
    """By how many ids the rows of two sides differ, as sets: max(|A|, |B|) - |A ∩ B|, int64 [N]."""
    swaps_N = np.empty(len(old_NK), np.int64)
    for first in range(0, len(old_NK), _ROWS):
        run = slice(first, first + _ROWS)
        old, new = (np.ascontiguousarray(ids[run].T) for ids in (old_NK, new_NK))
        size_old = size_new = shared = np.zeros(old.shape[1], np.uint16)
        for slot in range(len(old)):
            first_old = ~_among(old[slot], old[:slot])
            size_old = size_old + first_old
            size_new = size_new + ~_among(new[slot], new[:slot])
            shared = shared + (first_old & _among(old[slot], new))
        swaps_N[run] = np.maximum(size_old, size_new) - shared
    return swaps_N


def _among(ids_N: Ids, others_KN: Ids) -> Bools:
    """bool [N], which ids are among the others of their row."""
    found_N = np.zeros(len(ids_N), np.bool_)
    for others in others_KN:
        found_N |= ids_N == others
    return found_N
