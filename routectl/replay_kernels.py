"""The copy of token-major rows into one tensor a layer.

Shape suffixes: T tokens, L MoE layers, K top_k, R rows of a rank, W words of a row, M layers taken.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array
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


@intrinsic  # type: ignore[untyped-decorator]
def _store_past_cache(typing_context, array, index, value):  # type: ignore[no-untyped-def]
    """``array[index] = value`` of a 1-D array, written past the caches: a non-temporal store.

    A plain store first reads the line that it is about to overwrite.
    """

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        target = make_array(signature.args[0])(context, builder, arguments[0])
        store = builder.store(arguments[2], builder.gep(target.data, [arguments[1]]))
        one = ir.Constant(ir.IntType(32), 1)
        store.set_metadata("nontemporal", builder.module.add_metadata([one]))
        return context.get_dummy_value()

    return types.void(array, types.intp, array.dtype), generate


@njit(nogil=True, cache=True)
def _stage(words, parts, columns, begin, count, stage):  # type: ignore[no-untyped-def]
    """Sort a tile of tokens by layer, in the order in which they are read."""
    for t in range(count):
        token = words[begin + t]
        for m in range(len(columns)):
            for w in range(len(parts)):
                stage[m, t, w] = token[columns[m], w]


@njit(nogil=True, cache=True)
def _copy(words, parts, columns, out, out_words, row, step, buffers):  # type: ignore[no-untyped-def]
    """Stage a tile of tokens layer by layer, then widen and write each layer's part at once.

    Reads are in the order of the source and writes run along the output; a plain transposing loop
    jumps in one of the two and is three times slower. words is [T, L, W], out [M, R * K]; out_words
    are the same bytes as out in uint64, [M, 0] where a row is no whole number of them. buffers are
    the stage, the same bytes as ids [M, tile * K], one layer's ids as they go out, and its words.
    ``parts`` is of length W; the compiler knows that of a tuple.
    """
    stage, staged, wide, wide_words = buffers
    tokens, tile = words.shape[0], stage.shape[1] - 1
    top_k = staged.shape[1] // stage.shape[1]
    fast = step == 1 and out_words.shape[1] > 0
    width = len(wide_words) // tile
    for begin in range(0, tokens, tile):
        count = min(tile, tokens - begin)
        _stage(words, parts, columns, begin, count, stage)
        first = row + step * begin
        for m in range(len(columns)):
            ids = staged[m, : count * top_k]
            if fast:
                for i in range(count * top_k):
                    wide[i] = ids[i]
                target = out_words[m, first * width : (first + count) * width]
                for i in range(count * width):
                    _store_past_cache(target, i, wide_words[i])
            else:
                for t in range(count):
                    for k in range(top_k):
                        out[m, (first + step * t) * top_k + k] = ids[t * top_k + k]


def _run(copies: list[Copy], columns: NDArray[np.int64], out_MRK: NDArray[Any]) -> None:
    """Copy after copy with the same buffers."""
    top_k = out_MRK.shape[2]
    out = out_MRK.reshape(len(columns), -1)
    wide = np.empty(_TILE * top_k, out.dtype)
    whole = top_k * out.itemsize % 8 == 0 and out.ctypes.data % 8 == 0
    out_words = out.view(np.uint64) if whole else np.empty((len(columns), 0), np.uint64)
    wide_words = wide.view(np.uint64) if whole else np.empty(0, np.uint64)
    stage = None
    for source, row, step in copies:
        words = words_of(source)
        if stage is None or stage.dtype != words.dtype:
            stage = np.empty((len(columns), _TILE + 1, words.shape[2]), words.dtype)
        staged = stage.view(source.dtype).reshape(len(columns), -1)
        parts = (0,) * words.shape[2] if words.shape[2] <= _TUPLE_UP_TO else stage[0, 0]
        buffers = (stage, staged, wide, wide_words)
        _copy(words, parts, columns, out, out_words, row, step, buffers)


def copy_rows(
    copies: list[Copy], columns: NDArray[np.int64], out_MRK: NDArray[Any], *, threads: int = 1
) -> None:
    """Copy layers ``columns`` of each source to their rows of out_MRK (C order, any integer dtype).

    Every source is [T, L, K], C order, integer; ids must fit the dtype of the output. Rows that
    no copy names are left as they are. The work is shared by ``threads`` threads.
    """
    if threads == 1:
        _run(copies, columns, out_MRK)
        return
    chunks = [
        Copy(source[at : at + _CHUNK], row + step * at, step)
        for source, row, step in copies
        for at in range(0, len(source), _CHUNK)
    ]
    with ThreadPoolExecutor(threads) as pool:
        shares = [chunks[n::threads] for n in range(threads)]
        list(pool.map(lambda share: _run(share, columns, out_MRK), shares))
