"""``packed``: every id in ceil(log2 E) bits, in the order of the slots.

Bits run from the lowest of the first byte on, a cell ends with the byte that its last id ends in.
Shape suffixes: S cells.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ..routes import Ids
from .block import About, Block, Codec, Coded, check_cells, check_ids
from .packed_kernels import pack_words, unpack_words

__all__ = ["CODEC", "pack_ids", "unpack_ids"]


def _ends(counts_S: NDArray[np.int64], bits: int) -> NDArray[np.int64]:
    """Where each cell of so many ids begins in the bytes of all, and where the last one ends."""
    ends = np.zeros(len(counts_S) + 1, np.int64)
    np.cumsum((counts_S * bits + 7) // 8, out=ends[1:])
    return ends


def pack_ids(ids: Ids, counts: Sequence[int], bits: int) -> tuple[bytes, ...]:
    """Cells of ``counts`` ids each, the low ``bits`` (0 up to the dtype's) of every one.

    ``ids`` is C-ordered and holds all cells, end to end.
    """
    counts_S = np.array(counts, np.int64)
    ends = _ends(counts_S, bits)
    if bits == 8 * ids.itemsize:
        data = ids.astype(ids.dtype.newbyteorder("<"), copy=False).tobytes()
    else:
        words = np.empty(ids.nbytes // 8 + 2, np.uint64)
        words.view(ids.dtype)[: ids.size] = ids.reshape(-1)
        out = np.empty(ends[-1] // 8 + 1, np.uint64)
        pack_words(words, counts_S, bits, ids.itemsize == 1, out)
        data = out.view(np.uint8)[: ends[-1]].tobytes()
    return tuple(data[lo:hi] for lo, hi in pairwise(ends.tolist()))


def unpack_ids(
    cells: Sequence[bytes], counts: Sequence[int], bits: int, dtype: np.dtype[np.unsignedinteger]
) -> Ids:
    """The ids of all cells, end to end, as dtype. Raises ValueError for a cell that has others."""
    counts_S = np.array(counts, np.int64)
    ends, data = _ends(counts_S, bits), b"".join(cells)
    sizes = np.diff(ends)
    for size, cell in zip(sizes.tolist(), cells, strict=True):
        if size != len(cell):
            raise ValueError(f"got {len(cell)} bytes, expected {size}")
    if bits == 8 * dtype.itemsize:
        return np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype)
    words = np.empty(len(data) // 8 + 2, np.uint64)
    words.view(np.uint8)[: len(data)] = np.frombuffer(data, np.uint8)
    used = counts_S * bits % 8
    if (words.view(np.uint8)[ends[1:][used > 0] - 1] >> used[used > 0]).any():
        raise ValueError("the bits after the last id are not 0")
    total = int(counts_S.sum())
    out = np.empty(total * dtype.itemsize // 8 + 1, np.uint64)
    unpack_words(words, counts_S, bits, dtype.itemsize == 1, out)
    ids: Ids = out.view(dtype)[:total]
    return ids


def _bits(num_experts: int) -> int:
    return (num_experts - 1).bit_length()


def _counts(lens_S: tuple[int, ...], top_k: int) -> list[int]:
    return [rows * top_k for rows in lens_S]


def _encode(block: Block) -> Coded:
    counts = _counts(block.lens_S, block.ids_RK.shape[1])
    return Coded(b"", pack_ids(block.ids_RK, counts, _bits(block.num_experts)))


def _decode(coded: Coded, about: About) -> Ids:
    check_cells(coded, about)
    counts = _counts(about.lens_S, about.top_k)
    ids = unpack_ids(coded.cells, counts, _bits(about.num_experts), about.dtype)
    check_ids(ids.reshape(about.shape), about)
    return ids.reshape(about.shape)


CODEC = Codec("packed", 1, _encode, _decode)
