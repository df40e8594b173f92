"""``delta``: sets as swaps against the rows of a base dump, range-coded.

What is shared is a digest of the base's rows; the cells are solid. Shape suffixes: R rows,
K top_k, E num_experts.
"""

import hashlib
from itertools import pairwise

import numpy as np

from ..errors import MismatchError
from ..routes import Ids
from .block import About, Block, Codec, Coded, check_cells
from .delta_kernels import NUM_FLAGS, prior_of, read_cells, write_cells
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
    lens_S = np.array(block.lens_S, np.int64)
    rows, top_k = ids.shape
    out = np.empty(16 * len(lens_S) + 8 * rows * (1 + 2 * top_k), np.uint8)  # above the worst case
    ends_S = np.zeros(len(lens_S), np.int64)
    if not write_cells(ids, base, ascending, lens_S, flags, counts, out, ends_S):
        raise ValueError("delta takes no row that has an id twice")
    data = out.data
    cells = tuple(bytes(data[lo:hi]) for lo, hi in pairwise((0, *ends_S.tolist())))
    return Coded(_digest(base), cells)


def _decode(coded: Coded, about: About) -> Ids:
    check_cells(coded, about)
    base = _base_of(about)
    if coded.shared != _digest(base):
        raise MismatchError("the base has other routes than the one that was coded against")
    flags = np.full((NUM_FLAGS, 2), _EVEN, np.int32)
    counts = prior_of(base, about.num_experts)
    ids, ascending = np.zeros(about.shape, about.dtype), sorted_rows(base)
    data = np.frombuffer(b"".join(coded.cells), np.uint8)
    ends_S = np.cumsum([*map(len, coded.cells)], dtype=np.int64)
    lens_S = np.array(about.lens_S, np.int64)
    if not read_cells(data, ends_S, base, ascending, lens_S, flags, counts, ids):
        raise ValueError("a cell ends too early, too late or in no row")
    return ids


CODEC = Codec(
    "delta", 1, _encode, _decode, keeps_order=False, solid=True, needs=("distinct", "base")
)
