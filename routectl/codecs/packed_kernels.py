"""The loops of ``packed``: ids of whole bytes to runs of bits, a cell a run, and back.

A word holds 8 ids of uint8 or 4 of uint16; halves of it are moved together until its ids lie
side by side. Shape suffixes: N words of ids, M words of bits, S cells.
"""

import numpy as np
from numba import njit

__all__ = ["pack_words", "unpack_words"]

_PAIRS_8 = np.uint64(0x00FF00FF00FF00FF)
_PAIRS_16 = np.uint64(0x0000FFFF0000FFFF)
_PAIRS_32 = np.uint64(0x00000000FFFFFFFF)
_0, _1, _2, _7 = np.uint64(0), np.uint64(1), np.uint64(2), np.uint64(7)
_32, _63, _64 = np.uint64(32), np.uint64(63), np.uint64(64)


@njit(nogil=True, cache=True)
def _load(words, at):  # type: ignore[no-untyped-def]
    """64 bits from bit ``at`` on; there is a word more than the bits need."""
    m, shift = at >> np.uint64(6), at & _63
    return words[m] >> shift | (words[m + _1] << _1) << (_63 - shift)


@njit(nogil=True, cache=True)
def _store(words, m, held, filled, word, size):  # type: ignore[no-untyped-def]
    """Add ``size`` bits after the ``filled`` that are held; (next word, held, filled)."""
    held |= word << filled
    filled += size
    if filled < _64:
        return m, held, filled
    words[m] = held
    filled -= _64
    return m + 1, word >> (size - filled) if filled else _0, filled


@njit(nogil=True, cache=True)
def pack_words(ids_N, counts_S, bits, narrow, out_M):  # type: ignore[no-untyped-def]
    """Write the low ``bits`` of every id, first id lowest; each cell begins with a byte.

    ids_N holds ``counts_S`` ids of each cell end to end and a word more; ``narrow`` tells that a
    word has 8 ids of 8 bits, else 4 of 16.
    """
    b = np.uint64(bits)
    lanes, width = (np.uint64(8), np.uint64(8)) if narrow else (np.uint64(4), np.uint64(16))
    gap_8 = np.uint64(8) - b if narrow else _0
    gap_16, gap_32 = np.uint64(16) - (_2 * b if narrow else b), _32 - lanes * b // _2
    held, filled, m, at = _0, _0, 0, _0
    for s in range(counts_S.shape[0]):
        left = np.uint64(counts_S[s])
        while left:
            w, take = _load(ids_N, at), min(lanes, left)
            if take < lanes:
                w &= (_1 << (take * width)) - _1
            if narrow:
                w = (w & _PAIRS_8) | ((w & ~_PAIRS_8) >> gap_8)
            w = (w & _PAIRS_16) | ((w & ~_PAIRS_16) >> gap_16)
            w = (w & _PAIRS_32) | ((w & ~_PAIRS_32) >> gap_32)
            m, held, filled = _store(out_M, m, held, filled, w, take * b)
            at += take * width
            left -= take
        m, held, filled = _store(out_M, m, held, filled, _0, (_0 - filled) & _7)
    if filled:
        out_M[m] = held


@njit(nogil=True, cache=True)
def unpack_words(bits_M, counts_S, bits, narrow, out_N):  # type: ignore[no-untyped-def]
    """The inverse of pack_words; bits_M has a word more than the cells."""
    b = np.uint64(bits)
    lanes, width = (np.uint64(8), np.uint64(8)) if narrow else (np.uint64(4), np.uint64(16))
    step = lanes * b
    low_32 = (_1 << (step // _2)) - _1
    low_16 = (_1 << (_2 * b if narrow else b)) - _1
    low_16 |= low_16 << _32
    low_8 = (_1 << b) - _1
    low_8 |= low_8 << np.uint64(16)
    low_8 |= low_8 << _32
    half, gap_8 = step // _2, np.uint64(8) - b if narrow else _0
    gap_16 = np.uint64(16) - (_2 * b if narrow else b)
    held, filled, m, at = _0, _0, 0, _0
    for s in range(counts_S.shape[0]):
        left = np.uint64(counts_S[s])
        while left:
            w, take = _load(bits_M, at), min(lanes, left)
            w = (w & low_32) | (((w >> half) & low_32) << _32)
            w = (w & low_16) | ((w & (low_16 << (np.uint64(16) - gap_16))) << gap_16)
            if narrow:
                w = (w & low_8) | ((w & (low_8 << b)) << gap_8)
            if take < lanes:
                w &= (_1 << (take * width)) - _1
            m, held, filled = _store(out_N, m, held, filled, w, take * width)
            at += take * b
            left -= take
        at = (at + _7) & ~_7
    if filled:
        out_N[m] = held
