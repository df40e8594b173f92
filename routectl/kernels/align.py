"""The loops that lay one sequence of rows against others: ids shared, and the likeliest path.

Shape suffixes: T tokens, L layers, W 64-bit words of a set, K top_k, S states.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ..routes import Bools, Ids

__all__ = ["OUTSIDE", "SetBits", "likeliest_path", "log_odds", "set_bits"]

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
def _walk(odds, penalty, back, path):  # type: ignore[no-untyped-def]
    tokens, states = odds.shape
    score = odds[0].astype(np.float64)
    for t in range(1, tokens):
        best = 0
        for s in range(1, states):
            if score[s] > score[best]:
                best = s
        jump = score[best] - penalty
        for s in range(states):
            if jump > score[s]:
                score[s], back[t, s] = jump, best
            else:
                back[t, s] = s
            score[s] += odds[t, s]
    state = 0
    for s in range(1, states):
        if score[s] > score[state]:
            state = s
    for t in range(tokens - 1, -1, -1):
        path[t] = state
        state = back[t, state]


def likeliest_path(odds_TS: NDArray[np.float32], penalty: float) -> NDArray[np.int64]:
    """The states, int64 [T], whose log-odds less ``penalty`` a change of state are greatest.

    The Viterbi path of a chain that changes its state with probability exp(-penalty).
    """
    path = np.zeros(len(odds_TS), np.int64)
    if len(odds_TS):
        back = np.zeros(odds_TS.shape, np.int16)
        _walk(odds_TS, penalty, back, path)
    return path
