"""The loops of ``set``: gaps through four interleaved rANS states a cell.

Arrays are slot-major, so that one slot's tables stay in the cache while all rows of all samples
pass. The coder is the range variant of ANS
(J. Duda, arXiv 1311.2540) with 32-bit states, 16-bit words and frequencies that sum to 4096, laid
out as F. Giesen describes (arXiv 1402.3392); docs/codecs/set.md has the bytes.
Shape suffixes: R rows, K top_k, E num_experts, C contexts of a slot,
A tokens, S samples, W 16-bit words.
"""

import numpy as np
from numba import njit

__all__ = ["count_gaps", "decode_slots", "encode_slots", "token_of"]

DIRECT = 128  # gaps below have a token each; above, each power of two is cut into 8 tokens
_LOW = np.uint32(1 << 16)
_MASK = np.uint32(4095)
_BITS = np.uint64(12)
_LONG = np.uint64(DIRECT)


@njit(nogil=True, cache=True)
def token_of(gap):  # type: ignore[no-untyped-def]
    """The token of a gap, and how many of its low bits follow as they are."""
    if gap < DIRECT:
        return gap, 0
    exponent = np.int64(7)
    while gap >> (exponent + 1):
        exponent += 1
    return DIRECT + (exponent - 7) * 8 + ((gap >> (exponent - 3)) & 7), exponent - 3


@njit(nogil=True, cache=True)
def count_gaps(slots_KR, contexts_KE, counts_KCA):  # type: ignore[no-untyped-def]
    """Count the tokens of each slot and context; false where a row holds an id twice."""
    top_k, rows = slots_KR.shape
    repeats = np.int64(0)
    for k in range(top_k):
        for r in range(rows):
            previous = np.int64(slots_KR[k - 1, r]) if k else np.int64(-1)
            context = np.int64(contexts_KE[k, previous]) if k else np.int64(0)
            gap = np.int64(slots_KR[k, r]) - previous - np.int64(1)
            repeats += np.int64(gap < 0)
            counts_KCA[k, context, token_of(max(gap, 0))[0]] += 1
    return repeats == 0


@njit(nogil=True, cache=True)
def _fill_tables(frequency_CA, token_N, place_N):  # type: ignore[no-untyped-def]
    """What a state's low 12 bits mean in each context: a token, its frequency and first place."""
    for c in range(frequency_CA.shape[0]):
        start = np.int64(0)
        for token in range(frequency_CA.shape[1]):
            frequency = np.int64(frequency_CA[c, token])
            place_N[(c << 8) + token] = np.uint32(frequency << 16 | start)
            token_N[(c << 12) + start : (c << 12) + start + frequency] = token
            start += frequency


@njit(nogil=True, cache=True)
def _encode_slot(  # type: ignore[no-untyped-def]
    previous_R, slot_R, first, context_E, frequency_CA, start_CA, cells
):
    """Push one slot of every cell, last row first; row r is in state r % n of n."""
    starts_S, lanes_S, states_S4, words_W, at_S = cells
    for s in range(at_S.shape[0]):
        at = at_S[s]
        lo = starts_S[s]
        mask = lanes_S[s] - 1
        for r in range(starts_S[s + 1] - 1, lo - 1, -1):
            lane = (r - lo) & mask
            x = np.uint64(states_S4[s, lane])
            if first:
                context, gap = np.int64(0), np.int64(slot_R[r])
            else:
                previous = np.int64(previous_R[r])
                context, gap = np.int64(context_E[previous]), np.int64(slot_R[r]) - previous - 1
            token, bits = token_of(gap)
            if bits:
                if x >> np.uint64(32 - bits):
                    at -= 1
                    words_W[at] = np.uint16(x)
                    x >>= np.uint64(16)
                x = x << np.uint64(bits) | np.uint64(gap & ((1 << bits) - 1))
            frequency = np.uint64(frequency_CA[context, token])
            if x >= frequency << np.uint64(20):
                at -= 1
                words_W[at] = np.uint16(x)
                x >>= np.uint64(16)
            quotient = np.uint32(x) // np.uint32(frequency)
            rest = np.uint32(x) - quotient * np.uint32(frequency)
            states_S4[s, lane] = (quotient << np.uint32(12)) + rest + start_CA[context, token]
        at_S[s] = at


@njit(nogil=True, cache=True)
def encode_slots(slots_KR, contexts_KE, frequency_KCA, cells):  # type: ignore[no-untyped-def]
    """Push all slots, the last one first; ``at_S`` becomes where each cell's words begin.

    ``cells`` are starts_S, lanes_S, states_S4, words_W and at_S.
    """
    start_CA = np.empty(frequency_KCA.shape[1:], np.uint32)
    for k in range(slots_KR.shape[0] - 1, -1, -1):
        for c in range(start_CA.shape[0]):
            start = np.uint32(0)
            for a in range(start_CA.shape[1]):
                start_CA[c, a] = start
                start += np.uint32(frequency_KCA[k, c, a])
        _encode_slot(
            slots_KR[max(k - 1, 0)],
            slots_KR[k],
            k == 0,
            contexts_KE[k],
            frequency_KCA[k],
            start_CA,
            cells,
        )


@njit(nogil=True, cache=True)
def _advance(x, part, place):  # type: ignore[no-untyped-def]
    """A state without the token that it held."""
    frequency, start = place >> np.uint32(16), place & np.uint32(65535)
    return frequency * (x >> np.uint32(12)) + part - start


@njit(nogil=True, cache=True)
def _refill(x, word):  # type: ignore[no-untyped-def]
    """A state with the next word where it needs one."""
    return x << np.uint32(16) | np.uint32(word) if x < _LOW else x


@njit(nogil=True, cache=True)
def _pull_long(token, x, words_W, at, last):  # type: ignore[no-untyped-def]
    """A gap from DIRECT on: its low bits are in the state as they are."""
    bits = np.uint64(4) + ((token - _LONG) >> np.uint64(3))
    mask = (np.uint64(1) << bits) - np.uint64(1)
    gap = (np.uint64(8) + (token & np.uint64(7))) << bits | (np.uint64(x) & mask)
    x = np.uint32(np.uint64(x) >> bits)
    word = words_W[min(at, last)]
    return gap, _refill(x, word), at + np.uint64(x < _LOW)


@njit(nogil=True, cache=True)
def _decode_cell(  # type: ignore[no-untyped-def]
    previous_R, slot_R, lanes, step, context_E, token_N, place_N, states_4, words_W, at, top
):
    """Pull one slot of one cell: where its next word is, and the greatest id that came out.

    Neighbouring rows are in other states, so that a processor works on several at once.
    """
    last, mask = np.uint64(words_W.shape[0] - 1), np.uint64(lanes - 1)
    worst = np.uint64(0)
    for r in range(np.uint64(0), np.uint64(slot_R.shape[0])):
        x, previous = states_4[r & mask], np.uint64(previous_R[r])
        context, part = np.uint64(context_E[previous]), x & _MASK
        gap = np.uint64(token_N[context << _BITS | np.uint64(part)])
        x = _advance(x, part, place_N[context << np.uint64(8) | gap])
        word = words_W[min(at, last)]
        at += np.uint64(x < _LOW)
        x = _refill(x, word)
        if gap >= _LONG:
            gap, x, at = _pull_long(gap, x, words_W, at, last)
        states_4[r & mask] = x
        rank = gap + previous + step
        worst = max(worst, rank)
        slot_R[r] = min(rank, top)
    return at, worst


@njit(nogil=True, cache=True)
def decode_slots(  # type: ignore[no-untyped-def]
    slots_KR, contexts_KE, frequency_KCA, cells, num_experts
):
    """Pull all slots, the first one first; false where an id is not below E.

    ``cells`` as in encode_slots; ``at_S`` becomes each cell's next word. A damaged cell may read
    its neighbours' words, never beyond the last cell's, and is found by where it stops and by its
    states.
    """
    starts_S, lanes_S, states_S4, words_W, at_S = cells
    top = np.uint64(num_experts - 1)
    greatest = np.uint64(0)
    token_N = np.empty(frequency_KCA.shape[1] << 12, np.uint8)
    place_N = np.empty(frequency_KCA.shape[1] << 8, np.uint32)
    before = np.zeros(slots_KR.shape[1], slots_KR.dtype)
    for k in range(slots_KR.shape[0]):
        _fill_tables(frequency_KCA[k], token_N, place_N)
        previous, step = (before, np.uint64(0)) if k == 0 else (slots_KR[k - 1], np.uint64(1))
        for s in range(starts_S.shape[0] - 1):
            lo, hi = starts_S[s], starts_S[s + 1]
            at_S[s], worst = _decode_cell(
                previous[lo:hi],
                slots_KR[k, lo:hi],
                lanes_S[s],
                step,
                contexts_KE[k],
                token_N,
                place_N,
                states_S4[s],
                words_W,
                np.uint64(at_S[s]),
                top,
            )
            greatest = max(greatest, worst)
    return greatest <= top
