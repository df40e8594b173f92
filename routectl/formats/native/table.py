"""The rows of an Arrow table as Python values, and its binary columns as one stretch of bytes.

Columns are opened once a table, not once a row: a row costs microseconds. Shape suffix: S samples.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ...keys import FIELDS, Hashing, Keys, Lists, Texts, hash_spans

__all__ = ["LEAST", "BinaryCells", "Rows", "numbers_of", "valid_of"]

_FEW = 16  # one row of so many is asked for before all values of a column are made
_OBJECT_BYTES = 64  # of a value as Python has it, about
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

    @cached_property
    def _cells(self) -> dict[str, Callable[[int], Any]]:
        """What gives the value of each column in a row."""
        given = [name for name in self._names if name not in self._nothing]
        return {name: _cells_of(self._table.column(name)) for name in given}

    @property
    def nbytes(self) -> int:
        """About how many bytes the columns take, their values as Python has them too."""
        columns = (self._table.column(n) for n in self._names if n not in self._nothing)
        objects = sum(not _is_numbers(column.type) for column in columns)
        return int(self._table.nbytes) + _OBJECT_BYTES * objects * len(self._table)

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

    def numbers(self, name: str, absent: int) -> NDArray[np.int64]:
        """A column of integers, or of bools, int64 [S]; ``absent`` where there is none."""
        values = _chunk(self._table.column(name))
        return np.where(valid_of(values), numbers_of(values), absent).astype(np.int64)

    def sizes(self, name: str) -> NDArray[np.int64]:
        """How long the lists of a column are, int64 [S]; 0 where there is none."""
        lists = _chunk(self._table.column(name))
        ends = numbers_of(lists.offsets).astype(np.int64)
        return np.where(valid_of(lists), np.diff(ends), 0)

    def lists(self, name: str) -> Lists:
        """A column of lists of token ids. Raises ValueError where one of them has nulls."""
        lists = _chunk(self._table.column(name))
        known_S = valid_of(lists)
        ends = numbers_of(lists.offsets).astype(np.int64)
        begins_S, sizes_S = ends[: len(lists)], self.sizes(name)
        if lists.values.null_count:
            parts = zip(begins_S[known_S].tolist(), sizes_S[known_S].tolist(), strict=True)
            if any(lists.values.slice(a, n).null_count for a, n in parts):
                raise ValueError("a list of numbers has nulls")
        return Lists(numbers_of(lists.values), begins_S, sizes_S, known_S)

    def texts(self, name: str) -> Texts:
        """A column of strings."""
        cells, found = BinaryCells(self._table.column(name)), Texts()
        ends_S = cells.ends_S.astype(np.int64)
        found.extend(cells.bytes, ends_S[1:] - ends_S[0], cells.valid_S)
        return found

    def keys(self, fields: Sequence[str] = FIELDS, hashing: Hashing = hash_spans) -> Keys:
        """The keys of all rows; of fields of SampleKey that are not wanted nothing is said."""
        ids = self.texts("sample_id") if "sample_id" in fields else None
        prompt = response = None
        if fields != ("sample_id",):
            prompt = self.lists("prompt_ids")
            response = self.lists("response_ids") if "tokens" in fields else None
        wanted = "prompt" in fields
        return Keys.of_columns(ids, prompt, response, prompts=wanted, hashing=hashing)

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


def _is_numbers(kind: pa.DataType) -> bool:
    """Whether cells are views of the table: bytes, and lists of numbers."""
    lists = pa.types.is_list(kind) and not pa.types.is_struct(kind.value_type)
    return pa.types.is_binary(kind) or lists


def _cells_of(column: "pa.ChunkedArray[Any]") -> Callable[[int], Any]:
    """What gives the value of a column in a row."""
    if not _is_numbers(column.type):
        return _objects_of(_chunk(column))
    if pa.types.is_binary(column.type):
        return BinaryCells(column).cell
    return _lists_of(_chunk(column))


def _objects_of(values: Any) -> Callable[[int], Any]:
    """What gives the value in a row: one by one at first, then all of them are made at once."""
    every: list[Any] = []
    left = len(values) // _FEW

    def cell(index: int) -> Any:
        nonlocal left
        if left > 0:
            left -= 1
            return values[index].as_py()
        if not every:
            every.extend(values.to_pylist())
        return every[index]

    return cell


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
