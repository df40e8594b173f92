"""The loops over rows: one pass each, no Python object inside.

Shape suffixes: T tokens, L MoE layers, K top_k, E num_experts, S = K + 1 swap counts, W words.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ..routes import Bools, Ids, words_of

__all__ = ["RowCounts", "added_rows", "count_load", "count_marks", "diff_rows", "scan_rows"]

Counts = NDArray[np.int64]
_CHUNK_TOKENS = 1 << 20  # keeps the kernel's uint32 counters far from overflow (x K <= 4096)
_MARKED_UP_TO = 24  # K up to which 2^34 marks, K x 2^K each, are less than 2^63
_TUPLE_UP_TO = 64  # K from which loops are not worth unrolling; numba refuses tuples from 1000 on


@dataclass(frozen=True, slots=True, eq=False)
class RowCounts:
    """What one pass over two id arrays yields; every count is of rows present on both sides.

    swaps_LS     int64, rows by how many ids differ: max(|A|, |B|) - |A ∩ B| of the two id sets
    order_L      int64, rows with equal sets in another slot order
    load_old_LE  int64, how often each expert was taken; load_new_LE likewise
    differing_T  int32, layers in which the token's sets differ
    first_T      int32, index into L of the lowest of them, -1 where none differs
    differs_TL   bool, True where the sets differ; None unless asked for
    """

    swaps_LS: Counts
    order_L: Counts
    load_old_LE: Counts
    load_new_LE: Counts
    differing_T: NDArray[np.int32]
    first_T: NDArray[np.int32]
    differs_TL: Bools | None = None


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
def _diff_chunk(sides, words, skip, sizes, counts, differing, first, differs):  # type: ignore[no-untyped-def]
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


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    """A view that cannot be written: loops are compiled, and loaded, for one kind of arrays."""
    view = array.view()
    view.flags.writeable = False
    return view


def _known(count: int) -> Any:
    """Of this length: a tuple, unless loops are not worth unrolling."""
    return (0,) * count if count <= _TUPLE_UP_TO else np.empty(count, np.int8)


def _count_chunk(old: Ids, new: Ids, skip: Bools, num_experts: int, mark: bool) -> RowCounts:
    tokens, layers, top_k = old.shape
    swaps = np.zeros((layers, top_k + 1), np.int64)
    order = np.zeros(layers, np.int64)
    load_old = np.zeros((layers, num_experts), np.uint32)
    load_new = np.zeros((layers, num_experts), np.uint32)
    differing = np.empty(tokens, np.int32)
    first = np.empty(tokens, np.int32)
    differs = np.zeros((tokens if mark else 0, layers), np.bool_)
    words = words_of(old)
    _diff_chunk(
        (_frozen(old), _frozen(new)),
        (_frozen(words), _frozen(words_of(new))),
        _frozen(skip),
        (_known(top_k), _known(words.shape[2])),
        (swaps, order, load_old, load_new),
        differing,
        first,
        differs,
    )
    compared_L = tokens - (np.count_nonzero(skip, axis=0) if skip.size else 0)
    swaps[:, 0] = compared_L - swaps.sum(axis=1)
    return RowCounts(
        swaps,
        order,
        load_old.astype(np.int64),
        (load_old + load_new).astype(np.int64),
        differing,
        first,
        differs if mark else None,
    )


def diff_rows(
    old_TLK: Ids,
    new_TLK: Ids,
    num_experts: int,
    *,
    skip_TL: Bools | None = None,
    threads: int = 1,
    mark: bool = False,
) -> RowCounts:
    """Count how the rows of two id arrays differ, in one pass over both.

    Both arrays are [T, L, K], C order, uint8 or uint16, every id below num_experts. Rows marked in
    skip_TL (bool) are left out of every count. The work is cut into ``threads`` runs of tokens.
    With ``mark`` the mismatched rows are marked too.
    Raises ValueError when the arrays are not of one shape and dtype, or the mask is of another.
    """
    if old_TLK.shape != new_TLK.shape or old_TLK.dtype != new_TLK.dtype:
        raise ValueError(f"cannot compare {old_TLK.shape} with {new_TLK.shape}")
    if skip_TL is not None and skip_TL.shape != old_TLK.shape[:2]:
        raise ValueError(f"skip_TL must be {old_TLK.shape[:2]}, got {skip_TL.shape}")
    skip = np.zeros((0, 0), np.bool_) if skip_TL is None else skip_TL
    tokens = old_TLK.shape[0]
    step = max(1, min(_CHUNK_TOKENS, -(-tokens // threads)))

    def count(lo: int) -> RowCounts:
        chunk = slice(lo, lo + step)
        return _count_chunk(
            old_TLK[chunk],
            new_TLK[chunk],
            skip if skip_TL is None else skip[chunk],
            num_experts,
            mark,
        )

    starts = range(0, max(tokens, 1), step)
    if len(starts) == 1:
        return count(0)
    with ThreadPoolExecutor(threads) as pool:
        return added_rows(list(pool.map(count, starts)))


def added_rows(parts: Sequence[RowCounts]) -> RowCounts:
    """The counts of runs of tokens that follow each other; all of them have marks, or none."""
    if len(parts) == 1:
        return parts[0]
    marks = [p.differs_TL for p in parts if p.differs_TL is not None]
    return RowCounts(
        reduce(np.add, [p.swaps_LS for p in parts]),
        reduce(np.add, [p.order_L for p in parts]),
        reduce(np.add, [p.load_old_LE for p in parts]),
        reduce(np.add, [p.load_new_LE for p in parts]),
        np.concatenate([p.differing_T for p in parts]),
        np.concatenate([p.first_T for p in parts]),
        np.concatenate(marks) if marks else None,
    )


@njit(nogil=True, cache=True)
def _scan(ids, num_experts, filler, missing, first_bad):  # type: ignore[no-untyped-def]
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


def scan_rows(ids_TLK: NDArray[np.integer], num_experts: int) -> tuple[Bools | None, int, int]:
    """Find filler rows and the first row with an id outside 0..E-1, in any integer dtype.

    A row whose K ids are all -1, all the dtype's greatest value (a wrapped -1) or, with K > 1, all
    0 cannot be a route: K experts of one row are distinct. With K = 1 only values that are no id
    are filler. Returns (missing_TL or None when no row is filler, token, layer), the last two -1
    when every other row is legal.
    """
    missing = np.zeros(ids_TLK.shape[:2], np.bool_)
    first_bad = np.full(2, -1, np.int64)
    greatest = int(np.iinfo(ids_TLK.dtype).max)
    filler = greatest if greatest < 2**63 else -1  # the kernel sees ids as int64
    found = _scan(ids_TLK, num_experts, filler, missing, first_bad)
    return (missing if found else None), int(first_bad[0]), int(first_bad[1])


@njit(nogil=True, cache=True)
def _mark(marks, starts, counts):  # type: ignore[no-untyped-def]
    for b in range(counts.shape[0]):
        stop = starts[b + 1] if b + 1 < len(starts) else marks.shape[0]
        for t in range(starts[b], stop):
            for layer in range(marks.shape[1]):
                counts[b, layer] += marks[t, layer]


def count_marks(marks_TL: Bools, starts_B: Counts) -> Counts:
    """How many tokens are marked, int64 [L, B]; bin b is from token starts_B[b] to the next's."""
    counts = np.zeros((len(starts_B), marks_TL.shape[1]), np.uint32)
    _mark(marks_TL, starts_B, counts)
    return counts.T.astype(np.int64)


@njit(nogil=True, cache=True)
def _load(ids, missing, load):  # type: ignore[no-untyped-def]
    for t in range(ids.shape[0]):
        for layer in range(ids.shape[1]):
            if missing.shape[0] > 0 and missing[t, layer]:
                continue
            for k in range(ids.shape[2]):
                load[layer, ids[t, layer, k]] += 1


def count_load(ids_TLK: Ids, num_experts: int, missing_TL: Bools | None = None) -> Counts:
    """How often each expert was taken in each layer, int64 [L, E]; missing rows left out."""
    load = np.zeros((ids_TLK.shape[1], num_experts), np.int64)
    skip = np.zeros((0, 0), np.bool_) if missing_TL is None else missing_TL
    _load(ids_TLK, skip, load)
    return load
