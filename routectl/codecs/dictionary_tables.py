"""The tables of a dictionary: which there are, what may occur in each, their bits.

A table of masks says which of eight listed experts are taken, by class of the entry, by which
eight, by how many ids are left; a table of gaps which id comes next of those that are not listed,
by how many are left and by where the one before is. docs/codecs/token.md has the layout.
Shape suffixes: E num_experts, T tables, A symbols of a table.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .set_kernels import token_of
from .set_tables import read_number, write_number

__all__ = [
    "CHUNK",
    "TableSizes",
    "contexts_of",
    "expanded",
    "legal_gaps",
    "legal_masks",
    "quantised",
    "read_frequencies",
    "write_frequencies",
]

CHUNK = 8  # experts that one symbol tells of
_LISTED = 24
_LEFT = 4  # ids left: tables of masks for 1, 2, 3, and more
_GAPS_LEFT = 8  # likewise of gaps, 1 to 7 and more
_PLACES = 16  # contexts of the id before: none, then fifteenths of all ranks
_TOTAL = 4096


class TableSizes(NamedTuple):
    """E, K, and how many classes entries have, beside 0."""

    num_experts: int
    top_k: int
    classes: int

    @property
    def width(self) -> int:
        """Bits of an expert."""
        return (self.num_experts - 1).bit_length()

    @property
    def listed(self) -> int:
        """Experts of an entry."""
        return min(_LISTED, self.num_experts)

    @property
    def chunks(self) -> int:
        """Symbols that tell of them."""
        return -(-self.listed // CHUNK)

    @property
    def tables_of_class(self) -> int:
        """Tables of masks that each class has: one of the first chunk, four of each other."""
        return 1 + _LEFT * (self.chunks - 1)

    @property
    def gap_tables(self) -> int:
        """Tables of gaps."""
        return min(self.top_k, _GAPS_LEFT) * _PLACES

    @property
    def gap_tokens(self) -> int:
        """Symbols of a table of gaps."""
        return 1 + int(token_of(self.num_experts - 1)[0])


def contexts_of(num_experts: int) -> NDArray[np.uint8]:
    """The context of each rank that comes before a gap, 1 to 15."""
    return (1 + np.arange(num_experts) * (_PLACES - 1) // num_experts).astype(np.uint8)


def legal_masks(sizes: TableSizes) -> NDArray[np.bool_]:
    """bool [T, 256]: masks of experts that are listed, at most so many as are left."""
    ones_A = np.array([bin(mask).count("1") for mask in range(1 << CHUNK)])
    tables = []
    for chunk in range(sizes.chunks):
        here = min(CHUNK, sizes.listed - CHUNK * chunk)
        for left in range(1, _LEFT + 1 if chunk else 2):
            most = left if chunk and left < _LEFT else sizes.top_k
            tables.append((ones_A <= most) & (np.arange(1 << CHUNK) < 1 << here))
    return np.tile(np.array(tables), (sizes.classes + 1, 1))


def legal_gaps(sizes: TableSizes) -> NDArray[np.bool_]:
    """bool [T, A]: gaps that leave room for the ids after them; 0 in any case."""
    experts = sizes.num_experts
    contexts_E = contexts_of(experts)
    legal_TA = np.zeros((sizes.gap_tables, sizes.gap_tokens), np.bool_)
    for table in range(len(legal_TA)):
        left, place = 1 + table // _PLACES, table % _PLACES
        before = int(np.searchsorted(contexts_E, place)) if place else -1
        most = max(experts - 1 - before - left, 0)
        legal_TA[table, : token_of(most)[0] + 1] = True
    return legal_TA


def quantised(counts_TA: NDArray[np.float64], legal_TA: NDArray[np.bool_]) -> NDArray[np.uint16]:
    """Frequencies of 4096, at least 1 where a symbol is legal. Counts are of any scale."""
    share_TA = np.where(legal_TA, counts_TA + 1e-9, 0.0)
    share_TA /= share_TA.sum(axis=1, keepdims=True)
    free_T = _TOTAL - legal_TA.sum(axis=1, keepdims=True)
    frequency_TA = np.where(legal_TA, 1 + np.floor(share_TA * free_T), 0).astype(np.int64)
    greatest_T = frequency_TA.argmax(axis=1)
    frequency_TA[np.arange(len(greatest_T)), greatest_T] += _TOTAL - frequency_TA.sum(axis=1)
    return frequency_TA.astype(np.uint16)


@njit(nogil=True, cache=True)
def write_frequencies(frequency_TA, legal_TA, bits_B, at):  # type: ignore[no-untyped-def]
    """Write tables as Elias gamma codes of their legal symbols; where the next bit goes."""
    for t in range(frequency_TA.shape[0]):
        for a in range(frequency_TA.shape[1]):
            if legal_TA[t, a]:
                value, length = np.int64(frequency_TA[t, a]), 0
                while value >> (length + 1):
                    length += 1
                at = write_number(bits_B, at, (np.int64(1) << length) - 1, length + 1)
                at = write_number(bits_B, at, value, length)
    return at


@njit(nogil=True, cache=True)
def read_frequencies(frequency_TA, legal_TA, bits_B, at):  # type: ignore[no-untyped-def]
    """Read tables; where the next bit is, or -1 where one does not add up to 4096."""
    end = 8 * bits_B.shape[0]
    for t in range(frequency_TA.shape[0]):
        total = np.int64(0)
        for a in range(frequency_TA.shape[1]):
            if legal_TA[t, a]:
                length = np.int64(0)
                while length <= 12 and read_number(bits_B, at + length, 1):
                    length += 1
                at += length + 1
                value = read_number(bits_B, at, length) | (np.int64(1) << length)
                at += length
                total += value
                if total > _TOTAL or at > end:
                    return -1
                frequency_TA[t, a] = value
        if total != _TOTAL:
            return -1
    return at


def expanded(
    frequency_TA: NDArray[np.uint16],
) -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
    """What the low 12 bits of a state mean in each table: a symbol [T x 4096]; of each symbol its
    frequency << 16 | first place [T x 256].
    """
    tables = len(frequency_TA)
    symbol_TN, place_TA = np.empty((tables, _TOTAL), np.uint8), np.zeros((tables, 256), np.uint32)
    _expand(frequency_TA, symbol_TN, place_TA)
    return symbol_TN.reshape(-1), place_TA.reshape(-1)


@njit(nogil=True, cache=True)
def _expand(frequency_TA, symbol_TN, place_TA):  # type: ignore[no-untyped-def]
    for t in range(frequency_TA.shape[0]):
        start = np.int64(0)
        for a in range(frequency_TA.shape[1]):
            frequency = np.int64(frequency_TA[t, a])
            place_TA[t, a] = np.uint32(frequency << 16 | start)
            symbol_TN[t, start : start + frequency] = a
            start += frequency
