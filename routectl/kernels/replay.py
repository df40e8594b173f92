"""The copy of token-major rows into one tensor a layer.

Shape suffixes: T tokens, L MoE layers, K top_k, R rows of a rank, W words of a row, M layers taken,
N copies.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import carray, njit, types  # type: ignore[attr-defined]
from numba.extending import intrinsic
from numpy.typing import NDArray

from ..routes import words_of

__all__ = ["Copy", "copy_rows"]

_TILE = 256  # tokens whose rows of all layers stay in the L2 cache while each layer is written
_TUPLE_UP_TO = 16  # words from which loops are not worth unrolling
_ALIGNED = 16  # bytes: what a vector store past the cache asks of its address


class Copy(NamedTuple):
    """Rows of ``source_TLK`` (all of them) go to rows ``row``, ``row + step``, ... of a tensor."""

    source_TLK: NDArray[Any]
    row: int
    step: int


@intrinsic
def _pointer(_typing, address):  # type: ignore[no-untyped-def]
    """An int64 address as what carray takes."""

    def generate(context, builder, _signature, values):  # type: ignore[no-untyped-def]
        return builder.inttoptr(values[0], context.get_value_type(types.voidptr))

    return types.voidptr(address), generate


def _storing(past_cache: bool):  # type: ignore[no-untyped-def]
    """A store of the ids in a word at an address, each as wide as the output's.

    Past the cache the lines that are written over are not read first. The address must then be
    one that 16, or the bytes of the widened word, divide.
    """

    @intrinsic
    def store(_typing, address, word, ids, out):  # type: ignore[no-untyped-def]
        count = word.bitwidth // ids.dtype.bitwidth

        def generate(context, builder, _signature, values):  # type: ignore[no-untyped-def]
            narrow, wide = (ir.IntType(array.dtype.bitwidth) for array in (ids, out))
            vector = builder.bitcast(values[1], ir.VectorType(narrow, count))
            if wide != narrow:
                vector = builder.zext(vector, ir.VectorType(wide, count))
            target = builder.inttoptr(values[0], vector.type.as_pointer())
            size = wide.width // 8
            align = min(_ALIGNED, count * size) if past_cache else size
            made = builder.store(vector, target, align=align)
            if past_cache:
                one = context.get_constant(types.int32, 1)
                made.set_metadata("nontemporal", builder.module.add_metadata([one]))
            return context.get_dummy_value()

        return types.void(address, word, ids, out), generate

    return store


_store = _storing(past_cache=False)
_store_past_cache = _storing(past_cache=True)


@intrinsic
def _fence(_typing):  # type: ignore[no-untyped-def]
    """What was stored is seen by all threads before what follows."""

    def generate(context, builder, _signature, _values):  # type: ignore[no-untyped-def]
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


@njit(nogil=True, cache=True)
def _copy(copies_N4, begin, end, columns, parts, words, ids, out):  # type: ignore[no-untyped-def]
    """Tokens begin to end, counted through all copies; ``ids`` and ``words`` are a source's.

    A tile is read once from memory and then, layer by layer, from the cache, while writes run
    along the output. Past the cache they take half the time. A row of copies_N4 is (address,
    tokens, row, step). ``parts`` is of length W; the compiler knows that of a tuple. ``columns`` is
    unsigned, since numba looks for negative indices otherwise.
    """
    width = words.itemsize // ids.itemsize * out.itemsize
    row_bytes = len(parts) * width
    aligned = out.ctypes.data % _ALIGNED == 0
    past = 0
    for address, tokens, row, step in copies_N4:
        shape = tokens, words.shape[1], len(parts)
        source = carray(_pointer(address), shape, words.dtype)  # type: ignore[call-arg]
        last = min(end - past, tokens)
        for at in range(max(begin - past, 0), last, _TILE):
            count = min(_TILE, last - at)
            for m in range(len(columns)):
                target = out[m].ctypes.data + (row + step * at) * row_bytes
                column = columns[m]
                if aligned and step == 1:
                    for t in range(count):
                        for w in range(len(parts)):
                            to = target + t * row_bytes + w * width
                            _store_past_cache(to, source[at + t, column, w], ids, out)
                else:
                    for t in range(count):
                        for w in range(len(parts)):
                            to = target + step * t * row_bytes + w * width
                            _store(to, source[at + t, column, w], ids, out)
        past += tokens
    _fence()  # type: ignore[call-arg]


@cache
def _pool() -> ThreadPoolExecutor:
    """Threads that stay between calls: to start one takes as long as a few megabytes."""
    return ThreadPoolExecutor()


os.register_at_fork(after_in_child=_pool.cache_clear)


def copy_rows(
    copies: list[Copy], columns: NDArray[np.uint64], out_MRK: NDArray[Any], *, threads: int = 1
) -> None:
    """Copy layers ``columns`` of each source to their rows of out_MRK (C order, any integer dtype).

    Every source is [T, L, K], C order, of one unsigned dtype, L and K, and no wider than the
    output; ids must fit the dtype of the output. Rows that no copy names are left as they are.
    ``threads`` threads share the tokens.
    """
    if not copies:
        return
    like_TLK = copies[0].source_TLK
    for source_TLK, _, _ in copies:
        if source_TLK.dtype != like_TLK.dtype or source_TLK.shape[1:] != like_TLK.shape[1:]:
            raise ValueError("sources differ in dtype, L or K")
        if not source_TLK.flags.c_contiguous:
            raise ValueError("a source is not in C order")
    words = words_of(like_TLK)
    width = words.shape[2]
    parts = (0,) * width if width <= _TUPLE_UP_TO else np.zeros(width, np.int64)
    copies_N4 = np.array(
        [(s.__array_interface__["data"][0], len(s), row, step) for s, row, step in copies], np.int64
    )
    _, tokens_N, row_N, step_N = copies_N4.T
    layers, rows, top_k = out_MRK.shape
    if (row_N + step_N * (tokens_N - 1) >= rows).any() or copies_N4[:, 2:].min() < 0:
        raise ValueError(f"a copy ends beyond the {rows} rows of the output")
    if layers != len(columns) or columns.max(initial=0) >= like_TLK.shape[1]:
        raise ValueError(f"columns {columns} of {like_TLK.shape[1]} do not fill {layers} layers")
    if top_k != like_TLK.shape[2] or out_MRK.itemsize < like_TLK.itemsize:
        raise ValueError(f"{like_TLK.dtype} rows of {like_TLK.shape[2]} do not fit {out_MRK.dtype}")
    tokens = int(tokens_N.sum())

    def take(share: int) -> None:
        ends = tokens * share // threads, tokens * (share + 1) // threads
        _copy(copies_N4, *ends, columns, parts, words, like_TLK, out_MRK)

    if threads == 1:
        take(0)
        return
    others = [_pool().submit(take, share) for share in range(1, threads)]
    take(0)
    for other in others:
        other.result()
