"""The compiled loop of ``digests``: BLAKE2b of many short spans side by side (RFC 7693).

One compression is a chain of operations that wait for each other; so many spans at a time fill the
processor's vectors. Shape suffixes: S spans, W words of a digest.
"""

import numpy as np
from numba import njit

__all__ = ["BLOCK", "hash_blocks"]

BLOCK = 128  # bytes
_LANES = 64  # spans side by side
_START = np.array(
    [
        *(0x6A09E667F3BCC908, 0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B, 0xA54FF53A5F1D36F1),
        *(0x510E527FADE682D1, 0x9B05688C2B3E6C1F, 0x1F83D9ABFB41BD6B, 0x5BE0CD19137E2179),
    ],
    np.uint64,
)
_PARAMETERS = np.uint64(0x01010010)  # a digest of 16 bytes, no key, no tree
_ORDER = np.array(  # of a block's words, by round
    [
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
        [11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4],
        [7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8],
        [9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13],
        [2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9],
        [12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11],
        [13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10],
        [6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5],
        [10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0],
    ]
)
_COLUMNS = np.array(  # and diagonals of the 16 words of state, which are mixed four at a time
    [
        *([0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15]),
        *([0, 5, 10, 15], [1, 6, 11, 12], [2, 7, 8, 13], [3, 4, 9, 14]),
    ]
)


@njit(nogil=True, cache=True)
def _fill(data, begins, ends, block):  # type: ignore[no-untyped-def]
    """The words of a block of each lane, little-endian, zeros behind a span's end."""
    block[:] = 0
    for n in range(len(begins)):
        begin, size = np.uint64(begins[n]), np.uint64(min(ends[n] - begins[n], BLOCK))
        whole = size >> np.uint64(3)
        for w in range(whole):
            at, word = begin + np.uint64(8) * w, np.uint64(0)
            for k in range(np.uint64(8)):
                word |= np.uint64(data[at + k]) << (np.uint64(8) * k)
            block[w, n] = word
        for k in range(size & np.uint64(7)):
            value = np.uint64(data[begin + np.uint64(8) * whole + k])
            block[whole, n] |= value << (np.uint64(8) * k)


@njit(nogil=True, cache=True)
def _mix(v, places, one, other):  # type: ignore[no-untyped-def]
    """RFC 7693, 3.1: the function G, in each lane."""
    a, b, c, d = v[places[0]], v[places[1]], v[places[2]], v[places[3]]
    for n in range(_LANES):
        va, vb, vc, vd = a[n], b[n], c[n], d[n]
        va += vb + one[n]
        vd ^= va
        vd = (vd >> np.uint64(32)) | (vd << np.uint64(32))
        vc += vd
        vb ^= vc
        vb = (vb >> np.uint64(24)) | (vb << np.uint64(40))
        va += vb + other[n]
        vd ^= va
        vd = (vd >> np.uint64(16)) | (vd << np.uint64(48))
        vc += vd
        vb ^= vc
        vb = (vb >> np.uint64(63)) | (vb << np.uint64(1))
        a[n], b[n], c[n], d[n] = va, vb, vc, vd


@njit(nogil=True, cache=True)
def _compress(state, v, block, sizes, is_last):  # type: ignore[no-untyped-def]
    """RFC 7693, 3.2: the function F, in each lane; sizes are the bytes so far."""
    v[:8] = state
    for i in range(8):
        v[8 + i] = _START[i]
    v[12] ^= sizes
    if is_last:
        v[14] ^= ~np.uint64(0)
    for r in range(12):
        for g in range(8):
            order = _ORDER[r % 10]
            _mix(v, _COLUMNS[g], block[order[2 * g]], block[order[2 * g + 1]])
    state ^= v[:8] ^ v[8:]


@njit(nogil=True, cache=True)
def hash_blocks(data, begins_S, ends_S, blocks):  # type: ignore[no-untyped-def]
    """BLAKE2b-128 of spans that have so many blocks each, at least one; an empty span has one."""
    found_SW = np.empty((len(begins_S), 2), np.uint64)
    state, v = np.empty((8, _LANES), np.uint64), np.empty((16, _LANES), np.uint64)
    block, sizes = np.zeros((16, _LANES), np.uint64), np.zeros(_LANES, np.uint64)
    for first in range(0, len(begins_S), _LANES):
        begins, ends = begins_S[first : first + _LANES], ends_S[first : first + _LANES]
        for i in range(8):
            state[i] = _START[i]
        state[0] ^= _PARAMETERS
        for at in range(1, blocks + 1):
            _fill(data, begins + BLOCK * (at - 1), ends, block)
            for n in range(len(begins)):
                sizes[n] = min(BLOCK * at, ends[n] - begins[n])
            _compress(state, v, block, sizes, at == blocks)
        found_SW[first : first + _LANES] = state[:2, : len(begins)].T
    return found_SW
