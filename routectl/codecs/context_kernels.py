"""The loops of ``context``: an adaptive mixture of what tokens and the row before have shown.

All arithmetic is of integers, so that any two machines agree. The mixture and its secondary
estimate follow lpaq1 (M. Mahoney, 2007); which contexts there are, and that K of E are taken, is
ours. docs/codecs/context.md has every step.
Shape suffixes: R rows, K top_k, E num_experts, N rows of a table, I inputs of the mixture (6).
"""

import numpy as np
from numba import njit

from .range_kernels import range_from, share_from, share_into

__all__ = ["ORDERS", "code_rows", "number_contexts"]

ORDERS = 3  # contexts of one, two and three tokens
_INPUTS = 6
_LEARN = 200
_CLIP = 2047  # greatest logit, of 1/256
_MOST = np.int64(1) << 22  # greatest weight: 4


@njit(nogil=True, cache=True)
def number_contexts(tokens_R, starts_S, length, limit):  # type: ignore[no-untyped-def]
    """The number of each row's last ``length`` tokens, -1 for those that occur once; how many.

    Numbers are in the order of first appearance; beyond ``limit`` there are none. Before a
    sample's first row every token is -1.
    """
    rows = tokens_R.shape[0]
    place_R = np.empty(rows, np.int64)  # of the row in its sample
    for s in range(starts_S.shape[0] - 1):
        for r in range(starts_S[s], starts_S[s + 1]):
            place_R[r] = r - starts_S[s]
    size = 16
    while size < 2 * rows:
        size *= 2
    heads = np.full(size, -1, np.int64)  # open addressing: the first row of each context
    first_R = np.empty(rows, np.int64)
    again_R = np.zeros(rows, np.bool_)
    for r in range(rows):
        mixed = np.uint64(length)
        for i in range(length):
            token = np.int64(tokens_R[r - i]) if place_R[r] >= i else np.int64(-1)
            mixed = (mixed ^ np.uint64(token & 0xFFFFFFFF)) * np.uint64(0x9E3779B97F4A7C15)
            mixed ^= mixed >> np.uint64(29)
        slot = np.int64(mixed & np.uint64(size - 1))
        while True:
            head = heads[slot]
            if head < 0:
                heads[slot] = first_R[r] = r
                break
            same = True
            for i in range(length):
                a = np.int64(tokens_R[r - i]) if place_R[r] >= i else np.int64(-1)
                b = np.int64(tokens_R[head - i]) if place_R[head] >= i else np.int64(-1)
                same = same and a == b
            if same:
                first_R[r] = head
                again_R[head] = True
                break
            slot = (slot + 1) & (size - 1)
    number_R = np.full(rows, -1, np.int32)
    count = 0
    for r in range(rows):
        if first_R[r] < r:
            number_R[r] = number_R[first_R[r]]
        elif again_R[r] and count < limit:
            number_R[r] = count
            count += 1
    return number_R, count


@njit(nogil=True, cache=True)
def _level(seen, order):  # type: ignore[no-untyped-def]
    """How well a context is known, 0 to 3."""
    few, many = (4, 24) if order == 0 else (2, 8)
    return 0 if seen == 0 else 1 if seen < few else 2 if seen < many else 3


@njit(nogil=True, cache=True)
def _begin_contexts(places_O, shares_NE, seen_N):  # type: ignore[no-untyped-def]
    """A context that is new starts as the next shorter one; the number of the weights to take."""
    chosen, shorter = 0, 0
    for order in range(ORDERS):
        place = places_O[order]
        if place != shorter and seen_N[place] == 0:
            for e in range(shares_NE.shape[1]):
                shares_NE[place, e] = shares_NE[shorter, e]
        chosen = chosen * 4 + (_level(seen_N[place], order) if place != shorter else 0)
        shorter = place
    return chosen


@njit(nogil=True, cache=True)
def _inputs(places_O, shares_NE, after_2E, before_E, stretch, inputs_IE):  # type: ignore[no-untyped-def]
    """Fill the logits of each input."""
    for i in range(ORDERS + 1):
        share_E, input_E = shares_NE[places_O[i - 1] if i else 0], inputs_IE[i]
        for e in range(share_E.shape[0]):
            input_E[e] = stretch[share_E[e] >> 4]
    for e in range(before_E.shape[0]):
        inputs_IE[4, e] = stretch[after_2E[before_E[e], e] >> 4] - inputs_IE[0, e]


@njit(nogil=True, cache=True)
def _toward(share_E, taken_E, rate):  # type: ignore[no-untyped-def]
    """Move shares of 65536 toward what was taken, by ``rate`` of 32768."""
    for e in range(share_E.shape[0]):
        now = np.int32(share_E[e])
        away = np.int32(np.int32(0) - taken_E[e]) & np.int32(65535)
        share_E[e] = np.uint16(now + (np.int32(np.int32(away - now) * rate) >> 15))


@njit(nogil=True, cache=True)
def _rate(seen):  # type: ignore[no-untyped-def]
    """One of so many, and a quarter more, as a share of 32768."""
    return np.int32(131072 // (4 * min(seen, 255) + 5))


@njit(nogil=True, cache=True)
def _learn(places_O, shares_NE, seen_N, after_2E, before_E, taken_E):  # type: ignore[no-untyped-def]
    """Take in what a row was."""
    _toward(shares_NE[0], taken_E, _rate(seen_N[0]))
    seen_N[0] += 1
    for e in range(taken_E.shape[0]):
        now = np.int32(after_2E[before_E[e], e])
        away = np.int32(np.int32(0) - taken_E[e]) & np.int32(65535)
        after_2E[before_E[e], e] = np.uint16(now + (((away - now) * 150) >> 15))
        before_E[e] = taken_E[e]
    shorter = 0
    for order in range(ORDERS):
        place = places_O[order]
        if place != shorter:
            seen_N[place] += 1
            _toward(shares_NE[place], taken_E, _rate(seen_N[place]))
        shorter = place


@njit(nogil=True, cache=True)
def _times(weight, logit):  # type: ignore[no-untyped-def]
    return np.int32(weight * logit)


@njit(nogil=True, cache=True)
def _mix(weights_I, inputs_IE, logit_E):  # type: ignore[no-untyped-def]
    """The mixed logit of each expert. Products stay below 2^29, so that vectors hold 32 bits."""
    w0, w1 = np.int32(weights_I[0] >> 6), np.int32(weights_I[1] >> 6)
    w2, w3 = np.int32(weights_I[2] >> 6), np.int32(weights_I[3] >> 6)
    w4, w5 = np.int32(weights_I[4] >> 6), np.int32(weights_I[5] >> 6)
    a_E, b_E, c_E, d_E, f_E = inputs_IE[0], inputs_IE[1], inputs_IE[2], inputs_IE[3], inputs_IE[4]
    for e in range(logit_E.shape[0]):
        low = np.int32(_times(w0, a_E[e]) + _times(w1, b_E[e]))
        high = np.int32(_times(w2, c_E[e]) + _times(w3, d_E[e]))
        rest = np.int32(_times(w4, f_E[e]) + _times(w5, np.int32(256)))
        logit = np.int32((np.int32(np.int32(low + high) + rest)) >> 14)
        logit_E[e] = min(max(logit, np.int32(-_CLIP)), np.int32(_CLIP))


@njit(nogil=True, cache=True)
def _shares(logit_E, squash, share_E):  # type: ignore[no-untyped-def]
    """The share of 65536 of each logit, and the sum of these."""
    total = np.int64(0)
    for e in range(logit_E.shape[0]):
        share_E[e] = squash[logit_E[e] + 2048]
        total += share_E[e]
    return total


@njit(nogil=True, cache=True)
def _rank(logit_E, order_E, counts_129):  # type: ignore[no-untyped-def]
    """Experts by falling logit, in steps of 32; those of one step by id."""
    counts_129[:] = 0
    for e in range(logit_E.shape[0]):
        counts_129[((_CLIP - logit_E[e]) >> 5) + 1] += 1
    for i in range(1, 129):
        counts_129[i] += counts_129[i - 1]
    for e in range(logit_E.shape[0]):
        step = (_CLIP - logit_E[e]) >> 5
        order_E[counts_129[step]] = e
        counts_129[step] += 1


@njit(nogil=True, cache=True)
def _correct(weights_I, inputs_IE, share_E, taken_E):  # type: ignore[no-untyped-def]
    """Move the weights along the gradient of the row's code length; share_E becomes the error."""
    for e in range(share_E.shape[0]):
        share_E[e] = np.int32((np.int32(taken_E[e]) << 16) - share_E[e])
    for i in range(_INPUTS):
        input_E = inputs_IE[i]
        slope = np.int64(0)
        for e in range(share_E.shape[0]):
            slope += np.int32(share_E[e] * input_E[e])
        weights_I[i] = min(max(weights_I[i] + ((slope * _LEARN) >> 20), -_MOST), _MOST)


@njit(nogil=True, cache=True)
def _decide(  # type: ignore[no-untyped-def]
    taken_E, top_k, order_E, logit_E, share_E, total, second_KJ, squash, logs, rc, bytes_B, decoding
):
    """Say of each expert, the likeliest first, whether it is taken, until the rest is settled.

    Returns the range coder.
    """
    left = top_k
    num_experts = order_E.shape[0]
    for j in range(num_experts):
        e = order_E[j]
        if left == 0 or left == num_experts - j:
            taken_E[e] = left > 0
            left -= taken_E[e]
            continue
        odds = min(max((left << 18) // (total + 1), 1), 4095)
        logit = min(max(logit_E[e] + logs[odds] - 354, -_CLIP), _CLIP) + 2048
        second = second_KJ[min(left, 8)]
        at, part = logit >> 7, logit & 127
        share = (second[at] * (128 - part) + second[at + 1] * part) >> 7
        share = min(max((share + squash[logit]) >> 1, 32), 65504)
        if decoding:
            taken_E[e] = share_from(rc, 65536) < share
        first, size = (0, share) if taken_E[e] else (share, 65536 - share)
        if decoding:
            rc = range_from(rc, bytes_B, first, size, 65536)
        else:
            rc = share_into(rc, bytes_B, first, size, 65536)
        target = 65535 if taken_E[e] else 0
        second[at] += (target - second[at]) >> 6
        second[at + 1] += (target - second[at + 1]) >> 6
        left -= taken_E[e]
        total -= share_E[e]
    return rc


@njit(nogil=True, cache=True)
def code_rows(  # type: ignore[no-untyped-def]
    ids_RK,
    lo,
    hi,
    fresh,
    places_RO,
    shares_NE,
    seen_N,
    after_2E,
    before_E,
    weights_CI,
    second_KJ,
    stretch,
    squash,
    logs,
    coder_4,
    bytes_B,
    decoding,
):
    """Code rows lo to hi of one sample, or decode them; ``fresh`` where lo is its first row.

    Everything that is not a row or a constant is state, and goes on with the next call.
    """
    top_k, num_experts = ids_RK.shape[1], shares_NE.shape[1]
    inputs_IE = np.full((_INPUTS, num_experts), 256, np.int32)
    logit_E, share_E = np.empty(num_experts, np.int32), np.empty(num_experts, np.int32)
    order_E, counts_129 = np.empty(num_experts, np.int64), np.empty(129, np.int64)
    taken_E = np.empty(num_experts, np.uint8)
    if fresh:
        before_E[:] = 0
    rc = (coder_4[0], coder_4[1], coder_4[2], coder_4[3])
    for r in range(lo, hi):
        if not decoding:
            taken_E[:] = 0
            for k in range(top_k):
                taken_E[ids_RK[r, k]] = 1
        places_O = places_RO[r]
        weights_I = weights_CI[_begin_contexts(places_O, shares_NE, seen_N)]
        _inputs(places_O, shares_NE, after_2E, before_E, stretch, inputs_IE)
        _mix(weights_I, inputs_IE, logit_E)
        total = _shares(logit_E, squash, share_E)
        _rank(logit_E, order_E, counts_129)
        rc = _decide(
            taken_E,
            top_k,
            order_E,
            logit_E,
            share_E,
            total,
            second_KJ,
            squash,
            logs,
            rc,
            bytes_B,
            decoding,
        )
        _correct(weights_I, inputs_IE, share_E, taken_E)
        _learn(places_O, shares_NE, seen_N, after_2E, before_E, taken_E)
        if decoding:
            k = 0
            for e in range(num_experts):
                if taken_E[e] and k < top_k:
                    ids_RK[r, k] = e
                    k += 1
    for i in range(4):
        coder_4[i] = rc[i]
