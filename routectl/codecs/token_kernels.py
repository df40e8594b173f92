"""The loops of ``token``: masks of listed experts and gaps of the others, through rANS.

Frequencies are the dictionary's, so that nothing is learnt and rows go in passes: one over all rows
for the first eight listed experts, one for each other eight over the rows that have ids left, one
for what is not listed. Neighbours of a pass are in other states. The coder is that of ``set``.
Shape suffixes: R rows, K top_k, E num_experts, M listed experts, N entries, J chunks of eight,
T tables, A symbols of a table, S samples, W words.
"""

import numpy as np
from numba import njit

from .set_kernels import token_of

__all__ = ["ONES_256", "decode_sets", "encode_sets", "masks_of_rows"]

ONES_256 = np.array([bin(mask).count("1") for mask in range(256)])  # experts that a mask takes
_LOW = np.uint32(1 << 16)
_MASK = np.uint32(4095)
_LONG = np.uint64(128)  # gaps from here on have low bits as they are


@njit(nogil=True, cache=True)
def masks_of_rows(ids_RK, entries_R, lists_NM, rank_E, masks_JR, tails_RK):  # type: ignore[no-untyped-def]
    """Fill the mask of each chunk, and the ranks of ids that are not listed, ascending.

    Returns false where a row holds an id twice.
    """
    rows, top_k = ids_RK.shape
    listed, chunks = lists_NM.shape[1], masks_JR.shape[0]
    taken_E = np.zeros(rank_E.shape[0], np.uint8)
    twice = False
    for r in range(rows):
        for k in range(top_k):
            twice |= taken_E[ids_RK[r, k]] != 0
            taken_E[ids_RK[r, k]] = 1
        list_M, found = lists_NM[entries_R[r]], np.int64(0)
        for j in range(chunks):
            mask = np.int64(0)
            if found < top_k:
                for m in range(8 * j, min(8 * j + 8, listed)):
                    one = np.int64(taken_E[list_M[m]])
                    mask |= one << (m & 7)
                    found += one
                    taken_E[list_M[m]] = 0
            masks_JR[j, r] = mask
        count = 0
        for k in range(top_k if found < top_k else 0):
            if taken_E[ids_RK[r, k]]:
                taken_E[ids_RK[r, k]] = 0
                rank, at = rank_E[ids_RK[r, k]], count
                while at and tails_RK[r, at - 1] > rank:
                    tails_RK[r, at] = tails_RK[r, at - 1]
                    at -= 1
                tails_RK[r, at] = rank
                count += 1
        if twice:
            return False
    return True


@njit(nogil=True, cache=True)
def _push(x, place, words_W, at):  # type: ignore[no-untyped-def]
    """A state with a symbol of ``frequency << 16 | first``, and where its words begin."""
    frequency = place >> np.uint32(16)
    if np.uint64(x) >= np.uint64(frequency) << np.uint64(20):
        at -= 1
        words_W[at] = np.uint16(x)
        x >>= np.uint32(16)
    quotient = x // frequency
    rest = x - quotient * frequency
    return (quotient << np.uint32(12)) + rest + (place & np.uint32(65535)), at


@njit(nogil=True, cache=True)
def _push_tail(x, tail_K, left, contexts_E, gap_places_N, words_W, at):  # type: ignore[no-untyped-def]
    """Push the gaps of one row, the last first."""
    lefts = gap_places_N.shape[0] >> 12
    for i in range(left - 1, -1, -1):
        before = np.int64(tail_K[i - 1]) if i else np.int64(-1)
        gap = np.int64(tail_K[i]) - before - 1
        table = (min(left - i, lefts) - 1) << 4
        if i:
            table += contexts_E[before]
        token, bits = token_of(gap)
        if bits:
            if x >> np.uint32(32 - bits):
                at -= 1
                words_W[at] = np.uint16(x)
                x >>= np.uint32(16)
            x = x << np.uint32(bits) | np.uint32(gap & ((1 << bits) - 1))
        x, at = _push(x, gap_places_N[(table << 8) + token], words_W, at)
    return x, at


@njit(nogil=True, cache=True)
def encode_sets(  # type: ignore[no-untyped-def]
    masks_JR, tails_RK, classes_R, ones_256, tables, contexts_E, cells
):
    """Push all cells, each from its last pass and row to its first.

    ``tables`` are places of masks and of gaps; ``cells`` as in rans_cells.
    """
    mask_places_N, gap_places_N, of_class = tables
    starts_S, lanes_S, states_S4, words_W, at_S = cells
    chunks, top_k = masks_JR.shape[0], tails_RK.shape[1]
    rows = 0
    for s in range(at_S.shape[0]):
        rows = max(rows, starts_S[s + 1] - starts_S[s])
    left_JR = np.empty((chunks + 1, rows), np.int64)
    counts_J = np.empty(chunks + 1, np.int64)
    for s in range(at_S.shape[0]):
        lo, hi = starts_S[s], starts_S[s + 1]
        at, lanes, states_4 = at_S[s], lanes_S[s] - 1, states_S4[s]
        counts_J[:] = 0
        for r in range(lo, hi):
            left = top_k
            for j in range(chunks + 1):
                left_JR[j, r - lo] = left
                counts_J[j] += left > 0
                if j < chunks:
                    left -= ones_256[masks_JR[j, r]]
        for j in range(chunks, -1, -1):
            i = counts_J[j]
            for r in range(hi - 1, lo - 1, -1):
                left = left_JR[j, r - lo]
                if left == 0:
                    continue
                i -= 1
                x = states_4[i & lanes]
                if j == chunks:
                    x, at = _push_tail(x, tails_RK[r], left, contexts_E, gap_places_N, words_W, at)
                else:
                    table = np.int64(classes_R[r]) * of_class
                    if j:
                        table += 4 * (j - 1) + min(left, 4)
                    x, at = _push(x, mask_places_N[(table << 8) + masks_JR[j, r]], words_W, at)
                states_4[i & lanes] = x
        at_S[s] = at


@njit(nogil=True, cache=True)
def _pull(x, table, symbol_N, place_N):  # type: ignore[no-untyped-def]
    """The symbol that a state holds, and the state without it."""
    part = x & _MASK
    symbol = np.uint64(symbol_N[table << np.uint64(12) | np.uint64(part)])
    place = place_N[table << np.uint64(8) | symbol]
    x = (place >> np.uint32(16)) * (x >> np.uint32(12)) + part - (place & np.uint32(65535))
    return symbol, x


@njit(nogil=True, cache=True)
def _refill(x, words_W, at, last):  # type: ignore[no-untyped-def]
    """A state with the next word where it needs one, and where the one after is."""
    word = np.uint32(words_W[min(at, last)])
    return x << np.uint32(16) | word if x < _LOW else x, at + np.uint64(x < _LOW)


@njit(nogil=True, cache=True)
def _pull_masks(  # type: ignore[no-untyped-def]
    tables_R, masks_R, lanes, states_4, symbol_N, place_N, words_W, at
):
    """Pull a mask for each row of a pass; where the next word is."""
    last, lanes = np.uint64(words_W.shape[0] - 1), np.uint64(lanes)
    for i in range(np.uint64(0), np.uint64(tables_R.shape[0])):
        mask, x = _pull(states_4[i & lanes], np.uint64(tables_R[i]), symbol_N, place_N)
        states_4[i & lanes], at = _refill(x, words_W, at, last)
        masks_R[i] = mask
    return at


@njit(nogil=True, cache=True)
def _take_masks(  # type: ignore[no-untyped-def]
    slots_KR, rows_R, left_R, masks_R, entries_R, list_NM, first, ones_256
):
    """Write the ids that masks take; rows that have ids left move to the front.

    Returns how many these are, and whether no row took more ids than it had left. Slot K takes
    what is not taken.
    """
    top_k, here = np.uint64(slots_KR.shape[0] - 1), np.uint64(min(list_NM.shape[1] - first, 8))
    start, kept, legal = np.uint64(first), np.uint64(0), True
    for i in range(np.uint64(0), np.uint64(masks_R.shape[0])):
        r, left, mask = np.uint64(rows_R[i]), np.uint64(left_R[i]), np.uint64(masks_R[i])
        list_M, at = list_NM[np.uint64(entries_R[r])], top_k - left
        for m in range(np.uint64(0), here):
            slots_KR[min(at, top_k), r] = list_M[start + m]
            at += mask >> m & np.uint64(1)
        ones = np.uint64(ones_256[mask])
        if ones > left:
            legal = False
        left -= min(ones, left)
        rows_R[kept], left_R[kept] = r, left
        kept += np.uint64(left > np.uint64(0))
    return np.int64(kept), legal


@njit(nogil=True, cache=True)
def _pull_tail(  # type: ignore[no-untyped-def]
    x, slots_KR, r, left, order_E, contexts_E, gaps, words_W, at
):
    """Pull the ids of one row that are not listed: state, next word, whether all are ids."""
    symbol_N, place_N = gaps
    last, top_k = np.uint64(words_W.shape[0] - 1), slots_KR.shape[0] - 1
    lefts, top = place_N.shape[0] >> 12, np.uint64(order_E.shape[0] - 1)
    rank, step, context, legal = np.uint64(0), np.uint64(0), np.int64(0), True
    for i in range(left, 0, -1):
        table = np.uint64(((min(i, lefts) - 1) << 4) + context)
        gap, x = _pull(x, table, symbol_N, place_N)
        x, at = _refill(x, words_W, at, last)
        if gap >= _LONG:
            bits = np.uint64(4) + ((gap - _LONG) >> np.uint64(3))
            low = np.uint64(x) & ((np.uint64(1) << bits) - np.uint64(1))
            gap = (np.uint64(8) + (gap & np.uint64(7))) << bits | low
            x, at = _refill(np.uint32(np.uint64(x) >> bits), words_W, at, last)
        rank += gap + step
        legal &= rank <= top
        rank, step = min(rank, top), np.uint64(1)
        context = np.int64(contexts_E[rank])
        slots_KR[top_k - i, r] = order_E[rank]
    return x, at, legal


@njit(nogil=True, cache=True)
def decode_sets(  # type: ignore[no-untyped-def]
    slots_KR, entries_R, facts, masks, gaps, contexts_E, ones_256, of_class, cells
):
    """Pull all cells; false where a row has more ids than it may. Rows come in any order of ids.

    ``slots_KR`` has one slot more than K, for what is not taken. ``facts`` are order_E, classes_N,
    lists_NM; ``masks`` and ``gaps`` a dictionary's, flat; ``of_class`` is how many tables a class
    has. A damaged cell may read its neighbours' words, and is found by where it stops and by its
    states.
    """
    order_E, classes_N, lists_NM = facts
    symbol_N, place_N = masks
    starts_S, lanes_S, states_S4, words_W, at_S = cells
    top_k, listed = slots_KR.shape[0] - 1, lists_NM.shape[1]
    rows = 0
    for s in range(at_S.shape[0]):
        rows = max(rows, starts_S[s + 1] - starts_S[s])
    rows_R, left_R = np.empty(rows + 1, np.int32), np.empty(rows + 1, np.int32)
    tables_R, masks_R = np.empty(rows, np.int32), np.empty(rows, np.uint8)
    legal = True
    for s in range(at_S.shape[0]):
        lo, count = starts_S[s], starts_S[s + 1] - starts_S[s]
        at, lanes, states_4 = np.uint64(at_S[s]), lanes_S[s] - 1, states_S4[s]
        for i in range(count):
            rows_R[i], left_R[i] = lo + i, top_k
        for first in range(0, listed, 8):
            for i in range(count):
                tables_R[i] = np.int32(classes_N[entries_R[rows_R[i]]]) * of_class
                if first:
                    tables_R[i] += (first >> 1) - 4 + min(left_R[i], 4)
            at = _pull_masks(
                tables_R[:count], masks_R, lanes, states_4, symbol_N, place_N, words_W, at
            )
            count, good = _take_masks(
                slots_KR, rows_R, left_R, masks_R[:count], entries_R, lists_NM, first, ones_256
            )
            legal &= good
        for i in range(count):
            x, at, good = _pull_tail(
                states_4[i & lanes],
                slots_KR,
                rows_R[i],
                left_R[i],
                order_E,
                contexts_E,
                gaps,
                words_W,
                at,
            )
            states_4[i & lanes] = x
            legal &= good
        at_S[s] = at
    return legal
