"""The copy of token-major rows into one tensor a layer.

Shape suffixes: T tokens, L MoE layers, K top_k, R rows of a rank, W words of a row, M layers taken.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .routes import words_of

__all__ = ["Copy", "copy_rows"]

_TILE = 64  # tokens staged at a time: 48 layers of 8 bytes fit the L1 cache
_TUPLE_UP_TO = 16  # words from which loops are not worth unrolling
_PAD = 8  # tokens between two layers of the stage, so that they share no cache set
_CHUNK = 16384  # tokens that one thread takes at a time


class Copy(NamedTuple):
    """Rows of ``source_TLK`` (all of them) go to rows ``row``, ``row + step``, ... of a tensor."""

    source_TLK: NDArray[Any]
    row: int
    step: int


@njit(nogil=True, cache=True)
def _copy(words, parts, columns, out, row, step, stage, staged):  # type: ignore[no-untyped-def]
    """Stage a tile of tokens layer by layer, then widen and write each layer's part at once.

    Reads are in the order of the source and writes run along the output; a plain transposing loop
    jumps in one of the two and is three times slower. words [T, L, W] and stage [M, tile + 8, W]
    are the same bytes as the ids and as staged [M, (tile + 8) * K]. ``parts`` is of length W; the
    compiler knows that of a tuple.
    """
    tokens = words.shape[0]
    tile = stage.shape[1] - _PAD
    top_k = staged.shape[1] // stage.shape[1]
    for begin in range(0, tokens, tile):
        count = min(tile, tokens - begin)
        for t in range(count):
            token = words[begin + t]
            for m in range(len(columns)):
                for w in range(len(parts)):
                    stage[m, t, w] = token[columns[m], w]
        first = row + step * begin
        for m in range(len(columns)):
            ids = staged[m, : count * top_k]
            if step == 1:
                target = out[m, first * top_k : (first + count) * top_k]
                for i in range(count * top_k):
                    target[i] = ids[i]
            else:
                for t in range(count):
                    for k in range(top_k):
                        out[m, (first + step * t) * top_k + k] = ids[t * top_k + k]


def _run(copies: list[Copy], columns: NDArray[np.int64], flat_out: NDArray[Any]) -> None:
    stage = None
    for source, row, step in copies:
        words = words_of(source)
        if stage is None or stage.dtype != words.dtype:
            stage = np.empty((len(columns), _TILE + _PAD, words.shape[2]), words.dtype)
        staged = stage.view(source.dtype).reshape(len(columns), -1)
        parts = (0,) * words.shape[2] if words.shape[2] <= _TUPLE_UP_TO else stage[0, 0]
        _copy(words, parts, columns, flat_out, row, step, stage, staged)


def copy_rows(
    copies: list[Copy], columns: NDArray[np.int64], out_MRK: NDArray[Any], *, threads: int = 1
) -> None:
    """Copy layers ``columns`` of each source to their rows of out_MRK (C order, any integer dtype).

    Every source is [T, L, K], C order, integer; ids must fit the dtype of the output. Rows that
    no copy names are left as they are. The work is shared by ``threads`` threads.
    """
    flat_out = out_MRK.reshape(len(columns), -1)
    if threads == 1:
        _run(copies, columns, flat_out)
        return
    chunks = [
        Copy(source[at : at + _CHUNK], row + step * at, step)
        for source, row, step in copies
        for at in range(0, len(source), _CHUNK)
    ]
    with ThreadPoolExecutor(threads) as pool:
        shares = [chunks[n::threads] for n in range(threads)]
        list(pool.map(lambda share: _run(share, columns, flat_out), shares))
