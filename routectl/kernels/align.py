"""The loops that lay one sequence of rows against others: ids shared, and the likeliest path.

Shape suffixes: T tokens, L layers, W 64-bit words of a set, K top_k, S states.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ..routes import Bools, Ids

__all__ = ["OUTSIDE", "SetBits", "best_path", "log_odds", "set_bits"]

OUTSIDE = np.float32(-100.0)  # log-odds of a state whose source is not there
SetBits = NDArray[np.uint64]


@njit(nogil=True, cache=True)
def _fill_bits(ids, bits):  # type: ignore[no-untyped-def]
    for t in range(ids.shape[0]):
        for layer in range(ids.shape[1]):
            for k in range(ids.shape[2]):
                expert = np.uint64(ids[t, layer, k])
                word = np.int64(expert >> np.uint64(6))
                bits[t, layer, word] |= np.uint64(1) << (expert & np.uint64(63))


def set_bits(ids_TLK: Ids, num_ids: int) -> SetBits:
    """Each row as a set of bits, uint64 [T, L, W] with W = ceil(num_ids / 64)."""
    bits = np.zeros((*ids_TLK.shape[:2], -(-num_ids // 64)), np.uint64)
    _fill_bits(ids_TLK, bits)
    return bits


@njit(nogil=True, cache=True)
def _ones(word):  # type: ignore[no-untyped-def]
    """How many bits of a word are set (Hacker's Delight, figure 5-2, for 64 bits)."""
    word = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    word = (word & np.uint64(0x3333333333333333)) + (
        (word >> np.uint64(2)) & np.uint64(0x3333333333333333)
    )
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((word * np.uint64(0x0101010101010101)) >> np.uint64(56))


@njit(nogil=True, cache=True)
def _sum_odds(ours, there, theirs, also, offsets, table, total):  # type: ignore[no-untyped-def]
    tokens, layers, words = ours.shape
    for t in range(tokens):
        for s in range(len(offsets)):
            source = t + offsets[s]
            if source < 0 or source >= theirs.shape[0]:
                total[t, s] = np.float32(-100.0)
                continue
            odds = np.float32(0)
            for layer in range(layers):
                if not (there[t, layer] and also[source, layer]):
                    continue
                shared = 0
                for w in range(words):
                    shared += _ones(ours[t, layer, w] & theirs[source, layer, w])
                odds += table[layer, shared]
            total[t, s] = odds


def log_odds(
    ours: tuple[SetBits, Bools],
    theirs: tuple[SetBits, Bools],
    offsets_S: NDArray[np.int64],
    table: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Nats, float32 [T, S], for row t of one side being row ``t + offsets_S[s]`` of the other.

    Each side is its bits [T, L, W] and which rows are there, bool [T, L]; ``table[l, n]``, float32
    [L, K + 1], has the nats of n shared ids in a layer. Layers that one side lacks add nothing;
    a source outside of the other side has OUTSIDE.
    """
    total = np.zeros((len(ours[0]), len(offsets_S)), np.float32)
    _sum_odds(*ours, *theirs, offsets_S, table, total)
    return total


@njit(nogil=True, cache=True)
def _best_path(gains, enter, total, before, states):  # type: ignore[no-untyped-def]
    count, rows = gains.shape
    for s in range(count):
        total[s] = gains[s, 0] - enter[s]
    for t in range(1, rows):
        best = 0
        for s in range(1, count):
            if total[s] > total[best]:
                best = s
        top = total[best]
        for s in range(count):
            moved = top - enter[s]
            if total[s] >= moved:
                before[t, s] = s
                moved = total[s]
            else:
                before[t, s] = best
            total[s] = moved + gains[s, t]
    last = 0
    for s in range(1, count):
        if total[s] > total[last]:
            last = s
    for t in range(rows - 1, -1, -1):
        states[t] = last
        last = before[t, last]


def best_path(
    gains_ST: NDArray[np.int32] | NDArray[np.float32],
    enter_S: NDArray[np.int64] | NDArray[np.float64],
) -> NDArray[np.int32]:
    """The states of rows with the largest sum of gains less what entering each stretch costs.

    A stretch in state s costs ``enter_S[s]``, at the first row too; gains and costs are both whole
    numbers or both floats. Of equal paths one that stays is taken. int32 [T]. (The algorithm of
    Viterbi, 1967, with costs that depend on the entered state alone.)
    """
    states = np.zeros(gains_ST.shape[1], np.int32)
    if len(states):
        total = np.zeros(len(gains_ST), enter_S.dtype)
        before = np.zeros((len(states), len(gains_ST)), np.int16)
        _best_path(gains_ST, enter_S, total, before, states)
    return states
