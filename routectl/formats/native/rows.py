"""One row of a native file as Python values: made of a Sample, and a Sample made of it.

Shape suffixes: T tokens, L MoE layers, K top_k.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ...dump import DumpMeta, Sample, WeightSpan
from ...errors import FormatError
from ...gate_logprobs import GateLogprobs
from ...margins import Margins
from ...routes import Bools, Ids, Routes, ids_dtype
from .cells import Held, input_tokens
from .schema import COLUMNS, gate_name, group_margin_name, layer_name, margin_name

__all__ = [
    "held_row",
    "row_of",
    "sample_of",
    "table_row",
]

_PLAIN = [name for name, _ in COLUMNS if name in Sample.__dataclass_fields__]


def row_of(sample: Sample) -> dict[str, Any]:
    """What a row tells of a sample beside its layer columns."""
    row: dict[str, Any] = {name: getattr(sample, name) for name in _PLAIN}
    row["weight_spans"] = [dataclasses.asdict(span) for span in sample.weight_spans]
    routes = sample.routes
    if routes is None:
        return row
    row |= {"start": routes.start, "num_rows": routes.num_tokens}
    if routes.missing_TL is not None:
        row["missing"] = np.packbits(routes.missing_TL, bitorder="little").tobytes()
    return row


def table_row(table: pa.Table, index: int, names: Iterable[str]) -> dict[str, Any]:
    """Some columns of one row as Python values; binary columns stay buffers, not copies."""
    row: dict[str, Any] = {}
    for name in names:
        column = table.column(name)
        value = column[index]
        if pa.types.is_binary(column.type):
            row[name] = value.as_buffer()
        elif pa.types.is_list(column.type) and not pa.types.is_struct(column.type.value_type):
            if value.values is not None and value.values.null_count:
                raise ValueError(f"{name} has nulls")
            row[name] = (
                None if value.values is None else value.values.to_numpy(zero_copy_only=False)
            )
        else:
            row[name] = value.as_py()
    return row


def _ids(row: dict[str, Any], meta: DumpMeta, layers: tuple[int, ...], where: str) -> NDArray[Any]:
    """The layer columns of a row as [T, L, K]."""
    dtype = ids_dtype(meta.num_experts)
    shape = (row["num_rows"], meta.top_k)
    expected = shape[0] * shape[1] * dtype.itemsize
    for layer in layers:
        data = row[layer_name(layer)]
        if data is None or len(data) != expected:
            got = "nothing" if data is None else f"{len(data)} bytes"
            raise FormatError(f"{where}: layer {layer}: got {got}, expected {expected} bytes")
    ids_TLK = np.empty((shape[0], len(layers), shape[1]), dtype)
    for i, layer in enumerate(layers):
        data = row[layer_name(layer)]
        ids_TLK[:, i] = np.frombuffer(data, dtype.newbyteorder("<")).reshape(shape)
    return ids_TLK


def _margins(
    row: dict[str, Any], layers: tuple[int, ...], name: Callable[[int], str], where: str
) -> Margins | None:
    """The margin columns of a row that ``name`` names as [T, L]; None when the sample has none."""
    columns = [row.get(name(layer)) for layer in layers]
    if all(data is None for data in columns):
        return None
    margin_TL = np.empty((row["num_rows"], len(layers)), np.float16)
    for i, (layer, data) in enumerate(zip(layers, columns, strict=True)):
        if data is None or len(data) != 2 * len(margin_TL):
            got = "nothing" if data is None else f"{len(data)} bytes"
            expected = f"expected {2 * len(margin_TL)} bytes"
            raise FormatError(f"{where}: {name(layer)}: got {got}, {expected}")
        margin_TL[:, i] = np.frombuffer(data, "<f2")
    return margin_TL


def _gates(
    row: dict[str, Any], shape: tuple[int, ...], layers: tuple[int, ...], where: str
) -> GateLogprobs | None:
    """The gate columns of a row as [T, L, K]; None when the sample has none."""
    if row.get("gate_of") is None:
        return None
    logprobs_TLK = np.empty(shape, np.float32)
    expected = 4 * shape[0] * shape[2]
    for i, layer in enumerate(layers):
        data = row[gate_name(layer)]
        if data is None or len(data) != expected:
            got = "nothing" if data is None else f"{len(data)} bytes"
            raise FormatError(f"{where}: {gate_name(layer)}: got {got}, expected {expected} bytes")
        logprobs_TLK[:, i] = np.frombuffer(data, "<f4").reshape(shape[0], shape[2])
    return GateLogprobs(logprobs_TLK, row["gate_of"])


def _missing(packed: bytes | None, shape: tuple[int, int]) -> NDArray[np.bool_] | None:
    if packed is None:
        return None
    bits = np.frombuffer(packed, np.uint8)
    if len(bits) != -(-shape[0] * shape[1] // 8):
        raise ValueError(f"missing: got {len(bits)} bytes for {shape} rows")
    return np.unpackbits(bits, count=shape[0] * shape[1], bitorder="little").reshape(shape) > 0


def _array(values: Any, dtype: type) -> Any:
    return None if values is None else np.array(values, dtype)


def _check_row(row: dict[str, Any]) -> None:
    """Raise ValueError on what no writer makes: negative numbers, absent ones among others."""
    for name, value in row.items():
        if isinstance(value, int) and value < 0:
            raise ValueError(f"{name} is {value}")
        least = {"prompt_ids": -1, "response_ids": 0}.get(name)  # -1: media, which have no id
        if least is not None and value is not None and (value < least).any():
            raise ValueError(f"{name} has an id below {least}")
    if (row["start"] is None) != (row["num_rows"] is None):
        raise ValueError("start and num_rows are not both there")
    if any(span is None or None in span.values() for span in row["weight_spans"] or ()):
        raise ValueError("a weight span is not whole")


def _missing_of(row: dict[str, Any], meta: DumpMeta, layers: tuple[int, ...]) -> Bools | None:
    missing = _missing(row["missing"], (row["num_rows"], len(meta.layers_L)))
    if missing is not None and layers != meta.layers_L:
        missing = missing[:, [meta.layers_L.index(layer) for layer in layers]]
    return missing


def held_row(
    row: dict[str, Any],
    meta: DumpMeta,
    layers: tuple[int, ...],
    source: int | None,
    base: Routes | None,
) -> Held:
    """What a row tells of its sample before its cells are read. Raises ValueError."""
    _check_row({"weight_spans": None, **row})
    if row["num_rows"] is None:
        return Held(0, 0, None)
    rows = (row["num_rows"], row["start"])
    parts = [row["prompt_ids"], row["response_ids"]]
    tokens = None if any(p is None for p in parts) else np.concatenate(parts).astype(np.int32)
    missing = _missing_of(row, meta, layers)
    return Held(*rows, missing, source, input_tokens(tokens, *rows), base)


def sample_of(
    row: dict[str, Any],
    meta: DumpMeta,
    layers: tuple[int, ...],
    where: str,
    decoded: Ids | None = None,
) -> Sample:
    """The sample of a row, with these of the file's layers, and the ids where they were coded.

    Raises FormatError or ValueError on what no writer makes.
    """
    _check_row(row)
    routes = gates = None
    if row["num_rows"] is not None:
        ids = _ids(row, meta, layers, where) if decoded is None else decoded
        missing = _missing_of(row, meta, layers)
        margins = [_margins(row, layers, n, where) for n in (margin_name, group_margin_name)]
        routes = Routes(ids, layers, meta.num_experts, row["start"], missing, *margins)
        gates = _gates(row, ids.shape, layers, where)
    plain = {name: row[name] for name in row if name in Sample.__dataclass_fields__}
    arrays = {
        "prompt_ids": _array(row["prompt_ids"], np.int32),
        "response_ids": _array(row["response_ids"], np.int32),
        "loss_mask": _array(row["loss_mask"], np.bool_),
        "logprobs": _array(row["logprobs"], np.float64),
        "weight_spans": tuple(WeightSpan(**span) for span in row["weight_spans"] or ()),
        "start_inferred": bool(row["start_inferred"]),
    }
    return Sample(**{**plain, **arrays, "routes": routes, "gates": gates})
