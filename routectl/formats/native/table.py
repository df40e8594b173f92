"""The rows of an Arrow table as Python values, and its binary columns as one stretch of bytes.

Columns are opened once a table, not once a row: a row costs microseconds. Shape suffix: S samples.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

__all__ = ["LEAST", "BinaryCells", "Rows", "numbers_of", "valid_of"]

LEAST = {"prompt_ids": -1, "response_ids": 0}  # of token ids; -1: media, which have no id


class BinaryCells:
    """A binary column: ends_S are offsets into data, valid_S tells which cells are not null."""

    def __init__(self, column: "pa.ChunkedArray[Any]") -> None:
        cells = _chunk(column)
        size = len(cells)
        self.valid_S = valid_of(cells)
        data = cells.buffers()[2]
        self.data = memoryview(b"" if data is None else data)
        ends = np.frombuffer(cells.buffers()[1], np.int32, size + 1, 4 * cells.offset)
        self.ends_S: NDArray[np.int32] = ends

    def cell(self, index: int) -> memoryview | None:
        """One cell, not copied; None where it is null."""
        if not self.valid_S[index]:
            return None
        return self.data[int(self.ends_S[index]) : int(self.ends_S[index + 1])]

    @property
    def bytes(self) -> memoryview:
        """All cells, end to end."""
        return self.data[int(self.ends_S[0]) : int(self.ends_S[-1])]


class Rows:
    """Some columns of a table by row."""

    def __init__(self, table: pa.Table, names: Sequence[str]) -> None:
        self._table = table
        self._names = names
        nothing = [name for name in names if table.column(name).null_count == len(table)]
        self._nothing: dict[str, Any] = dict.fromkeys(nothing)
        self._cells = {
            name: _cells_of(table.column(name)) for name in names if name not in self._nothing
        }

    def cell(self, name: str) -> Callable[[int], Any]:
        """What gives the value of a column in a row, as ``row`` has it."""
        return self._cells.get(name, lambda index: None)

    def row(self, index: int) -> dict[str, Any]:
        """One row: ids as arrays, binary cells as views of bytes, the rest as Python has it.

        Raises ValueError for a null within a list of numbers.
        """
        row = self._nothing.copy()
        for name, cell in self._cells.items():
            row[name] = cell(index)
        return row

    def column(self, name: str) -> list[Any]:
        """One column."""
        values: list[Any] = self._table.column(name).to_pylist()
        return values

    def there(self, name: str) -> NDArray[np.bool_]:
        """Which rows have a value in a column, bool [S]."""
        return valid_of(_chunk(self._table.column(name)))

    @cached_property
    def sound(self) -> bool:
        """Whether no row has what no writer makes, so that none needs to be looked at alone."""
        for name in self._names:
            column = self._table.column(name)
            if pa.types.is_integer(column.type) and _least(column) < 0:
                return False
            if pa.types.is_list(column.type) and _chunk(column).values.null_count:
                return False
            if name in LEAST and _least(pa.chunked_array([_chunk(column).values])) < LEAST[name]:
                return False
        names = set(self._names)
        spans = _chunk(self._table.column("weight_spans")) if "weight_spans" in names else None
        if spans is not None and (spans.null_count or _nulls_in(spans.values)):
            return False
        starts, rows = (valid_of(_chunk(self._table.column(n))) for n in ("start", "num_rows"))
        return bool((starts == rows).all())


def _chunk(column: "pa.ChunkedArray[Any]") -> Any:
    """A column as one array. Raises ArrowInvalid where it cannot be one."""
    if column.num_chunks == 1:
        return column.chunk(0)
    return column.combine_chunks()


def valid_of(cells: Any) -> NDArray[np.bool_]:
    """Which values of an Arrow array are not null."""
    if not cells.null_count:
        return np.ones(len(cells), np.bool_)
    return _bits(cells, 0)


def _bits(cells: Any, buffer: int) -> NDArray[np.bool_]:
    """A buffer of an array that has a bit for each value."""
    begin, end = cells.offset, cells.offset + len(cells)
    data = np.frombuffer(cells.buffers()[buffer], np.uint8)[begin // 8 : -(-end // 8)]
    bits = np.unpackbits(data, bitorder="little")
    return bits[begin % 8 :][: len(cells)].view(np.bool_)


def numbers_of(values: Any) -> NDArray[Any]:
    """An Arrow array of numbers, or of bools, as numpy has it; what stands for nulls means nothing.

    By its buffers: ``to_numpy`` imports pandas where it is installed, a third of a second.
    """
    dtype, data = np.dtype(values.type.to_pandas_dtype()), values.buffers()[1]
    if data is None or not data.size:  # of nothing: one offset of no list, say
        return np.zeros(len(values), dtype)
    if pa.types.is_boolean(values.type):
        return _bits(values, 1)
    return np.frombuffer(data, dtype, len(values), values.offset * dtype.itemsize)


def _least(column: "pa.ChunkedArray[Any]") -> int:
    """The smallest of integers, nulls aside; 0 of none."""
    cells = _chunk(column)
    return int(numbers_of(cells)[valid_of(cells)].min(initial=0))


def _nulls_in(parts: Any) -> bool:
    """Whether an array of structs has a null, or one in a field."""
    fields = (parts.field(i) for i in range(parts.type.num_fields))
    return any(one.null_count for one in (parts, *fields))


def _cells_of(column: "pa.ChunkedArray[Any]") -> Callable[[int], Any]:
    """What gives the value of a column in a row."""
    kind = column.type
    if pa.types.is_binary(kind):
        return BinaryCells(column).cell
    if not pa.types.is_list(kind) or pa.types.is_struct(kind.value_type):
        values: list[Any] = column.to_pylist()
        return values.__getitem__
    return _lists_of(_chunk(column))


def _lists_of(lists: Any) -> Callable[[int], Any]:
    """What gives the list of numbers in a row, as an array that is not copied."""
    flat, ends_S, valid_S = lists.values, numbers_of(lists.offsets), valid_of(lists)
    whole = None if flat.null_count else numbers_of(flat)

    def cell(index: int) -> Any:
        if not valid_S[index]:
            return None
        begin, end = ends_S[index], ends_S[index + 1]
        if whole is not None:
            return whole[begin:end]
        part = flat.slice(begin, end - begin)
        if part.null_count:
            raise ValueError("a list of numbers has nulls")
        return numbers_of(part)

    return cell
