"""Loops over rows of ids that more than one codec needs: sorting them, seeing ids twice.

Shape suffixes: R rows, K top_k.
"""

import numpy as np
from numba import njit

from ..routes import Bools, Ids

__all__ = ["digits_of", "place_by", "repeats_in", "sorted_rows"]

_TILE = 64  # rows that are sorted together, side by side
_UP_TO = 64  # K from which a network takes longer than a sort


@njit(nogil=True, cache=True)
def _sort(ids, out, lanes):  # type: ignore[no-untyped-def]
    """Odd-even transposition of whole tiles: comparing is done for 64 rows at once."""
    num_rows, top_k = ids.shape
    for r in range(0, num_rows, _TILE):
        count = min(_TILE, num_rows - r)
        for i in range(count):
            for k in range(top_k):
                lanes[k, i] = ids[r + i, k]
        for step in range(top_k):
            for k in range(step & 1, top_k - 1, 2):
                for i in range(_TILE):
                    a, b = lanes[k, i], lanes[k + 1, i]
                    lanes[k, i], lanes[k + 1, i] = min(a, b), max(a, b)
        for i in range(count):
            for k in range(top_k):
                out[r + i, k] = lanes[k, i]


def sorted_rows(ids_RK: Ids) -> Ids:
    """The rows with their ids ascending, as a new array."""
    if ids_RK.shape[1] > _UP_TO:
        return np.sort(ids_RK, axis=1)
    out: Ids = np.empty(ids_RK.shape, ids_RK.dtype)
    _sort(ids_RK, out, np.zeros((ids_RK.shape[1], _TILE), ids_RK.dtype))
    return out


@njit(nogil=True, cache=True)
def _repeats(rows, twice):  # type: ignore[no-untyped-def]
    for r in range(rows.shape[0]):
        found = False
        for k in range(1, rows.shape[1]):
            found = found | (rows[r, k] == rows[r, k - 1])
        twice[r] = found


def repeats_in(sorted_RK: Ids) -> Bools:
    """bool [R], True where a row, its ids ascending, has one twice."""
    twice = np.empty(len(sorted_RK), np.bool_)
    _repeats(sorted_RK, twice)
    return twice


@njit(nogil=True, cache=True)
def _digits(ids, digits):  # type: ignore[no-untyped-def]
    num_rows, top_k = ids.shape
    for r in range(num_rows):
        for k in range(top_k):
            below = 0
            for j in range(k + 1, top_k):
                below += ids[r, j] < ids[r, k]
            digits[r, k] = below


def digits_of(ids_RK: Ids) -> Ids:
    """uint16 [R, K]: how many of the ids after a slot are below its own."""
    digits: Ids = np.zeros(ids_RK.shape, np.uint16)
    _digits(ids_RK, digits)
    return digits


@njit(nogil=True, cache=True)
def _place(rows, digits, out):  # type: ignore[no-untyped-def]
    num_rows, top_k = rows.shape
    left = np.zeros(top_k, rows.dtype)
    for r in range(num_rows):
        left[:] = rows[r]
        for k in range(top_k):
            at = np.int64(digits[r, k])
            out[r, k] = left[at]
            for j in range(at, top_k - 1 - k):
                left[j] = left[j + 1]


def place_by(sorted_RK: Ids, digits_RK: Ids) -> Ids:
    """The inverse of digits_of: ascending rows in the order of their digits, each below K - k."""
    out: Ids = np.zeros(sorted_RK.shape, sorted_RK.dtype)
    _place(sorted_RK, digits_RK, out)
    return out
