"""Slot orders: what brings ascending rows back to the order that they had.

Digit k of a row says how many of the ids after slot k are below its id, 0 to K - 1 - k. Digits
side by side are one number where their product fits 16 bits; each such number is a stream of fixed
width, so K = 8 takes 16 bits a row. Shape suffixes: R rows, K top_k.
"""

from collections.abc import Iterator

import numpy as np

from ..routes import Ids
from .packed import pack_ids, unpack_ids
from .row_kernels import digits_of, place_by

__all__ = ["ordered_rows", "orders_bytes", "pack_orders"]


def _runs(top_k: int) -> Iterator[tuple[int, int, int]]:
    """(first digit, last + 1, bits) of each stream; the last digit is always 0."""
    first = 0
    while first < top_k - 1:
        stop, size = first + 1, top_k - first
        while stop < top_k - 1 and size * (top_k - stop) <= 1 << 16:
            size *= top_k - stop
            stop += 1
        yield first, stop, (size - 1).bit_length()
        first = stop


def orders_bytes(rows: int, top_k: int) -> int:
    """How many bytes the orders of so many rows take."""
    return sum(-(-rows * bits // 8) for _, _, bits in _runs(top_k))


def pack_orders(ids_RK: Ids) -> bytes:
    """The slot orders of rows."""
    rows, top_k = ids_RK.shape
    digits_RK = digits_of(ids_RK)
    parts: list[bytes] = []
    for first, stop, bits in _runs(top_k):
        number_R = np.zeros(rows, np.uint32)
        for k in range(first, stop):
            number_R = number_R * np.uint32(top_k - k) + digits_RK[:, k]
        parts += pack_ids(number_R.astype(np.uint16), (rows,), bits)
    return b"".join(parts)


def ordered_rows(sorted_RK: Ids, data: bytes) -> Ids:
    """Rows in the order that ``data`` holds. Raises ValueError where it holds none."""
    rows, top_k = sorted_RK.shape
    if len(data) != orders_bytes(rows, top_k):
        raise ValueError(f"got {len(data)} bytes, expected {orders_bytes(rows, top_k)}")
    digits_RK, at = np.zeros((rows, top_k), np.uint16), 0
    for first, stop, bits in _runs(top_k):
        size = -(-rows * bits // 8)
        number_R = unpack_ids((data[at : at + size],), (rows,), bits, np.dtype(np.uint16))
        at += size
        for k in range(stop - 1, first - 1, -1):
            number_R, digits_RK[:, k] = np.divmod(number_R, np.uint16(top_k - k))
        if number_R.any():
            raise ValueError("a slot order is none")
    return place_by(sorted_RK, digits_RK)
