"""Cells of rANS: up to four 32-bit states, then the 16-bit words that they take in.

What ``set`` and ``token`` have in common: docs/codecs/set.md, "A cell".
Shape suffixes: S samples, W words, 4 states.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError

__all__ = ["RansCells", "new_cells", "open_cells"]

_LEAST = 1 << 16  # of a state between two ids, and before the first one is pushed
_FOUR_FROM = 2048  # ids of a cell that has four states; a shorter one has one


class RansCells(NamedTuple):
    """The cells of a block, as the kernels take them.

    starts_S: the first row of each cell, and the end of the last. lanes_S: states of each.
    at_S: where the next word of each is taken from, or was put.
    """

    starts_S: NDArray[np.int64]
    lanes_S: NDArray[np.int64]
    states_S4: NDArray[np.uint32]
    words_W: NDArray[np.uint16]
    at_S: NDArray[np.int64]

    def packed(self, ends_S: NDArray[np.int64]) -> tuple[bytes, ...]:
        """Each cell's states, then its words as a decoder takes them; none without rows."""
        at_S, words_W, states_S4 = self.at_S - 2 * self.lanes_S, self.words_W, self.states_S4
        for lane in range(4):
            has_S = self.lanes_S > lane
            words_W[at_S[has_S] + 2 * lane] = states_S4[has_S, lane] & 0xFFFF
            words_W[at_S[has_S] + 2 * lane + 1] = states_S4[has_S, lane] >> 16
        data = words_W.astype("<u2", copy=False).data.cast("B")
        bounds = zip((2 * at_S).tolist(), (2 * ends_S).tolist(), strict=True)
        return tuple(bytes(data[at:end]) for at, end in bounds)

    def spent(self, ends_S: NDArray[np.int64]) -> bool:
        """Whether every word was taken, and every state is where an encoder began."""
        return bool((self.at_S == ends_S).all() and (self.states_S4 == _LEAST).all())


def _lanes(rows_S: NDArray[np.int64], top_k: int) -> NDArray[np.int64]:
    """How many states each cell has."""
    return np.where(rows_S * top_k >= _FOUR_FROM, 4, 1)


def new_cells(
    rows_S: NDArray[np.int64], top_k: int, words_of_row: int
) -> tuple[RansCells, NDArray[np.int64]]:
    """Cells to push to, from their ends down, and where they end.

    A row pushes at most ``words_of_row`` words.
    """
    lanes_S = np.where(rows_S, _lanes(rows_S, top_k), 0)
    room_S = words_of_row * rows_S + 2 * lanes_S
    ends_S = np.cumsum(room_S)
    starts_S = np.concatenate([[0], np.cumsum(rows_S)])
    states_S4 = np.full((len(rows_S), 4), _LEAST, np.uint32)
    words_W = np.empty(room_S.sum(), np.uint16)
    return RansCells(starts_S, lanes_S, states_S4, words_W, ends_S.copy()), ends_S


def open_cells(
    cells: list[bytes], rows_S: NDArray[np.int64], top_k: int, name: str
) -> tuple[RansCells, NDArray[np.int64]]:
    """Cells to pull from, and where the words of each end. Raises FormatError, by codec name."""
    sizes_S, lanes_S = np.array([len(cell) for cell in cells]), _lanes(rows_S, top_k)
    wrong_S = (sizes_S % 2 > 0) | (sizes_S < 4 * lanes_S) | (rows_S == 0)
    if wrong_S.any():
        s = int(wrong_S.argmax())
        raise FormatError(f"{name}: got a cell of {sizes_S[s]} bytes for {rows_S[s]} rows")
    ends_S = np.cumsum(sizes_S // 2)
    words_W = np.frombuffer(b"".join(cells), "<u2").astype(np.uint16, copy=False)
    at_S, states_S4 = ends_S - sizes_S // 2, np.full((len(cells), 4), _LEAST, np.uint32)
    for lane in range(4):
        has_S = lanes_S > lane
        states_S4[has_S, lane] = words_W[at_S[has_S]] | words_W[at_S[has_S] + 1].astype("u4") << 16
        at_S[has_S] += 2
    starts_S = np.concatenate([[0], np.cumsum(rows_S)])
    return RansCells(starts_S, lanes_S, states_S4, words_W, at_S), ends_S
