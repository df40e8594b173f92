"""``packed``: every id in ceil(log2 E) bits, in the order of the slots.

Bits run from the lowest of the first byte on, a cell ends with the byte that its last id ends in.
Shape suffixes: R rows, K top_k.
"""

import numpy as np

from ..routes import Ids
from .block import About, Block, Codec, Coded, check_cells, check_ids
from .packed_kernels import pack_words, unpack_words

__all__ = ["CODEC", "pack_ids", "unpack_ids"]


def pack_ids(ids: Ids, bits: int) -> bytes:
    """The low ``bits`` (0 up to the dtype's) of every id of a C-ordered array, end to end."""
    lanes = 8 // ids.itemsize
    if bits == 8 * ids.itemsize:
        return ids.astype(ids.dtype.newbyteorder("<"), copy=False).tobytes()
    words = np.zeros(-(-ids.size // lanes), np.uint64)
    words.view(ids.dtype)[: ids.size] = ids.reshape(-1)
    out = np.zeros(words.size * lanes * bits // 64 + 1, np.uint64)
    if bits:
        pack_words(words, bits, ids.itemsize == 1, out)
    return out.view(np.uint8)[: -(-ids.size * bits // 8)].tobytes()


def unpack_ids(data: bytes, count: int, bits: int, dtype: np.dtype[np.unsignedinteger]) -> Ids:
    """``count`` ids of ``bits`` each, as dtype. Raises ValueError for another length."""
    expected = -(-count * bits // 8)
    if len(data) != expected:
        raise ValueError(f"got {len(data)} bytes, expected {expected}")
    if bits == 8 * dtype.itemsize:
        return np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype)
    lanes = 8 // dtype.itemsize
    words = np.zeros(-(-expected // 8) + 2, np.uint64)
    words.view(np.uint8)[:expected] = np.frombuffer(data, np.uint8)
    if count * bits % 8 and data[-1] >> (count * bits % 8):
        raise ValueError("the bits after the last id are not 0")
    out = np.zeros(-(-count // lanes), np.uint64)
    if bits:
        unpack_words(words, bits, dtype.itemsize == 1, out)
    ids: Ids = out.view(dtype)[:count]
    return ids


def _bits(num_experts: int) -> int:
    return (num_experts - 1).bit_length()


def _encode(block: Block) -> Coded:
    bits, ends = _bits(block.num_experts), np.cumsum(block.lens_S)
    rows = zip(ends, block.lens_S, strict=True)
    return Coded(b"", tuple(pack_ids(block.ids_RK[end - n : end], bits) for end, n in rows))


def _decode(coded: Coded, about: About) -> Ids:
    check_cells(coded, about)
    bits, parts = _bits(about.num_experts), []
    for cell, rows in zip(coded.cells, about.lens_S, strict=True):
        parts.append(unpack_ids(cell, rows * about.top_k, bits, about.dtype))
    ids: Ids = np.concatenate([np.empty(0, about.dtype), *parts]).reshape(about.shape)
    check_ids(ids, about)
    return ids


CODEC = Codec("packed", 1, _encode, _decode)
