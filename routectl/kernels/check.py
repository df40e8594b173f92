"""The loops of ``check`` over rows: flags, hashes and load of a sample in one pass.

Shape suffixes: T tokens, L MoE layers, K top_k, E num_experts, W words.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ..routes import Bools, Ids, words_of

__all__ = [
    "ARANGE",
    "DUPLICATE",
    "Hashes",
    "RowScan",
    "add_scores",
    "hash_sets",
    "heaviest_run",
    "scan_sample",
]

DUPLICATE = 1  # one expert twice
ARANGE = 2  # experts 0, 1, 2, ... in this order
_UP_TO = 64  # K from which loops are not worth unrolling
_NO_MASK = np.zeros((0, 0), np.bool_)
Hashes = NDArray[np.uint64]


@dataclass(frozen=True, slots=True, eq=False)
class RowScan:
    """What one pass over a sample yields; missing rows have no flags and no load.

    flags_TL   uint8, DUPLICATE | ARANGE
    hash_T     uint64, of the token's bytes in all layers
    uniform_T  bool, the token has the same bytes in every layer
    varies_L   bool, some row of the layer that is there differs from the first such row
    load_LE    int64, how often each expert was taken
    """

    flags_TL: NDArray[np.uint8]
    hash_T: Hashes
    uniform_T: Bools
    varies_L: Bools
    load_LE: NDArray[np.int64]


@njit(nogil=True, cache=True)
def _scan_rows(  # type: ignore[no-untyped-def]
    ids, words, missing, slots, zero_twice, flags, hashes, uniform, varies, load
):
    """Duplicates by a stamp per expert; ``slots`` is of length K, known to the compiler."""
    tokens, layers = ids.shape[0], ids.shape[1]
    stamps = np.zeros(load.shape[1], np.int64)
    first = np.full(layers, -1, np.int64)
    mark = np.int64(0)
    for t in range(tokens):
        mixed = np.uint64(14695981039346656037)
        alike = True
        for layer in range(layers):
            for w in range(words.shape[2]):
                word = np.uint64(words[t, layer, w])
                mixed = (mixed ^ word) * np.uint64(0x9E3779B97F4A7C15)
                mixed ^= mixed >> np.uint64(29)
                alike = alike and words[t, layer, w] == words[t, 0, w]
            if missing.shape[0] > 0 and missing[t, layer]:
                continue
            mark += 1
            twice = 0
            zeros = 0
            ordered = 0
            for k in range(len(slots)):
                expert = ids[t, layer, k]
                twice += stamps[expert] == mark
                stamps[expert] = mark
                zeros += expert == 0
                ordered += expert == k
                load[layer, expert] += np.uint32(1)
            if twice > 0 and not (zero_twice and twice == zeros - 1):
                flags[t, layer] |= np.uint8(1)
            if ordered == len(slots):
                flags[t, layer] |= np.uint8(2)
            if not varies[layer]:
                if first[layer] < 0:
                    first[layer] = t
                else:
                    for w in range(words.shape[2]):
                        if words[t, layer, w] != words[first[layer], layer, w]:
                            varies[layer] = True
        hashes[t] = mixed
        uniform[t] = alike


def scan_sample(
    ids_TLK: Ids, num_experts: int, missing_TL: Bools | None = None, *, zero_twice: bool = False
) -> RowScan:
    """Look at every row of a sample once; every id is below num_experts.

    With ``zero_twice``, expert 0 may be in a row several times: vLLM 0.32 writes 0 for the zero
    experts of LongCat. With K = 1 no row is ARANGE.
    """
    tokens, layers, top_k = ids_TLK.shape
    flags = np.zeros((tokens, layers), np.uint8)
    hashes, uniform = np.empty(tokens, np.uint64), np.empty(tokens, np.bool_)
    varies, load = np.zeros(layers, np.bool_), np.zeros((layers, num_experts), np.uint32)
    slots = (0,) * top_k if top_k <= _UP_TO else np.empty(top_k, np.int8)
    mask = _NO_MASK if missing_TL is None else missing_TL
    _scan_rows(
        ids_TLK, words_of(ids_TLK), mask, slots, zero_twice, flags, hashes, uniform, varies, load
    )
    if top_k == 1:
        flags &= ~np.uint8(ARANGE)
    return RowScan(flags, hashes, uniform, varies, load.astype(np.int64))


@njit(nogil=True, cache=True)
def _sum_scores(ids, missing, columns, table, total):  # type: ignore[no-untyped-def]
    for t in range(ids.shape[0]):
        score = np.float32(0)
        for i in range(len(columns)):
            layer = columns[i]
            if missing.shape[0] > 0 and missing[t, layer]:
                continue
            for k in range(ids.shape[2]):
                score += table[layer, ids[t, layer, k]]
        total[t] = score


def add_scores(
    ids_TLK: Ids,
    table_LE: NDArray[np.float32],
    columns: NDArray[np.int64],
    missing_TL: Bools | None = None,
) -> NDArray[np.float32]:
    """The sum over some layers, by index, of each token's experts' scores, float32 [T]."""
    total = np.empty(len(ids_TLK), np.float32)
    _sum_scores(ids_TLK, _NO_MASK if missing_TL is None else missing_TL, columns, table_LE, total)
    return total


@njit(nogil=True, cache=True)
def _hash_sets(ids, codes, hashes):  # type: ignore[no-untyped-def]
    for t in range(ids.shape[0]):
        for layer in range(ids.shape[1]):
            total = np.uint64(0)
            for k in range(ids.shape[2]):
                total += codes[ids[t, layer, k]]
            hashes[t, layer] = total


def hash_sets(ids_TLK: Ids, num_experts: int) -> Hashes:
    """A number of each row that does not depend on the order of its ids, uint64 [T, L].

    The sum of a fixed random number per expert: rows with other sets have other numbers, but for a
    chance of 2**-64. The same for both sides of a comparison.
    """
    codes = np.random.default_rng(0x5EED).integers(0, 1 << 64, num_experts, np.uint64)
    hashes = np.empty(ids_TLK.shape[:2], np.uint64)
    _hash_sets(ids_TLK, codes, hashes)
    return hashes


def heaviest_run(values_T: NDArray[np.float32]) -> tuple[int, int, float]:
    """The run (first, after the last) of the greatest sum, and the sum; (0, 0, 0.0) for none."""
    ends = np.concatenate([[0.0], np.cumsum(values_T, dtype=np.float64)])
    lowest = np.minimum.accumulate(ends)
    end = int((ends - lowest).argmax())
    first = int(ends[: end + 1].argmin())
    return first, end, float(ends[end] - ends[first])
