"""The loop over a Parquet footer: one of 100 GB has a million column chunks, 15 us each in Python.

Thrift's compact protocol, as ``formats/native/thrift.py`` has it, which reads what is small.
Shape suffixes: G row groups, C column chunks of one, F fields of a chunk.
"""

import numpy as np
from numba import njit

__all__ = ["CUT", "FIELDS", "TWICE", "WRONG", "find_chunks"]

# of ColumnMetaData: codec, values, stored bytes, data page, dictionary page
FIELDS = (4, 5, 7, 9, 11)
CUT, WRONG, TWICE = 1, 2, 3  # what is wrong: it ends too early, no so many chunks, two lists
_DEEP = 8  # lists and structs within each other
_LIST, _STRUCT = 9, 12
_ROW_GROUPS, _COLUMNS, _META = 4, 1, 3  # fields of a file, of a row group, of a column chunk


@njit(nogil=True)
def _varint(data, at):  # type: ignore[no-untyped-def]
    """An unsigned varint, and where it ends; beyond the data where it does not."""
    value, shift = np.uint64(0), np.uint64(0)
    while at < len(data) and shift < 64:
        byte = np.uint64(data[at])
        at += 1
        value |= (byte & np.uint64(127)) << shift
        if byte < 128:
            return value, at
        shift += np.uint64(7)
    return value, len(data) + 1


@njit(nogil=True)
def _zigzag(value):  # type: ignore[no-untyped-def]
    return np.int64(value >> np.uint64(1)) ^ -np.int64(value & np.uint64(1))


@njit(nogil=True)
def _field(data, at, number):  # type: ignore[no-untyped-def]
    """The number and type of a struct's next field, and where its value is; type 0 at its end."""
    if at >= len(data):
        return number, 0, len(data) + 1
    head = np.int64(data[at])
    if head == 0:
        return number, 0, at + 1
    kind = head & 15 if head & 15 else -1  # 0 alone is the end
    if head >> 4:
        return number + (head >> 4), kind, at + 1
    value, at = _varint(data, at + 1)
    return _zigzag(value & np.uint64(0xFFFFFFFF)), kind, at


@njit(nogil=True)
def _list(data, at):  # type: ignore[no-untyped-def]
    """The type of a list's items, how many there are, and where they begin."""
    if at >= len(data):
        return 0, 0, len(data) + 1
    head = np.int64(data[at])
    if head >> 4 < 15:
        return head & 15, head >> 4, at + 1
    value, at = _varint(data, at + 1)
    return head & 15, np.int64(min(value, np.uint64(len(data)))), at


@njit(nogil=True)
def _skip(data, at, kind, base, left):  # type: ignore[no-untyped-def]
    """Where a value ends; beyond the data, too, where it is none.

    It is within ``base`` other structs and lists; ``left`` is scratch, int64 [2, _DEEP].
    Of each list and struct that is open, ``left`` has the type of its items and how many are to
    come; of a struct -1.
    """
    depth, of_list = 0, False
    while True:
        if kind in (_LIST, _STRUCT):
            if base + depth == _DEEP:
                return len(data) + 1
            left[0, depth], left[1, depth] = 0, -1
            if kind == _LIST:
                left[0, depth], left[1, depth], at = _list(data, at)
            depth += 1
        elif kind in (4, 5, 6):
            _, at = _varint(data, at)
        elif kind == 8:
            size, at = _varint(data, at)
            at += np.int64(min(size, np.uint64(len(data))))
        elif kind in (1, 2):
            at += of_list
        elif kind in (3, 7):
            at += 1 if kind == 3 else 8
        else:
            return len(data) + 1
        more = False
        while depth and not more:
            of_list = left[1, depth - 1] >= 0
            if of_list:
                kind, more = left[0, depth - 1], left[1, depth - 1] > 0
                left[1, depth - 1] -= 1
            else:
                _, kind, at = _field(data, at, 0)
                more = kind != 0
            depth -= not more
        if not more or at > len(data):
            return at


@njit(nogil=True)
def _chunk(data, at, found_F, left):  # type: ignore[no-untyped-def]
    """Read a column chunk; returns where it ends."""
    number, kind = 0, 1
    found_F[:] = 0
    while at <= len(data):
        number, kind, at = _field(data, at, number)
        if kind == 0:
            return at
        if number != _META or kind != _STRUCT:
            at = _skip(data, at, kind, 2, left)
            continue
        inner, of = 0, 1
        while at <= len(data):
            inner, of, at = _field(data, at, inner)
            if of == 0:
                break
            if of not in (5, 6):
                at = _skip(data, at, of, 3, left)
                continue
            value, at = _varint(data, at)
            for i in range(len(FIELDS)):
                if inner == FIELDS[i]:
                    found_F[i] = _zigzag(value)
    return at


@njit(nogil=True)
def _row_group(data, at, found_CF, left):  # type: ignore[no-untyped-def]
    """Read the column chunks of a row group; returns where it ends, or less what is wrong."""
    number, kind, seen = 0, 1, 0
    while at <= len(data):
        number, kind, at = _field(data, at, number)
        if kind == 0:
            return at if seen else -WRONG
        if number != _COLUMNS or kind != _LIST:
            at = _skip(data, at, kind, 1, left)
            continue
        of, size, at = _list(data, at)
        if seen or of != _STRUCT or size != len(found_CF):
            return -TWICE if seen else -WRONG
        seen = 1
        for i in range(size):
            at = _chunk(data, at, found_CF[i], left)
            if at > len(data):
                return at
    return at


@njit(nogil=True, cache=True)
def find_chunks(data, found_GCF):  # type: ignore[no-untyped-def]
    """Read FIELDS of every column chunk of a footer, uint8 [bytes], into int64 [G, C, F].

    Returns 0, or CUT, TWICE, or WRONG where there are not so many row groups of so many chunks.
    """
    at, number, kind, seen = 0, 0, 1, 0
    left = np.zeros((2, _DEEP), np.int64)
    while at <= len(data):
        number, kind, at = _field(data, at, number)
        if kind == 0:
            return CUT if at > len(data) else 0 if seen else WRONG
        if number != _ROW_GROUPS or kind != _LIST:
            at = _skip(data, at, kind, 0, left)
            continue
        of, size, at = _list(data, at)
        if seen or of != _STRUCT or size != len(found_GCF):
            return TWICE if seen else WRONG
        seen = 1
        for g in range(size):
            at = _row_group(data, at, found_GCF[g], left)
            if at < 0:
                return -at
            if at > len(data):
                return CUT
    return CUT
