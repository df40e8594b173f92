"""The block of golden bytes, made by arithmetic alone."""

import numpy as np

from routectl.codecs.block import Block


def golden_block(codec):
    """A block made by arithmetic: 3 samples, one of them empty, 128 experts, 8 a row."""
    r, k = np.arange(60)[:, None], np.arange(8)[None, :]
    base = ((r * r * 5 + k * 17) % 128).astype(np.uint8)
    ids = base.copy()
    ids[::7, 3] = (ids[::7, 3] + 9) % 128
    ids[::11, 0] = (ids[::11, 0] + 5) % 128
    tokens = (np.arange(60) ** 2 % 23).astype(np.int32)
    return Block(ids, 128, (41, 0, 19), tokens, base if "base" in codec.needs else None)
