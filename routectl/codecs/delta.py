"""``delta``: sets as swaps against the rows of a base dump, range-coded.

What is shared is a digest of the base's rows; the cells are solid. Shape suffixes: R rows,
K top_k, E num_experts.
"""

import hashlib

import numpy as np

from ..errors import MismatchError
from ..routes import Ids
from .block import About, Block, Codec, Coded, check_cells
from .delta_kernels import NUM_FLAGS, prior_of, read_cell, write_cell
from .row_kernels import sorted_rows

__all__ = ["CODEC"]

_EVEN = 1 << 15  # a bit of which nothing is known: one half of 2^16


def _digest(base_RK: Ids) -> bytes:
    """BLAKE2b-128 of the base's rows, ids as uint8 or little-endian uint16."""
    return hashlib.blake2b(
        np.ascontiguousarray(base_RK, base_RK.dtype.newbyteorder("<")).data, digest_size=16
    ).digest()


def _base_of(block: Block | About) -> Ids:
    if block.base_RK is None:
        raise ValueError("delta needs the rows of a base")
    return block.base_RK


def _encode(block: Block) -> Coded:
    base = _base_of(block)
    flags = np.full((NUM_FLAGS, 2), _EVEN, np.int32)
    counts = prior_of(base, block.num_experts)
    ids, ascending = sorted_rows(block.ids_RK), sorted_rows(base)
    cells, at, top_k = [], 0, ids.shape[1]
    for rows in block.lens_S:
        part = slice(at, at + rows)
        at += rows
        out = np.empty(16 + 8 * rows * (1 + 2 * top_k), np.uint8)  # far above the worst case
        size = write_cell(ids[part], base[part], ascending[part], flags, counts, out)
        if size < 0:
            raise ValueError("delta takes no row that has an id twice")
        cells.append(out[:size].tobytes())
    return Coded(_digest(base), tuple(cells))


def _decode(coded: Coded, about: About) -> Ids:
    check_cells(coded, about)
    base = _base_of(about)
    if coded.shared != _digest(base):
        raise MismatchError("the base has other routes than the one that was coded against")
    flags = np.full((NUM_FLAGS, 2), _EVEN, np.int32)
    counts = prior_of(base, about.num_experts)
    ids, ascending, at = np.zeros(about.shape, about.dtype), sorted_rows(base), 0
    for cell, rows in zip(coded.cells, about.lens_S, strict=True):
        part, data = slice(at, at + rows), np.frombuffer(cell, np.uint8)
        at += rows
        fine = not cell
        if rows:
            fine = read_cell(data, base[part], ascending[part], flags, counts, ids[part])
        if not fine:
            raise ValueError("a cell ends too early, too late or in no row")
    return ids


CODEC = Codec(
    "delta", 1, _encode, _decode, keeps_order=False, solid=True, needs=("distinct", "base")
)
