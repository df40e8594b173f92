"""The tables of ``set`` as bits: counts in, rounded to three leading bits, frequencies out.

Bits fill bytes from the lowest up. docs/codecs/set.md has the layout.
Shape suffixes: N tables, A tokens of a table, C contexts.
"""

import numpy as np
from numba import njit

__all__ = [
    "bits_of_counts",
    "merge_contexts",
    "read_number",
    "read_numbers",
    "read_tables",
    "spread_counts",
    "write_number",
    "write_numbers",
    "write_tables",
]


@njit(nogil=True, cache=True)
def write_number(bits_B, at, value, width):  # type: ignore[no-untyped-def]
    """Add ``width`` bits at bit ``at`` to zeroed bytes; where the next go."""
    for i in range(width):
        bits_B[(at + i) >> 3] |= np.uint8(((value >> i) & 1) << ((at + i) & 7))
    return at + width


@njit(nogil=True, cache=True)
def read_number(bits_B, at, width):  # type: ignore[no-untyped-def]
    """``width`` bits at bit ``at``; zeros beyond the end."""
    value = np.int64(0)
    for i in range(width):
        byte = (at + i) >> 3
        if byte < bits_B.shape[0]:
            value |= np.int64((bits_B[byte] >> ((at + i) & 7)) & 1) << i
    return value


@njit(nogil=True, cache=True)
def write_numbers(bits_B, at, values, width):  # type: ignore[no-untyped-def]
    """Add several numbers of one width; where the next bit goes."""
    for value in values.flat:
        at = write_number(bits_B, at, value, width)
    return at


@njit(nogil=True, cache=True)
def read_numbers(bits_B, at, count, width):  # type: ignore[no-untyped-def]
    """Several numbers of one width, as int64."""
    values = np.empty(count, np.int64)
    for i in range(count):
        values[i] = read_number(bits_B, at + i * width, width)
    return values


@njit(nogil=True, cache=True)
def _length_of(value):  # type: ignore[no-untyped-def]
    length = np.int64(0)
    while value >> length:
        length += 1
    return length


@njit(nogil=True, cache=True)
def _parts(length):  # type: ignore[no-untyped-def]
    """How many bits below a count's first are kept, and how many are dropped."""
    low = 0 if length < 1 else length - 1 if length < 3 else 2
    return low, length - 1 - low if length > 3 else 0


@njit(nogil=True, cache=True)
def _used(counts_A):  # type: ignore[no-untyped-def]
    """Up to which token there are counts."""
    used = np.int64(0)
    for a in range(counts_A.shape[0]):
        used = np.int64(a + 1) if counts_A[a] else used
    return used


@njit(nogil=True, cache=True)
def _ones_of(length, before):  # type: ignore[no-untyped-def]
    """The step from one count's length to the next's, as how many ones before a zero."""
    return 2 * abs(length - before) - (length > before)


@njit(nogil=True, cache=True)
def write_tables(counts_NA, bits_B, at):  # type: ignore[no-untyped-def]
    """Write tables, their counts rounded; where the next bit goes."""
    for n in range(counts_NA.shape[0]):
        used = _used(counts_NA[n])
        at = write_number(bits_B, at, used, 8)
        before = np.int64(-1)
        for a in range(used):
            count = np.int64(counts_NA[n, a])
            length = _length_of(count)
            if before < 0:
                at = write_number(bits_B, at, length, 6)
            else:
                ones = _ones_of(length, before)
                at = write_number(bits_B, at, (np.int64(1) << ones) - 1, ones + 1)
            before = length
            low, dropped = _parts(length)
            at = write_number(bits_B, at, count >> dropped, low)
    return at


@njit(nogil=True, cache=True)
def _bits_of_table(counts_A):  # type: ignore[no-untyped-def]
    """How many bits write_tables takes for one table."""
    used, bits, before = _used(counts_A), np.int64(8), np.int64(-1)
    for a in range(used):
        length = _length_of(np.int64(counts_A[a]))
        bits += 6 if before < 0 else _ones_of(length, before) + 1
        bits += _parts(length)[0]
        before = length
    return bits


@njit(nogil=True, cache=True)
def read_tables(counts_NA, bits_B, at):  # type: ignore[no-untyped-def]
    """Read tables; where the next bit is, or -1 for what no writer writes."""
    end = bits_B.shape[0] * 8
    for n in range(counts_NA.shape[0]):
        used = read_number(bits_B, at, 8)
        at += 8
        if used > counts_NA.shape[1] or at > end:
            return -1
        length = np.int64(0)
        for a in range(used):
            if a == 0:
                length = read_number(bits_B, at, 6)
                at += 6
            else:
                ones = np.int64(0)
                while ones < 64 and read_number(bits_B, at + ones, 1):
                    ones += 1
                at += ones + 1
                length += (ones + 1) // 2 if ones & 1 else -(ones // 2)
            if not 0 <= length <= 32 or at > end:
                return -1
            low, dropped = _parts(length)
            value = read_number(bits_B, at, low) | (np.int64(length > 0) << low)
            at += low
            counts_NA[n, a] = (value << dropped) | ((np.int64(1) << dropped) >> 1)
    return at if at <= end else -1


@njit(nogil=True, cache=True)
def spread_counts(counts_NA, frequency_NA):  # type: ignore[no-untyped-def]
    """Scale each table to a sum of 4096 with at least 1 where there is a count.

    n counts that would get less than one of 4096 - (tokens with a count) parts get 1; the others
    share 4096 - n, rounded down; what is left goes to the greatest, the first of several. A table
    without a count is that of token 0 alone.
    """
    for n in range(counts_NA.shape[0]):
        total, kept, greatest = np.int64(0), np.int64(0), 0
        for a in range(counts_NA.shape[1]):
            total += counts_NA[n, a]
            kept += counts_NA[n, a] > 0
            if counts_NA[n, a] > counts_NA[n, greatest]:
                greatest = a
        small = np.int64(0)
        for a in range(counts_NA.shape[1]):
            count = np.int64(counts_NA[n, a])
            small += count > 0 and count * (4096 - kept) < total
        left = np.int64(4096)
        for a in range(counts_NA.shape[1]):
            count = np.int64(counts_NA[n, a])
            share = np.int64(0)
            if count:
                share = max(count * (4096 - small) // total, np.int64(1))
            frequency_NA[n, a] = share
            left -= share
        frequency_NA[n, greatest] += left


@njit(nogil=True, cache=True)
def merge_contexts(counts_KCA):  # type: ignore[no-untyped-def]
    """Half as many contexts, each two neighbours."""
    top_k, contexts, tokens = counts_KCA.shape
    merged = np.zeros((top_k, contexts // 2, tokens), counts_KCA.dtype)
    for k in range(top_k):
        for c in range(contexts):
            for a in range(tokens):
                merged[k, c >> 1, a] += counts_KCA[k, c, a]
    return merged


@njit(nogil=True, cache=True)
def bits_of_counts(counts_KCA, raw_A):  # type: ignore[no-untyped-def]
    """How many bits the tables take, and about how many the counted tokens take with them.

    ``raw_A`` is how many bits follow each token as they are. Slot 0 has one table.
    """
    bits = 0.0
    for k in range(counts_KCA.shape[0]):
        for c in range(counts_KCA.shape[1] if k else 1):
            total, entropy = np.int64(0), 0.0
            for a in range(counts_KCA.shape[2]):
                count = np.int64(counts_KCA[k, c, a])
                if count:
                    total += count
                    entropy -= count * (np.log2(count) - raw_A[a])
            if total:
                bits += entropy + total * np.log2(total)
            bits += _bits_of_table(counts_KCA[k, c])
    return bits
