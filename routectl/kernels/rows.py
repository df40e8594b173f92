"""What is counted over rows: in one pass by compiled loops, or, of few rows, by numpy alone.

Shape suffixes: T tokens, L MoE layers, K top_k, E num_experts, S = K + 1 swap counts, W words.
"""

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..routes import Bools, Ids, by_token, words_of
from .row_words import loads_of, swaps_of, unlike_rows

__all__ = [
    "RowCounts",
    "added_rows",
    "count_load",
    "count_marks",
    "diff_rows",
    "diff_rows_of_few",
    "loops_loaded",
    "scan_rows",
]

Counts = NDArray[np.int64]
_CHUNK_TOKENS = 1 << 20  # keeps the kernel's uint32 counters far from overflow (x K <= 4096)
_COPIED_TOKENS = 1 << 11  # that are laid token by token at a time, in memory that is used again
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
    unlike       rows that differ in their bytes, where those are known; else 0
    """

    swaps_LS: Counts
    order_L: Counts
    load_old_LE: Counts
    load_new_LE: Counts
    differing_T: NDArray[np.int32]
    first_T: NDArray[np.int32]
    differs_TL: Bools | None = None
    unlike: int = 0


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    """A view that cannot be written: loops are compiled, and loaded, for one kind of arrays."""
    view = array.view()
    view.flags.writeable = False
    return view


def _known(count: int) -> Any:
    """Of this length: a tuple, unless loops are not worth unrolling."""
    return (0,) * count if count <= _TUPLE_UP_TO else np.empty(count, np.int8)


def _count_chunk(old: Ids, new: Ids, skip: Bools, num_experts: int, mark: bool) -> RowCounts:
    from .row_loops import diff_chunk

    tokens, layers, top_k = old.shape
    swaps = np.zeros((layers, top_k + 1), np.int64)
    order = np.zeros(layers, np.int64)
    load_old = np.zeros((layers, num_experts), np.uint32)
    load_new = np.zeros((layers, num_experts), np.uint32)
    differing = np.empty(tokens, np.int32)
    first = np.empty(tokens, np.int32)
    differs = np.zeros((tokens if mark else 0, layers), np.bool_)
    words = words_of(old)
    diff_chunk(
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


def loops_loaded() -> bool:
    """Whether the compiled loops are here already, so that they cost nothing more."""
    return f"{__package__}.row_loops" in sys.modules


def diff_rows_of_few(
    old_TLK: Ids,
    new_TLK: Ids,
    num_experts: int,
    *,
    skip_TL: Bools | None = None,
    mark: bool = False,
    most: int = 1 << 62,
) -> RowCounts | None:
    """What ``diff_rows`` counts, by numpy alone; None where more than ``most`` rows are unlike.

    Ids are in C order or ``by_layer``. For inputs that are done before compiled loops would be
    loaded, which takes half a second; rows that are unlike, byte for byte, take longest.
    """
    (tokens, layers, top_k), experts = old_TLK.shape, num_experts
    found = unlike_rows(old_TLK, new_TLK, skip_TL, most)
    if found is None:
        return None
    swaps_N = swaps_of(found.old_NK, found.new_NK)
    differ_N = swaps_N > 0
    layer_N, token_N = found.layer_N[differ_N], found.token_N[differ_N]
    width = top_k + 1
    swaps = np.bincount(layer_N * width + swaps_N[differ_N], minlength=layers * width)
    swaps_LS = swaps.reshape(layers, width)
    there_L = tokens - (0 if skip_TL is None else np.count_nonzero(skip_TL, axis=0))
    swaps_LS[:, 0] = there_L - swaps_LS.sum(axis=1)
    load_LE = loads_of(old_TLK, experts, skip_TL)
    moved_LE = [
        np.bincount((found.layer_N[:, None] * experts + ids).ravel(), minlength=layers * experts)
        for ids in (found.old_NK, found.new_NK)
    ]
    first_T = np.full(tokens, -1, np.int32)
    first_T[token_N[::-1]] = layer_N[::-1]  # the last that is put, the lowest layer, stays
    differs_TL = np.zeros((tokens, layers), np.bool_) if mark else None
    if differs_TL is not None:
        differs_TL[token_N, layer_N] = True
    return RowCounts(
        swaps_LS,
        np.bincount(found.layer_N[~differ_N], minlength=layers),
        load_LE,
        load_LE + (moved_LE[1] - moved_LE[0]).reshape(layers, experts),
        np.bincount(token_N, minlength=tokens).astype(np.int32),
        first_T,
        differs_TL,
        len(swaps_N),
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

    Both arrays are [T, L, K], C order (others are copied), uint8 or uint16, every id below
    num_experts. Rows marked in skip_TL (bool) are left out of every count. The work is cut into
    ``threads`` runs of tokens. With ``mark`` the mismatched rows are marked too.
    Raises ValueError when the arrays are not of one shape and dtype, or the mask is of another.
    """
    if old_TLK.shape != new_TLK.shape or old_TLK.dtype != new_TLK.dtype:
        raise ValueError(f"cannot compare {old_TLK.shape} with {new_TLK.shape}")
    if skip_TL is not None and skip_TL.shape != old_TLK.shape[:2]:
        raise ValueError(f"skip_TL must be {old_TLK.shape[:2]}, got {skip_TL.shape}")
    skip = np.zeros((0, 0), np.bool_) if skip_TL is None else skip_TL
    tokens = old_TLK.shape[0]
    whole = old_TLK.flags.c_contiguous and new_TLK.flags.c_contiguous
    most = _CHUNK_TOKENS if whole else _COPIED_TOKENS
    step = max(1, min(most, -(-tokens // threads)))

    def count(lo: int) -> RowCounts:
        chunk = slice(lo, lo + step)
        return _count_chunk(
            by_token(old_TLK[chunk]),
            by_token(new_TLK[chunk]),
            skip if skip_TL is None else skip[chunk],
            num_experts,
            mark,
        )

    starts = range(0, max(tokens, 1), step)
    if len(starts) == 1:
        return count(0)
    if threads == 1:
        return added_rows([count(lo) for lo in starts])
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
    from .row_loops import scan

    found = scan(ids_TLK, num_experts, filler, missing, first_bad)
    return (missing if found else None), int(first_bad[0]), int(first_bad[1])


def count_marks(marks_TL: Bools, starts_B: Counts) -> Counts:
    """How many tokens are marked, int64 [L, B]; bin b is from token starts_B[b] to the next's."""
    counts = np.zeros((len(starts_B), marks_TL.shape[1]), np.uint32)
    from .row_loops import mark_bins

    mark_bins(marks_TL, starts_B, counts)
    return counts.T.astype(np.int64)


def count_load(ids_TLK: Ids, num_experts: int, missing_TL: Bools | None = None) -> Counts:
    """How often each expert was taken in each layer, int64 [L, E]; missing rows left out."""
    load = np.zeros((ids_TLK.shape[1], num_experts), np.int64)
    skip = np.zeros((0, 0), np.bool_) if missing_TL is None else missing_TL
    from .row_loops import load_of

    load_of(ids_TLK, skip, load)
    return load
