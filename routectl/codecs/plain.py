"""``plain``: every id as the narrowest integer, little-endian, row after row.

Shape suffixes: R rows, K top_k.
"""

import numpy as np

from ..routes import Ids
from .block import About, Block, Codec, Coded, check_cells, check_ids

__all__ = ["CODEC"]


def _encode(block: Block) -> Coded:
    ids = block.ids_RK.astype(block.ids_RK.dtype.newbyteorder("<"), copy=False)
    ends = np.cumsum(block.lens_S)
    cells = (ids[end - n : end].tobytes() for end, n in zip(ends, block.lens_S, strict=True))
    return Coded(b"", tuple(cells))


def _decode(coded: Coded, about: About) -> Ids:
    check_cells(coded, about)
    row_bytes = about.top_k * about.dtype.itemsize
    for cell, rows in zip(coded.cells, about.lens_S, strict=True):
        if len(cell) != rows * row_bytes:
            raise ValueError(f"got {len(cell)} bytes, expected {rows * row_bytes}")
    data = np.frombuffer(b"".join(coded.cells), about.dtype.newbyteorder("<"))
    ids: Ids = data.reshape(about.shape).astype(about.dtype, copy=False)
    check_ids(ids, about)
    return ids


CODEC = Codec("plain", 1, _encode, _decode)
