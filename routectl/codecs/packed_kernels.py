"""The loops of ``packed``: a word of ids to a run of bits, and back.

A word holds 8 ids of uint8 or 4 of uint16; halves of it are moved together until its ids lie
side by side. Shape suffixes: N words of ids, M words of bits.
"""

import numpy as np
from numba import njit

__all__ = ["pack_words", "unpack_words"]

_PAIRS_8 = np.uint64(0x00FF00FF00FF00FF)
_PAIRS_16 = np.uint64(0x0000FFFF0000FFFF)
_PAIRS_32 = np.uint64(0x00000000FFFFFFFF)


@njit(nogil=True, cache=True)
def pack_words(ids_N, bits, narrow, out_M):  # type: ignore[no-untyped-def]
    """Write the low ``bits`` of every id in uint64 words, first id lowest, to uint64 words.

    ``narrow`` tells that a word holds 8 ids of 8 bits, else 4 of 16.
    """
    b = np.uint64(bits)
    lanes = np.uint64(8) if narrow else np.uint64(4)
    step = lanes * b
    gap_8, gap_16, gap_32 = (
        np.uint64(8) - b if narrow else np.uint64(0),
        np.uint64(16) - (b + b if narrow else b),
        np.uint64(32) - step // np.uint64(2),
    )
    acc, filled, m = np.uint64(0), np.uint64(0), 0
    for n in range(ids_N.shape[0]):
        w = ids_N[n]
        if narrow:
            w = (w & _PAIRS_8) | ((w & ~_PAIRS_8) >> gap_8)
        w = (w & _PAIRS_16) | ((w & ~_PAIRS_16) >> gap_16)
        w = (w & _PAIRS_32) | ((w & ~_PAIRS_32) >> gap_32)
        acc |= w << filled
        filled += step
        if filled >= np.uint64(64):
            out_M[m] = acc
            m += 1
            filled -= np.uint64(64)
            acc = w >> (step - filled) if filled > 0 else np.uint64(0)
    if filled > 0:
        out_M[m] = acc


@njit(nogil=True, cache=True)
def unpack_words(bits_M, bits, narrow, out_N):  # type: ignore[no-untyped-def]
    """The inverse of pack_words; bits_M has one word more than the bits need."""
    b = np.uint64(bits)
    lanes = np.uint64(8) if narrow else np.uint64(4)
    step = lanes * b
    one = np.uint64(1)
    low_32 = (one << (step // np.uint64(2))) - one
    low_16 = (one << (step // np.uint64(4) if narrow else b)) - one
    low_16 |= low_16 << np.uint64(32)
    low_8 = (one << b) - one
    low_8 |= low_8 << np.uint64(16)
    low_8 |= low_8 << np.uint64(32)
    half, gap_8 = step // np.uint64(2), np.uint64(8) - b if narrow else np.uint64(0)
    gap_16 = np.uint64(16) - (b + b if narrow else b)
    for n in range(out_N.shape[0]):
        at = np.uint64(n) * step
        m, shift = at >> np.uint64(6), at & np.uint64(63)
        w = bits_M[m] >> shift
        w |= (bits_M[m + one] << one) << (np.uint64(63) - shift)
        w = (w & low_32) | (((w >> half) & low_32) << np.uint64(32))
        w = (w & low_16) | ((w & (low_16 << (np.uint64(16) - gap_16))) << gap_16)
        if narrow:
            w = (w & low_8) | ((w & (low_8 << b)) << gap_8)
        out_N[n] = w
