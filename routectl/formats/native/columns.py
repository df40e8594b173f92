"""The layer columns of a row group as Arrow arrays, out of the samples' own arrays.

Built of buffers, not of Python objects: ``pa.array`` of memoryviews never lets go of what they show
(pyarrow 26.0.1: one reference each is lost), so that a file's ids would all stay in memory.
Shape suffixes: T rows of a sample, L MoE layers, K top_k.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ...dump import DumpMeta, Sample
from ...routes import ids_dtype
from .schema import gate_name, group_margin_name, kinds_of, layer_name, margin_name

__all__ = ["arrow_columns"]


def _cells(parts: Sequence[NDArray[Any] | None], layers: int, dtype: str) -> "list[pa.Array[Any]]":
    """One binary column a layer, of arrays [T, L, ...]; null where a sample has none.

    The columns share one buffer, in which the layers come one after the other.
    """
    there = [part for part in parts if part is not None]
    if not there:
        return [pa.nulls(len(parts), pa.binary())] * layers
    whole = there[0] if len(there) == 1 else np.concatenate(there)
    by_layer = np.ascontiguousarray(np.moveaxis(whole, 1, 0), dtype)
    rows = [0 if part is None else len(part) for part in parts]
    row_bytes = by_layer[:, :1].nbytes // layers
    ends = np.cumsum([0, *rows]) * row_bytes
    if ends[-1] > np.iinfo(np.int32).max:
        raise ValueError(f"a row group's layer has {ends[-1]} bytes, more than Parquet holds")
    offsets = pa.py_buffer(ends.astype(np.int32).tobytes())
    valid = None
    if len(there) < len(parts):
        valid = pa.array([part is not None for part in parts]).buffers()[1]
    return [
        pa.Array.from_buffers(pa.binary(), len(parts), [valid, offsets, pa.py_buffer(cells)])
        for cells in by_layer
    ]


def _margins_of(group: Sequence[Sample], name: str, allowed: bool) -> list[NDArray[Any] | None]:
    """The margins of a name of each sample. Raises ValueError where meta denies them."""
    found = [None if s.routes is None else getattr(s.routes, name) for s in group]
    if not allowed and any(margin_TL is not None for margin_TL in found):
        raise ValueError("a sample has margins, but its dump's meta says that none has")
    return found


def _gates_of(group: Sequence[Sample], meta: DumpMeta) -> list[NDArray[Any] | None]:
    """The gates of each sample. Raises ValueError where they do not fit, or meta denies them."""
    for sample in group:
        shape = None if sample.routes is None else sample.routes.ids_TLK.shape
        if sample.gates is None:
            continue
        if not meta.gates or sample.gates.logprobs_TLK.shape != shape:
            raise ValueError(
                "a sample's gates do not fit its routes, or its dump's meta denies them"
            )
    return [None if s.gates is None else s.gates.logprobs_TLK for s in group]


def arrow_columns(
    group: Sequence[Sample], meta: DumpMeta, *, coded: bool
) -> "dict[str, pa.Array[Any]]":
    """The layer columns of a row group's samples by name; without the ids where they are coded.

    Raises ValueError for layers, margins or gates that are not those of ``meta``.
    """
    layers, kinds = meta.layers_L, kinds_of(meta)
    for sample in group:
        if sample.routes is not None and sample.routes.layers_L != layers:
            raise ValueError(f"a sample has layers {sample.routes.layers_L}, its dump {layers}")
    columns: dict[str, pa.Array[Any]] = {}

    def put(name: Callable[[int], str], parts: Sequence[NDArray[Any] | None], dtype: str) -> None:
        cells: Iterable[pa.Array[Any]] = _cells(parts, len(layers), dtype)
        columns.update(zip(map(name, layers), cells, strict=True))

    if not coded:
        ids = [None if s.routes is None else s.routes.ids_TLK for s in group]
        put(layer_name, ids, ids_dtype(meta.num_experts).newbyteorder("<").str)
    for i, (name, field) in enumerate(
        ((margin_name, "margin_TL"), (group_margin_name, "group_margin_TL")), 2
    ):
        margins = _margins_of(group, field, kinds >= i)
        if kinds >= i:
            put(name, margins, "<f2")
    gates = _gates_of(group, meta)
    if meta.gates:
        put(gate_name, gates, "<f4")
        columns["gate_of"] = pa.array(
            [None if s.gates is None else s.gates.of for s in group], pa.string()
        )
    return columns
