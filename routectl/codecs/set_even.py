"""The model of ``set`` for even routes: tables that follow from E and K alone, and take no bytes.

Every set is as likely as any other, so that counts of sets are binomial coefficients. Counted
tables of even routes would cost more than they gain; skewed ones are counted (set.py).
Shape suffixes: K top_k, E num_experts, C contexts, A tokens.
"""

import functools
import operator
from itertools import accumulate
from math import comb

import numpy as np
from numpy.typing import NDArray

from .set_kernels import token_of

__all__ = ["even_bits", "even_fits", "even_tables"]

CONTEXTS = 16
_MOST_TERMS = 1 << 22  # K x E x E: a quarter of a second of exact arithmetic, once a process
_EXCESS = 1.006  # about what the tables lose to the bound


def even_fits(num_experts: int, top_k: int) -> bool:
    """Whether the tables can be had quickly."""
    return top_k * num_experts**2 <= _MOST_TERMS


def even_bits(rows: int, num_experts: int, top_k: int) -> float:
    """About how many bits the rows take with these tables."""
    return rows * float(np.log2(float(comb(num_experts, top_k)))) * _EXCESS


@functools.lru_cache(maxsize=4)
def even_tables(num_experts: int, top_k: int) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Contexts [K, E] of a previous id, and frequencies [K, C, A], in exact integers.

    Of all sets, C(p, k - 1) C(E - 1 - p, K - k) have id p before slot k. The context of p is the
    sixteenth of these sets that the first one with p falls in. A gap g after p is taken by
    C(p, k - 1) C(E - 2 - p - g, K - 1 - k) of them, and slot 0 is g in C(E - 1 - g, K - 1).
    """
    all_sets, tokens = comb(num_experts, top_k), token_of(num_experts - 1)[0] + 1
    contexts_KE = np.zeros((top_k, num_experts), np.uint8)
    frequency_KCA = np.zeros((top_k, CONTEXTS, tokens), np.uint16)
    frequency_KCA[:, :, 0] = 4096
    frequency_KCA[0, 0] = _spread(
        [comb(num_experts - 1 - g, top_k - 1) for g in range(num_experts)], tokens
    )
    for k in range(1, top_k):
        left = [comb(p, k - 1) for p in range(num_experts)]
        right = [comb(m, top_k - 1 - k) for m in range(num_experts)]  # of m ids above the gap
        here = [left[p] * comb(num_experts - 1 - p, top_k - k) for p in range(num_experts)]
        before = [0, *accumulate(here)][:-1]
        context_E = [min(CONTEXTS * b // all_sets, CONTEXTS - 1) for b in before]
        contexts_KE[k] = context_E
        for c in range(CONTEXTS):
            lo, hi = context_E.index(c) if c in context_E else 0, context_E.count(c)
            counts = []
            for g in range(num_experts - 1 - lo if hi else 0):
                stop = min(lo + hi, num_experts - 1 - g)  # the last p with room for the gap
                above = right[num_experts - 2 - lo - g :: -1]
                counts.append(sum(map(operator.mul, left[lo:stop], above)))
            frequency_KCA[k, c] = _spread(counts, tokens)
    return contexts_KE, frequency_KCA


def _spread(sets_of_gap: list[int], tokens: int) -> list[int]:
    """The rule of ``set_tables.spread_counts``, for counts of any size."""
    counts = [0] * tokens
    for gap, sets in enumerate(sets_of_gap):
        counts[token_of(gap)[0]] += sets
    total = sum(counts)
    if not total:
        return [4096] + [0] * (tokens - 1)
    kept = sum(count > 0 for count in counts)
    small = sum(0 < count * (4096 - kept) < total for count in counts)
    parts = [max(count * (4096 - small) // total, 1) if count else 0 for count in counts]
    parts[counts.index(max(counts))] += 4096 - sum(parts)
    return parts
