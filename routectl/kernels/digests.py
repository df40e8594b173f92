"""BLAKE2b of many spans of bytes: by a compiled loop, or, of few of them, one by one.

Shape suffixes: N bytes, S spans, W words of a digest.
"""

import sys

import numpy as np
from numpy.typing import NDArray

from ..keys import Digests, Hashing, Ints, hash_spans

__all__ = ["hash_many", "hashing_of"]

_MANY = 1 << 19  # spans that take as long one by one as loading the loop
_BLOCKS = 8  # of a span that is worth the loop


def hashing_of(count: int) -> Hashing:
    """What hashes so many spans soonest."""
    loaded = f"{__package__}.digest_loops" in sys.modules
    return hash_many if loaded or count >= _MANY else hash_spans


def hash_many(data_N: NDArray[np.uint8], begins_S: Ints, ends_S: Ints) -> Digests:
    """``hash_spans`` of any number, those of up to 1 KiB side by side."""
    from .digest_loops import BLOCK, hash_blocks

    blocks_S = np.clip((ends_S - begins_S + BLOCK - 1) // BLOCK, 1, _BLOCKS + 1)
    found_SW = np.empty((len(blocks_S), 2), np.uint64)
    data_N = data_N.view()
    data_N.flags.writeable = False  # loops are compiled for one kind of arrays
    for blocks in np.flatnonzero(np.bincount(blocks_S)).tolist():
        places = np.flatnonzero(blocks_S == blocks)
        spans = data_N, begins_S[places], ends_S[places]
        if blocks > _BLOCKS:
            found_SW[places] = hash_spans(*spans)
        else:
            found_SW[places] = hash_blocks(*spans, blocks)
    return found_SW
