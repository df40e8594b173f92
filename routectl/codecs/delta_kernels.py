"""The loops of ``delta``: which rows differ from the base's, which ids leave, which enter.

Shape suffixes: R rows, K top_k, E num_experts, F flags, S samples, C bytes of a cell, B of all.
"""

import numpy as np
from numba import njit

from .range_kernels import (
    bit_from,
    bit_into,
    finish_range,
    range_from,
    share_from,
    share_into,
    start_decoder,
    start_encoder,
)

__all__ = ["NUM_FLAGS", "prior_of", "read_cells", "write_cells"]

_CHANGED, _MORE, _LEAVES = 0, 8, 12  # where the estimates of each kind of bit begin
_SLOTS = 64  # slots that have estimates of their own
NUM_FLAGS = _LEAVES + 2 * _SLOTS
_STEP = 24  # what an entering id adds to its count
_LIMIT = 1 << 16  # the sum of counts at which all are halved


@njit(nogil=True, cache=True)
def prior_of(base_RK, num_experts):  # type: ignore[no-untyped-def]
    """Counts to begin with, int64 [E]: 1 and up to 8 E more, shared out by the base's load."""
    load = np.zeros(num_experts, np.int64)
    for r in range(base_RK.shape[0]):
        for k in range(base_RK.shape[1]):
            load[base_RK[r, k]] += 1
    total = max(1, base_RK.size)
    return 1 + load * (8 * num_experts) // total


@njit(nogil=True, cache=True)
def _hide(counts_E, base, hidden):  # type: ignore[no-untyped-def]
    """Count the ids of a row as 0: they cannot enter it. ``hidden`` keeps what they counted."""
    for k in range(base.shape[0]):
        hidden[k] = counts_E[base[k]]
        counts_E[base[k]] = 0


@njit(nogil=True, cache=True)
def _learn_row(counts_E, base, hidden, entered):  # type: ignore[no-untyped-def]
    """Count the ids of the row again, and those that entered."""
    for k in range(base.shape[0]):
        counts_E[base[k]] = hidden[k]
    for i in range(entered.shape[0]):
        counts_E[entered[i]] += _STEP
        if counts_E[entered[i]] > _LIMIT:
            for e in range(counts_E.shape[0]):
                counts_E[e] = (counts_E[e] + 1) >> 1


@njit(nogil=True, cache=True)
def _slot_flag(need, k):  # type: ignore[no-untyped-def]
    return _LEAVES + (0 if need == 1 else _SLOTS) + min(k, _SLOTS - 1)


@njit(nogil=True, cache=True)
def _write_row(rc, out, flags, counts_E, hidden, base, leaving, entering, swaps):  # type: ignore[no-untyped-def]
    """Code one changed row; returns the coder."""
    top_k = base.shape[0]
    for n in range(1, min(top_k, counts_E.shape[0] - top_k)):
        rc = bit_into(rc, out, flags, _MORE + min(n, 4) - 1, swaps > n)
        if swaps == n:
            break
    need = swaps
    for k in range(top_k - 1, -1, -1):  # the last slot first: by score, it leaves first
        if need == 0 or need > k:
            break
        rc = bit_into(rc, out, flags, _slot_flag(need, k), leaving[k])
        need -= leaving[k]
    _hide(counts_E, base, hidden)
    after = -1
    for i in range(swaps):  # ascending
        expert = entering[i]
        first, last = counts_E[after + 1 : expert].sum(), counts_E[expert:].sum()
        rc = share_into(rc, out, first, counts_E[expert], first + last)
        after = expert
    _learn_row(counts_E, base, hidden, entering[:swaps])
    return rc


@njit(nogil=True, cache=True)
def _write_cell(ids_RK, base_RK, ascending_RK, flags_F, counts_E, out_C):  # type: ignore[no-untyped-def]
    """Code the rows of one sample; returns the bytes written, -1 where an id is twice in a row.

    Rows of ids_RK are ascending, so are those of ascending_RK, which holds the rows of base_RK.
    flags_F and counts_E are what was learnt from the samples before; out_C has room for the worst
    case.
    """
    top_k, num_experts = ids_RK.shape[1], counts_E.shape[0]
    stamps = np.zeros(num_experts, np.int64)
    leaving, entering = np.zeros(top_k, np.int64), np.zeros(top_k, np.int64)
    hidden, past = np.zeros(top_k, np.int64), 0
    rc = start_encoder()
    for r in range(ids_RK.shape[0]):
        same = True
        for k in range(top_k):
            same = same & (ids_RK[r, k] == ascending_RK[r, k])
        swaps = 0
        if not same:
            mark = 3 * r + 1
            for k in range(top_k):
                if stamps[base_RK[r, k]] == mark:
                    return -1
                stamps[base_RK[r, k]] = mark
            for k in range(top_k):
                expert = np.int64(ids_RK[r, k])
                if stamps[expert] > mark:
                    return -1
                if stamps[expert] < mark:
                    entering[swaps] = expert
                    swaps += 1
                    stamps[expert] = mark + 2
                else:
                    stamps[expert] = mark + 1
            for k in range(top_k):
                leaving[k] = stamps[base_RK[r, k]] == mark
        rc = bit_into(rc, out_C, flags_F, _CHANGED + past, swaps > 0)
        past = ((past << 1) | (swaps > 0)) & 7
        if swaps > 0:
            rc = _write_row(
                rc, out_C, flags_F, counts_E, hidden, base_RK[r], leaving, entering, swaps
            )
    return finish_range(rc, out_C)


@njit(nogil=True, cache=True)
def write_cells(ids_RK, base_RK, ascending_RK, lens_S, flags_F, counts_E, out_B, ends_S):  # type: ignore[no-untyped-def]
    """Code the rows of all samples, end to end, as _write_cell does; false where it cannot.

    ``ends_S`` becomes where each cell ends in ``out_B``.
    """
    row, at = 0, 0
    for s in range(lens_S.shape[0]):
        stop = row + lens_S[s]
        if stop > row:
            rows = slice(row, stop)
            size = _write_cell(
                ids_RK[rows], base_RK[rows], ascending_RK[rows], flags_F, counts_E, out_B[at:]
            )
            if size < 0:
                return False
            at += size
        row, ends_S[s] = stop, at
    return True


@njit(nogil=True, cache=True)
def _read_entering(rc, data, counts_E, after):  # type: ignore[no-untyped-def]
    """(coder, the next id that enters, above ``after``); -1 where there is none."""
    whole = counts_E[after + 1 :].sum()
    if whole == 0:
        return rc, -1
    at, first, expert = share_from(rc, whole), 0, after + 1
    while at >= first + counts_E[expert]:
        first += counts_E[expert]
        expert += 1
    return range_from(rc, data, first, counts_E[expert], whole), expert


@njit(nogil=True, cache=True)
def _read_row(rc, data, flags, counts_E, hidden, base, row, entered):  # type: ignore[no-untyped-def]
    """One changed row, ids that stay first; (coder, whether there is such a row)."""
    top_k = base.shape[0]
    swaps = 1
    for n in range(1, min(top_k, counts_E.shape[0] - top_k)):
        rc, more = bit_from(rc, data, flags, _MORE + min(n, 4) - 1)
        if not more:
            break
        swaps = n + 1
    need, stay = swaps, 0
    for k in range(top_k - 1, -1, -1):
        leaves = need > 0
        if 0 < need <= k:
            rc, leaves = bit_from(rc, data, flags, _slot_flag(need, k))
        if leaves:
            need -= 1
        else:
            row[stay] = base[k]
            stay += 1
    _hide(counts_E, base, hidden)
    after = -1
    for i in range(swaps):
        rc, after = _read_entering(rc, data, counts_E, after)
        if after < 0:
            return rc, False
        entered[i] = after
        row[stay + i] = after
    _learn_row(counts_E, base, hidden, entered[:swaps])
    return rc, True


@njit(nogil=True, cache=True)
def _sort_row(row):  # type: ignore[no-untyped-def]
    for k in range(1, row.shape[0]):
        expert, i = row[k], k
        while i > 0 and row[i - 1] > expert:
            row[i] = row[i - 1]
            i -= 1
        row[i] = expert


@njit(nogil=True, cache=True)
def _read_cell(data_C, base_RK, ascending_RK, flags_F, counts_E, ids_RK):  # type: ignore[no-untyped-def]
    """The inverse of _write_cell; returns whether the bytes are all used, no more.

    data_C may be anything: a row holds K ids below E whatever it says.
    """
    top_k = ids_RK.shape[1]
    hidden, entered, past = np.zeros(top_k, np.int64), np.zeros(top_k, np.int64), 0
    rc = start_decoder(data_C)
    for r in range(ids_RK.shape[0]):
        rc, changed = bit_from(rc, data_C, flags_F, _CHANGED + past)
        past = ((past << 1) | changed) & 7
        if changed:
            rc, fine = _read_row(
                rc, data_C, flags_F, counts_E, hidden, base_RK[r], ids_RK[r], entered
            )
            if not fine or np.int64(rc[3]) > data_C.shape[0] + 8:
                return False
            _sort_row(ids_RK[r])
        else:
            for k in range(top_k):
                ids_RK[r, k] = ascending_RK[r, k]
    return np.int64(rc[3]) >= data_C.shape[0] and np.int64(rc[3]) <= data_C.shape[0] + 8


@njit(nogil=True, cache=True)
def read_cells(data_B, ends_S, base_RK, ascending_RK, lens_S, flags_F, counts_E, ids_RK):  # type: ignore[no-untyped-def]
    """The inverse of write_cells; returns whether every cell's bytes are all used, no more."""
    row, at = 0, 0
    for s in range(lens_S.shape[0]):
        stop, end = row + lens_S[s], ends_S[s]
        fine = end == at
        if stop > row:
            rows = slice(row, stop)
            fine = _read_cell(
                data_B[at:end], base_RK[rows], ascending_RK[rows], flags_F, counts_E, ids_RK[rows]
            )
        if not fine:
            return False
        row, at = stop, end
    return True
