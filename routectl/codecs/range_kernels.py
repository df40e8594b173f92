"""A range coder of 64 bits without carries, and bits that learn their probability.

After Dmitry Subbotin's carryless range coder (1999), with 64 bits in place of 32: the range is at
least 2^48 between symbols. Its state ``rc`` is (low, range, code, bytes done), four uint64 that
every function takes and gives back, so that they stay in registers.
"""

import numpy as np
from numba import njit

__all__ = [
    "bit_from",
    "bit_into",
    "finish_range",
    "range_from",
    "share_from",
    "share_into",
    "start_decoder",
    "start_encoder",
]

_TOP = np.uint64(1 << 56)
_LEAST = np.uint64(1 << 48)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
_0, _1, _8, _16, _56 = np.uint64(0), np.uint64(1), np.uint64(8), np.uint64(16), np.uint64(56)


@njit(nogil=True, cache=True)
def start_encoder():  # type: ignore[no-untyped-def]
    """A coder that has written nothing."""
    return _0, _ALL, _0, _0


@njit(nogil=True, cache=True)
def start_decoder(data):  # type: ignore[no-untyped-def]
    """A coder that has read the first 8 bytes; bytes after the end count as 0."""
    code = _0
    for at in range(8):
        code = (code << _8) | (np.uint64(data[at]) if at < data.shape[0] else _0)
    return _0, _ALL, code, _8


@njit(nogil=True, cache=True)
def _settle_into(rc, out, low, width):  # type: ignore[no-untyped-def]
    """Write the top bytes that are known; a range that is too small is cut so that one is."""
    at = rc[3]
    while True:
        if (low ^ (low + width)) >= _TOP:
            if width >= _LEAST:
                break
            width = (~low + _1) & (_LEAST - _1)
        out[at] = np.uint8(low >> _56)
        at += _1
        low <<= _8
        width <<= _8
    return low, width, _0, at


@njit(nogil=True, cache=True)
def _settle_from(rc, data, low, width):  # type: ignore[no-untyped-def]
    code, at = rc[2], rc[3]
    while True:
        if (low ^ (low + width)) >= _TOP:
            if width >= _LEAST:
                break
            width = (~low + _1) & (_LEAST - _1)
        code = (code << _8) | (np.uint64(data[at]) if at < np.uint64(data.shape[0]) else _0)
        at += _1
        low <<= _8
        width <<= _8
    return low, width, code, at


@njit(nogil=True, cache=True)
def finish_range(rc, out):  # type: ignore[no-untyped-def]
    """Write the shortest bytes that the decoder cannot mistake; returns how many there are."""
    low, width, _, at = rc
    value, count = _0, 0
    while count < 8 and value - low >= width:
        count += 1
        ones = (_1 << np.uint64(64 - 8 * count)) - _1
        value = (low + ones) & ~ones
    for _i in range(count):
        out[at] = np.uint8(value >> _56)
        at += _1
        value <<= _8
    end = np.int64(at)
    while end > 0 and out[end - 1] == 0:
        end -= 1
    return end


@njit(nogil=True, cache=True)
def share_into(rc, out, first, size, total):  # type: ignore[no-untyped-def]
    """Code the symbol that has ``size`` of ``total`` (below 2^32), from ``first`` on."""
    unit = rc[1] // np.uint64(total)
    return _settle_into(rc, out, rc[0] + unit * np.uint64(first), unit * np.uint64(size))


@njit(nogil=True, cache=True)
def share_from(rc, total):  # type: ignore[no-untyped-def]
    """Where in ``total`` the next symbol lies; range_from takes it away."""
    unit = rc[1] // np.uint64(total)
    return np.int64(min((rc[2] - rc[0]) // unit, np.uint64(total) - _1))


@njit(nogil=True, cache=True)
def range_from(rc, data, first, size, total):  # type: ignore[no-untyped-def]
    """Take away the symbol that share_from found."""
    unit = rc[1] // np.uint64(total)
    return _settle_from(rc, data, rc[0] + unit * np.uint64(first), unit * np.uint64(size))


@njit(nogil=True, cache=True)
def _learn(bits, i, bit):  # type: ignore[no-untyped-def]
    aim = np.int32(65519) if bit else np.int32(17)
    bits[i, 0] += (aim - bits[i, 0]) >> np.int32(4)
    bits[i, 1] += (aim - bits[i, 1]) >> np.int32(7)


@njit(nogil=True, cache=True)
def bit_into(rc, out, bits, i, bit):  # type: ignore[no-untyped-def]
    """Code a bit. ``bits[i]`` is a fast and a slow estimate of P(1), int32 of 2^16; both learn."""
    one = (rc[1] >> _16) * np.uint64((bits[i, 0] + bits[i, 1]) >> np.int32(1))
    _learn(bits, i, bit)
    if bit:
        return _settle_into(rc, out, rc[0], one)
    return _settle_into(rc, out, rc[0] + one, rc[1] - one)


@njit(nogil=True, cache=True)
def bit_from(rc, data, bits, i):  # type: ignore[no-untyped-def]
    """The inverse of bit_into: (coder, bit)."""
    one = (rc[1] >> _16) * np.uint64((bits[i, 0] + bits[i, 1]) >> np.int32(1))
    bit = rc[2] - rc[0] < one
    _learn(bits, i, bit)
    if bit:
        return _settle_from(rc, data, rc[0], one), True
    return _settle_from(rc, data, rc[0] + one, rc[1] - one), False
