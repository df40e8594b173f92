"""The loops of tables of routes by token: counting rows, scoring them, laying windows of them.

Shape suffixes: T, N rows, L MoE layers, K top_k, E experts, V tokens that have a table, F folds,
P places, S states.
"""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ..routes import Bools, Ids

__all__ = [
    "Ints32",
    "Scores",
    "assign_largest",
    "count_rows",
    "renumbering_gains",
    "score_counts",
    "score_layers",
    "score_rows",
    "score_sums",
    "score_tokens",
    "score_totals",
    "slide",
    "worst_runs",
]

_NO_MASK = np.zeros((0, 0), np.bool_)
Ints32 = NDArray[np.int32]
Scores = NDArray[np.int8]


@njit(nogil=True, cache=True)
def _count_rows(slots, folds, ids, missing, counts, rows):  # type: ignore[no-untyped-def]
    for t in range(ids.shape[0]):
        slot = slots[t]
        if slot < 0:
            continue
        rows[folds[t], slot] += 1
        for layer in range(ids.shape[1]):
            if missing.shape[0] > 0 and missing[t, layer]:
                continue
            for k in range(ids.shape[2]):
                counts[folds[t], slot, layer, ids[t, layer, k]] += np.uint32(1)


def count_rows(
    slots_T: Ints32,
    folds_T: Ints32,
    ids_TLK: Ids,
    missing_TL: Bools | None,
    counts_FVLE: NDArray[np.uint32],
    rows_FV: NDArray[np.int64],
) -> None:
    """Add rows to the counts of their tokens, but for missing ones and those whose slot is -1."""
    mask = _NO_MASK if missing_TL is None else missing_TL
    _count_rows(slots_T, folds_T, ids_TLK, mask, counts_FVLE, rows_FV)


@njit(nogil=True, cache=True)
def _score_counts(counts, total, base, weight, unit, scores):  # type: ignore[no-untyped-def]
    folds, slots, layers, experts = counts.shape
    apart = folds > 1  # of one fold, all of it teaches
    found = np.empty(experts, np.int64)
    for slot in range(slots):
        for layer in range(layers):
            kinds, whole = 0, 0.0
            for e in range(experts):
                if total[slot, layer, e]:
                    found[kinds] = e
                    kinds += 1
                    whole += total[slot, layer, e]
            for f in range(folds):
                size = whole
                if apart:
                    for i in range(kinds):
                        size -= counts[f, slot, layer, found[i]]
                unseen = round(unit * math.log2(weight / (size + weight)))
                scores[f, slot, layer] = max(-127, min(127, unseen))
                for i in range(kinds):
                    e = found[i]
                    seen = np.float64(total[slot, layer, e])
                    if apart:
                        seen -= counts[f, slot, layer, e]
                    if seen:
                        often = base[f, layer, e]
                        share = (seen + weight * often) / (size + weight)
                        bits = round(unit * math.log2(share / often))
                        scores[f, slot, layer, e] = max(-127, min(127, bits))


def score_counts(counts_FVLE: NDArray[np.uint32], weight: float, unit: int) -> Scores:
    """int8 ``unit`` x log2 P(id | token) / P(id), within 127, by the counts of the other folds.

    With one fold, by its own. P(id | token) is (n + weight P(id)) / (N + weight), n being how often
    the id was in the token's rows, N the ids of all of them; P(id) has half an id more of each.
    """
    total_VLE = counts_FVLE.sum(axis=0, dtype=np.int64)
    base_FLE = (
        np.broadcast_to(total_VLE.sum(axis=0), (len(counts_FVLE), *total_VLE.shape[1:])) + 0.5
    )
    if len(counts_FVLE) > 1:
        base_FLE = base_FLE - counts_FVLE.sum(axis=1, dtype=np.int64)
    base_FLE = base_FLE / base_FLE.sum(axis=2, keepdims=True)
    scores = np.empty(counts_FVLE.shape, np.int8)
    _score_counts(counts_FVLE, total_VLE, base_FLE, float(weight), unit, scores)
    return scores


@njit(nogil=True, cache=True)
def _score_rows(slots, folds, ids, missing, scores, out):  # type: ignore[no-untyped-def]
    for t in range(ids.shape[0]):
        slot = slots[t]
        for layer in range(ids.shape[1]):
            total = np.int32(0)
            if slot >= 0 and not (missing.shape[0] > 0 and missing[t, layer]):
                for k in range(ids.shape[2]):
                    total += np.int32(scores[folds[t], slot, layer, ids[t, layer, k]])
            out[t, layer] = total


def score_rows(
    slots_T: Ints32,
    folds_T: Ints32,
    ids_TLK: Ids,
    missing_TL: Bools | None,
    scores_FVLE: Scores,
) -> Ints32:
    """The sum of each row's ids' scores given its token, int32 [T, L]; 0 where it has none."""
    out = np.empty(ids_TLK.shape[:2], np.int32)
    mask = _NO_MASK if missing_TL is None else missing_TL
    _score_rows(slots_T, folds_T, ids_TLK, mask, scores_FVLE, out)
    return out


@njit(nogil=True, cache=True)
def _score_totals(slots, folds, ids, missing, scores, totals):  # type: ignore[no-untyped-def]
    for t in range(ids.shape[0]):
        slot = slots[t]
        if slot < 0:
            continue
        for layer in range(ids.shape[1]):
            if missing.shape[0] > 0 and missing[t, layer]:
                continue
            for k in range(ids.shape[2]):
                totals[layer] += scores[folds[t], slot, layer, ids[t, layer, k]]


def score_totals(
    slots_T: Ints32,
    folds_T: Ints32,
    ids_TLK: Ids,
    missing_TL: Bools | None,
    scores_FVLE: Scores,
    totals_L: NDArray[np.int64],
) -> None:
    """Add ``score_rows``, summed over the rows, to the totals of the layers."""
    mask = _NO_MASK if missing_TL is None else missing_TL
    _score_totals(slots_T, folds_T, ids_TLK, mask, scores_FVLE, totals_L)


@njit(nogil=True, cache=True)
def _score_sums(slots, folds, ids, missing, columns, scores, out):  # type: ignore[no-untyped-def]
    for t in range(ids.shape[0]):
        slot = slots[t]
        total = np.int32(0)
        if slot >= 0:
            for i in range(len(columns)):
                layer = columns[i]
                if missing.shape[0] > 0 and missing[t, layer]:
                    continue
                for k in range(ids.shape[2]):
                    total += np.int32(scores[folds[t], slot, layer, ids[t, layer, k]])
        out[t] = total


def score_sums(
    slots_T: Ints32,
    folds_T: Ints32,
    ids_TLK: Ids,
    missing_TL: Bools | None,
    columns: NDArray[np.int64],
    scores_FVLE: Scores,
) -> Ints32:
    """``score_rows``, summed over some layers by index: int32 [T]."""
    out = np.empty(len(ids_TLK), np.int32)
    mask = _NO_MASK if missing_TL is None else missing_TL
    _score_sums(slots_T, folds_T, ids_TLK, mask, columns, scores_FVLE, out)
    return out


@njit(nogil=True, cache=True)
def _worst_runs(scores, out):  # type: ignore[no-untyped-def]
    for layer in range(scores.shape[1]):
        total = np.int64(0)
        for t in range(scores.shape[0]):
            total = max(np.int64(0), total - scores[t, layer])
            out[layer] = max(out[layer], total)


def worst_runs(scores_TL: Ints32) -> NDArray[np.int64]:
    """How far the sum of a run of rows is below 0 in each layer, at most: int64 [L]."""
    out = np.zeros(scores_TL.shape[1], np.int64)
    _worst_runs(scores_TL, out)
    return out


@njit(nogil=True, cache=True)
def _score_tokens(slots, folds, ids, missing, columns, scores, out):  # type: ignore[no-untyped-def]
    for t in range(ids.shape[0]):
        for d in range(len(slots)):
            total = np.int32(0)
            for i in range(len(columns)):
                layer = columns[i]
                if missing.shape[0] > 0 and missing[t, layer]:
                    continue
                for k in range(ids.shape[2]):
                    total += np.int32(scores[folds[t], slots[d], layer, ids[t, layer, k]])
            out[t, d] = total


def score_tokens(
    slots_D: Ints32,
    folds_N: Ints32,
    ids_NLK: Ids,
    missing_NL: Bools | None,
    columns: NDArray[np.int64],
    scores_FVLE: Scores,
) -> Ints32:
    """Each row's score over some layers given each of D tokens, int32 [N, D]."""
    out = np.empty((len(ids_NLK), len(slots_D)), np.int32)
    mask = _NO_MASK if missing_NL is None else missing_NL
    _score_tokens(slots_D, folds_N, ids_NLK, mask, columns, scores_FVLE, out)
    return out


@njit(nogil=True, cache=True)
def _slide(window, column, out):  # type: ignore[no-untyped-def]
    rows = window.shape[0]
    for place in range(len(out)):
        total = np.int32(0)
        first = place - rows + 1
        for i in range(max(0, -first), min(rows, len(column) - first)):
            if column[first + i] >= 0:
                total += window[i, column[first + i]]
        out[place] = total


def slide(window_ND: Ints32, column_P: Ints32) -> Ints32:
    """The score of a window of rows laid at every place of a sequence, int32 [P + N - 1].

    ``column_P`` is the column of ``window_ND`` of each token of the sequence, -1 for none. Entry i
    is of the window whose first row lies at place i - N + 1: windows may stand out at both ends.
    """
    out = np.zeros(len(column_P) + len(window_ND) - 1, np.int32)
    if len(window_ND):
        _slide(window_ND, column_P, out)
    return out


@njit(nogil=True, cache=True)
def _score_layers(slots, folds, ids, scores, out):  # type: ignore[no-untyped-def]
    for t in range(ids.shape[0]):
        if slots[t] < 0:
            continue
        for layer in range(len(out)):
            for k in range(ids.shape[1]):
                out[layer] += np.int64(scores[folds[t], slots[t], layer, ids[t, k]])


def score_layers(
    slots_N: Ints32, folds_N: Ints32, ids_NK: Ids, scores_FVLE: Scores
) -> NDArray[np.int64]:
    """The sum of one layer's rows' scores, were they of each of the layers, int64 [L]."""
    out = np.zeros(scores_FVLE.shape[2], np.int64)
    _score_layers(slots_N, folds_N, ids_NK, scores_FVLE, out)
    return out


@njit(nogil=True, cache=True)
def _renumbering_gains(slots, folds, ids, scores, out):  # type: ignore[no-untyped-def]
    for t in range(ids.shape[0]):
        if slots[t] < 0:
            continue
        for k in range(ids.shape[1]):
            for expert in range(out.shape[1]):
                out[ids[t, k], expert] += scores[folds[t], slots[t], expert]


def renumbering_gains(
    slots_N: Ints32, folds_N: Ints32, ids_NK: Ids, scores_FVE: Scores
) -> NDArray[np.float64]:
    """What each id of one layer's rows would score, were it each of the experts: float64 [E, E]."""
    experts = scores_FVE.shape[2]
    out = np.zeros((experts, experts))
    _renumbering_gains(slots_N, folds_N, ids_NK, scores_FVE, out)
    return out


@njit(nogil=True, cache=True)
def _assign(gains, row_of):  # type: ignore[no-untyped-def]
    """Shortest augmenting paths (Jonker and Volgenant, 1987); columns and rows from 1 on."""
    size = gains.shape[0]
    above, left = np.zeros(size + 1), np.zeros(size + 1)
    way = np.zeros(size + 1, np.int64)
    for row in range(1, size + 1):
        row_of[0] = row
        column = 0
        least = np.full(size + 1, np.inf)
        used = np.zeros(size + 1, np.bool_)
        while True:
            used[column] = True
            here = row_of[column]
            delta = np.inf
            nearest = 0
            for j in range(1, size + 1):
                if used[j]:
                    continue
                cost = -gains[here - 1, j - 1] - above[here] - left[j]
                if cost < least[j]:
                    least[j] = cost
                    way[j] = column
                if least[j] < delta:
                    delta = least[j]
                    nearest = j
            for j in range(size + 1):
                if used[j]:
                    above[row_of[j]] += delta
                    left[j] -= delta
                else:
                    least[j] -= delta
            column = nearest
            if row_of[column] == 0:
                break
        while column != 0:
            row_of[column] = row_of[way[column]]
            column = way[column]


def assign_largest(gains_EE: NDArray[np.float64]) -> NDArray[np.int64]:
    """The permutation ``to`` with the largest sum of ``gains_EE[i, to[i]]``, int64 [E]."""
    row_of = np.zeros(len(gains_EE) + 1, np.int64)
    _assign(gains_EE, row_of)
    to_E = np.empty(len(gains_EE), np.int64)
    to_E[row_of[1:] - 1] = np.arange(len(gains_EE))
    return to_E
