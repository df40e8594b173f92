"""A row group of a native file, read: single rows as Python values, coded columns as routes.

Shape suffixes: T tokens, L MoE layers, K top_k.
"""

from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from ...dump import DumpMeta
from ...routes import ids_dtype
from ..documents.limits import check_inflation
from .bases import Bases
from .cells import Held, coded_name
from .decoder import CodedGroup
from .rows import held_row

__all__ = ["open_group", "table_row"]

_OF_HELD = ("prompt_ids", "response_ids", "start", "num_rows", "missing")
_ALWAYS_FINE = 16 << 20  # bytes of ids in a row group, whatever the size of the file
_MAX_RATIO = 1000  # beyond it, ids to bytes of the file


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


def open_group(
    table: pa.Table, meta: DumpMeta, layers: tuple[int, ...], bases: Bases, where: str
) -> CodedGroup:
    """The coded columns of some layers of a row group; nothing is decoded yet.

    ``where`` is the row group. Raises ValueError or FormatError for what no writer makes.
    """
    where = f"{meta.path}: {where}"
    rows = [
        table_row(table, i, (*_OF_HELD, "shared_with", "base_index")) for i in range(len(table))
    ]
    row_bytes = len(layers) * meta.top_k * ids_dtype(meta.num_experts).itemsize
    total = sum(max(row["num_rows"] or 0, 0) for row in rows) * row_bytes
    check_inflation(total, meta.file_bytes or 0, where, _ALWAYS_FINE, _MAX_RATIO)
    helds: list[Held] = []
    for i, row in enumerate(rows):
        source, index = row["shared_with"], row["base_index"]
        if source is not None and not (0 <= source < i and rows[source]["num_rows"] is not None):
            raise ValueError(f"row {i} shares rows with {source}")
        base = None if index is None else bases.routes(index, meta, layers)
        helds.append(held_row(row, meta, layers, source, base))
    columns = [
        [value.as_buffer() if value.is_valid else None for value in table.column(coded_name(layer))]
        for layer in layers
    ]
    return CodedGroup(dict(zip(layers, columns, strict=True)), helds, meta, where)
