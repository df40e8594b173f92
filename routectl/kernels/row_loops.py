"""The compiled loops of ``rows``: one pass each, no Python object inside.

In a file of their own, so that numba is loaded where there is enough to count.
Shape suffixes: as in ``rows``.
"""

import numpy as np
from numba import njit

__all__ = ["diff_chunk", "load_of", "mark_bins", "scan"]

_MARKED_UP_TO = 24  # K up to which 2^34 marks, K x 2^K each, are less than 2^63


@njit(nogil=True)
def _swap_of(old_K, new_K, stamps, mark, load):  # type: ignore[no-untyped-def]
    """By how many ids two rows differ, as sets; ``load`` gets what new took less what old took."""
    size_old, size_new, shared = 0, 0, 0
    for expert in old_K:
        size_old += stamps[expert] != mark
        stamps[expert] = mark
        load[expert] -= np.uint32(1)
    for expert in new_K:
        shared += stamps[expert] == mark
        size_new += stamps[expert] != mark + 1
        stamps[expert] = mark + 1
        load[expert] += np.uint32(1)
    return max(size_old, size_new) - shared


@njit(nogil=True, cache=True)
def diff_chunk(sides, words, skip, sizes, counts, differing, first, differs):  # type: ignore[no-untyped-def]
    """Count one chunk into ``counts``: swaps from 1 on, order, load_old and load_new.

    ``sizes`` are of length K, and of how many words a row has; the compiler knows those of tuples.
    ``differs`` takes a mark a mismatched row, unless it is empty. load_new holds what the new side
    took less what the old took. Rows that are equal byte for byte are told by their words. Of
    others, each slot k of old leaves mark + 2^k on its expert, and what new's experts hold is added
    up: K x mark and 2^K - 1 are K distinct slots, so the same experts once each (a sum of K powers
    of two has K bits only where no two are equal; a mark of a row before is less by K x 2^K). What
    is left is compared as sets, a token at a time.
    """
    (old, new), (old_words, new_words), (swaps, order, load_old, load_new) = sides, words, counts
    (slots, parts), (num_tokens, num_layers, _) = sizes, old.shape
    marks, stamps = np.zeros((2, load_old.shape[1]), np.int64)
    mark, stamp, others = np.int64(0), np.int64(0), np.empty(num_layers, np.int64)
    full = (np.int64(1) << (len(slots) & 63)) - 1
    step = len(slots) * (full + 1)
    for t in range(num_tokens):
        differ, lowest, num_others = 0, -1, 0
        for layer in range(num_layers):
            if skip.shape[0] > 0 and skip[t, layer]:
                continue
            same = True
            for w in range(len(parts)):
                same = same & (old_words[t, layer, w] == new_words[t, layer, w])
            if same:
                for k in range(len(slots)):
                    load_old[layer, old[t, layer, k]] += np.uint32(1)
                continue
            mark += step
            for k in range(len(slots)):
                expert = old[t, layer, k]
                load_old[layer, expert] += np.uint32(1)
                marks[expert] = mark + (np.int64(1) << (k & 63))
            found = np.int64(0)
            for k in range(len(slots)):
                found += marks[new[t, layer, k]]
            if len(slots) <= _MARKED_UP_TO and found - len(slots) * mark == full:
                order[layer] += 1
            else:
                others[num_others] = layer
                num_others += 1
        for layer in others[:num_others]:
            stamp += 2
            swap = _swap_of(old[t, layer], new[t, layer], stamps, stamp, load_new[layer])
            if swap == 0:
                order[layer] += 1
                continue
            swaps[layer, swap] += 1
            differ += 1
            if differs.shape[0] > 0:
                differs[t, layer] = True
            if lowest < 0:
                lowest = layer
        differing[t] = differ
        first[t] = lowest


@njit(nogil=True, cache=True)
def scan(ids, num_experts, filler, missing, first_bad):  # type: ignore[no-untyped-def]
    """Mark filler rows, and count them; the first other row that is not legal."""
    found = 0
    for t in range(ids.shape[0]):
        for layer in range(ids.shape[1]):
            lead = np.int64(ids[t, layer, 0])
            uniform = True
            legal = True
            for k in range(ids.shape[2]):
                expert = np.int64(ids[t, layer, k])
                uniform = uniform and expert == lead
                legal = legal and 0 <= expert < num_experts
            outside = lead < 0 or lead >= num_experts
            several = ids.shape[2] > 1
            if uniform and (
                lead == -1 or (lead == filler and (outside or several)) or (lead == 0 and several)
            ):
                missing[t, layer] = True
                found += 1
            elif not legal and first_bad[0] < 0:
                first_bad[0] = t
                first_bad[1] = layer
    return found


@njit(nogil=True, cache=True)
def mark_bins(marks, starts, counts):  # type: ignore[no-untyped-def]
    """Count marks by bin of tokens and layer."""
    for b in range(counts.shape[0]):
        stop = starts[b + 1] if b + 1 < len(starts) else marks.shape[0]
        for t in range(starts[b], stop):
            for layer in range(marks.shape[1]):
                counts[b, layer] += marks[t, layer]


@njit(nogil=True, cache=True)
def load_of(ids, missing, load):  # type: ignore[no-untyped-def]
    """Count how often each expert was taken."""
    for t in range(ids.shape[0]):
        for layer in range(ids.shape[1]):
            if missing.shape[0] > 0 and missing[t, layer]:
                continue
            for k in range(ids.shape[2]):
                load[layer, ids[t, layer, k]] += 1
