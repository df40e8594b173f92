"""Ids as they lie in a native file: what the page of each layer holds, all layers as one array.

For whoever counts layer by layer. pyarrow copies each page into an array of its own first, which
takes half as long again as decoding it. Shape suffixes: R rows of a row group, L layers, K top_k,
S samples.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from ...routes import Ids

__all__ = ["stored_layers"]

_LENGTH = 4  # bytes before a value, or before levels


def stored_layers(
    pages: Iterable[memoryview | None],
    lengths_S: NDArray[np.int64],
    shape: tuple[int, int],
    dtype: np.dtype[np.unsignedinteger],
) -> Ids | None:
    """The ids of a row group as an array [L, R, K], of a page a layer; all samples have routes.

    ``shape`` is (L, K). A page is one run of levels that says that no value is null, and the
    values, each behind its length. None where one is anything else: pyarrow tells what it is.
    """
    layers, top_k = shape
    head = _levels(len(lengths_S))
    sizes_S = lengths_S * (top_k * dtype.itemsize)
    ends_S = len(head) + np.cumsum(sizes_S + _LENGTH)
    begins = (ends_S - sizes_S).tolist()
    cuts = list(zip(begins, ends_S.tolist(), sizes_S.tolist(), strict=True))
    stack: NDArray[np.uint8] | None = None
    for layer, page in enumerate(pages):
        if page is None or len(page) != ends_S[-1] or page[: len(head)] != head:
            return None
        if stack is None:
            stack = np.empty((layers, int(sizes_S.sum())), np.uint8)
        row, data, at = stack[layer], np.frombuffer(page, np.uint8), 0
        for begin, end, size in cuts:
            if int.from_bytes(page[begin - _LENGTH : begin], "little") != size:
                return None
            row[at : at + size] = data[begin:end]
            at += size
    if stack is None:
        return None
    ids: Ids = stack.view(dtype).reshape(layers, -1, top_k)
    return ids.astype(dtype.newbyteorder("="), copy=False)


def _levels(values: int) -> bytes:
    """The definition levels of so many values that are all there, as parquet-cpp writes them.

    A run of one level: twice their number as LEB128, and the level. Source: apache/parquet-format,
    Encodings.md.
    """
    run, count = bytearray(), values << 1
    while count >= 128:
        run.append(count & 127 | 128)
        count >>= 7
    run += bytes([count, 1])
    return len(run).to_bytes(_LENGTH, "little") + run
