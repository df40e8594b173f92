"""Digests of many spans: the compiled loop against hashlib."""

import hashlib

import numpy as np
import pytest

from routectl.kernels.digests import hash_many, hashing_of
from routectl.keys import hash_spans

KINDS = {
    "about each edge of a block": np.add.outer(128 * np.arange(10), [-1, 0, 1]).ravel().clip(0),
    "nothing": np.zeros(3, np.int64),
    "no spans": np.zeros(0, np.int64),
    "more of a kind than lanes": np.tile([19, 0, 128, 129, 5], 40),
    "long ones alone": np.array([1025, 4000]),
}


@pytest.mark.parametrize("sizes", KINDS.values(), ids=KINDS)
def test_digests_are_blake2b(sizes):
    """Each span's digest is hashlib's, of whatever sizes, out of order and with bytes between."""
    rng = np.random.default_rng(0)
    ends = np.cumsum(sizes + 3) + 1
    data = rng.integers(0, 256, int(ends.max(initial=0)) + 5, dtype=np.uint8)
    order = rng.permutation(len(sizes))
    begins, ends = (ends - sizes)[order], ends[order]
    spans = (data[a:b].tobytes() for a, b in zip(begins, ends, strict=True))
    wanted = b"".join(hashlib.blake2b(span, digest_size=16).digest() for span in spans)
    for hashing in (hash_spans, hash_many):
        assert hashing(data, begins, ends).tobytes() == wanted


def test_the_loop_is_for_many():
    """Ten million spans are hashed by the loop."""
    assert hashing_of(10_000_000) is hash_many
