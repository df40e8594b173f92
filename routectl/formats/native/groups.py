"""A row group in memory: its rows, and the ids of all of them as one array.

Layer columns are read a few at a time and let go, so that a row group takes what its ids take and
the columns of one step. Shape suffixes: R rows of a row group (tokens of all its samples), T rows
of one sample, L MoE layers, K top_k, S samples.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ...columns.samples import NONE, SampleColumns
from ...dump import DumpMeta, Sample, SampleBatch, form_of
from ...errors import FormatError
from ...gate_logprobs import GateLogprobs
from ...routes import Bools, Ids, Routes, ids_dtype, put_layers
from .bases import Bases
from .rows import check_row, missing_of, sample_of, spans_of
from .schema import (
    COLUMNS,
    coded_name,
    columns_of_layers,
    gate_name,
    group_margin_name,
    kinds_of,
    layer_name,
    margin_name,
)
from .stored import stored_layers
from .table import BinaryCells, Rows

if TYPE_CHECKING:
    from .decoder import CodedGroup

__all__ = ["LARGE", "Group", "GroupAbout"]

_STEP_BYTES = 32 << 20  # of layer columns that are in memory at a time
_OF_BATCH = (
    "start",
    "num_rows",
    "missing",
    "start_inferred",
    "prompt_length",
    "response_length",
    "cached_tokens",
    "retractions",
    "finish_reason",
    "weight_spans",
)
_COLUMN_BYTES = 256  # of a sample as columns, about: numbers, its names
LARGE = 32 << 20  # bytes of a sample that is handed over, not copied
Read = Callable[[Sequence[str]], pa.Table]
Pages = Callable[[Sequence[str]], Iterable[memoryview | None]]
_LONG = 256  # rows of a sample from which counting it layer by layer pays


@dataclass(frozen=True, slots=True)
class GroupAbout:
    """What holds for every row group of a file: of which layers it is read, how ids are coded, and
    whether they stay layer by layer where samples are long.
    """

    meta: DumpMeta
    layers: tuple[int, ...]
    bases: Bases | None
    by_layer: bool = False

    @property
    def names(self) -> list[str]:
        """The columns that are no cells of layers."""
        coded, gates = self.bases is not None, self.meta.gates
        return [name for name, _ in (*COLUMNS, *columns_of_layers((), 1, gates, coded))]


@dataclass(frozen=True, slots=True)
class _Kind:
    """One kind of layer columns: how they are named, dtype and shape of a row's entry."""

    name: Callable[[int], str]
    dtype: str
    shape: tuple[int, ...] = ()
    needed: bool = False  # wherever there are routes

    @property
    def row_bytes(self) -> int:
        """Bytes of one row in one layer."""
        return np.dtype(self.dtype).itemsize * prod(self.shape)

    def empty(self, rows: int, layers: int) -> NDArray[Any]:
        """An array [rows, layers, ...], not filled."""
        return np.empty((rows, layers, *self.shape), np.dtype(self.dtype).newbyteorder("="))

    def rows_of(self, data: Any) -> NDArray[Any]:
        """The rows of a cell, or of several end to end."""
        return np.frombuffer(data, self.dtype).reshape(-1, *self.shape)


class _Cells:
    """The columns of one kind in a row group: one array [R, L, ...], or cell by cell.

    Cell by cell where one is not as long as its rows want: what is wrong is told when that sample
    is asked for.
    """

    def __init__(
        self, read: Read, kind: _Kind, layers: Sequence[int], lengths_S: NDArray[np.int64]
    ) -> None:
        """``lengths_S`` are the rows of each sample, 0 without routes."""
        self._kind, self._layers = kind, layers
        self._names = [kind.name(layer) for layer in layers]
        self._there_S, self._ends_S = np.ones(0, np.bool_), np.zeros(1, np.int64)
        self._stack = self._stacked(read, lengths_S)
        self._rows = Rows(read(self._names), self._names) if self._stack is None else None

    def _stacked(self, read: Read, lengths_S: NDArray[np.int64]) -> NDArray[Any] | None:
        kind, stack = self._kind, None
        step = max(1, _STEP_BYTES // max(1, int(lengths_S.sum()) * kind.row_bytes))
        for first in range(0, len(self._names), step):
            names = self._names[first : first + step]
            table, found = read(names), []
            for i, name in enumerate(names, first):
                cells = BinaryCells(table.column(name))
                if i == 0:
                    self._there_S = cells.valid_S
                    lengths_S = np.where(cells.valid_S, lengths_S, 0)
                    self._ends_S = np.concatenate([[0], np.cumsum(lengths_S)])
                if (cells.valid_S != self._there_S).any() or (
                    np.diff(cells.ends_S) != lengths_S * kind.row_bytes
                ).any():
                    return None
                if stack is None:
                    stack = kind.empty(int(self._ends_S[-1]), len(self._names))
                found.append(kind.rows_of(cells.bytes))
            if stack is not None:
                put_layers(stack[:, first : first + len(found)], found)
        return stack

    def part(self, index: int, num_rows: int, where: str) -> NDArray[Any] | None:
        """The rows of one sample [T, L, ...]; None where it has none. Raises FormatError."""
        there, begin, end = self._there_S[index], self._ends_S[index], self._ends_S[index + 1]
        if self._stack is None or end - begin != num_rows or (self._kind.needed and not there):
            return self._cell_by_cell(index, num_rows, where)
        if not there:
            return None
        part: NDArray[Any] = self._stack[begin:end]
        return part if part.nbytes >= LARGE else part.copy()

    def together(self, wanted_S: Bools) -> NDArray[Any] | None:
        """The rows of all samples end to end [R, L, ...]; None where none of the wanted has any.

        Raises ValueError where samples have to be looked at one by one.
        """
        there_S = self._there_S[wanted_S]
        if self._stack is None or there_S.any() != there_S.all():
            raise ValueError("cells that are not there, or too short")
        return self._stack if there_S.any() else None

    def _cell_by_cell(self, index: int, num_rows: int, where: str) -> NDArray[Any] | None:
        kind, row = self._kind, {} if self._rows is None else self._rows.row(index)
        cells = [row.get(name) for name in self._names]
        if all(data is None for data in cells) and not kind.needed:
            return None
        expected = num_rows * kind.row_bytes
        for layer, data in zip(self._layers, cells, strict=True):
            if data is None or len(data) != expected:
                got = "nothing" if data is None else f"{len(data)} bytes"
                what = f"layer {layer}" if kind.needed else kind.name(layer)
                raise FormatError(f"{where}: {what}: got {got}, expected {expected} bytes")
        found = kind.empty(num_rows, len(cells))
        for i, data in enumerate(cells):
            found[:, i] = kind.rows_of(data)
        return found


class Group:
    """A row group, read when it is made; ``read`` gives the columns that are named.

    size are the bytes that the cells of all its layers take, decoded.
    """

    def __init__(self, read: Read, pages: Pages, about: GroupAbout, where: str) -> None:
        """``pages`` gives what the page of each column holds; None where ``read`` is to be asked.

        ``where`` is the row group. Raises ValueError or FormatError for damage.
        """
        meta, layers = about.meta, about.layers
        self._about = about
        table = read(about.names)
        self._rows = Rows(table, about.names)
        self._coded: CodedGroup | None = None
        if about.bases is not None:
            from .decoder import open_group

            cells = read([coded_name(layer) for layer in layers])
            self._coded = open_group(self._rows, cells, meta, layers, about.bases, where)
        self._routed_S = self._rows.there("num_rows")
        lengths_S = np.maximum(self._rows.numbers("num_rows", 0), 0)
        dtype, top_k = ids_dtype(meta.num_experts).newbyteorder("<").str, (meta.top_k,)
        kinds = [_Kind(margin_name, "<f2"), _Kind(group_margin_name, "<f2")][: kinds_of(meta) - 1]
        ids, gates = _Kind(layer_name, dtype, top_k, needed=True), _Kind(gate_name, "<f4", top_k)
        self._margins = [_Cells(read, kind, layers, lengths_S) for kind in kinds]
        self._gates = _Cells(read, gates, layers, lengths_S) if meta.gates else None
        self._layered: Ids | None = None
        self._ids: _Cells | None = None
        if about.by_layer and self._routed_S.all() and lengths_S.min(initial=_LONG) >= _LONG:
            stored = pages([layer_name(layer) for layer in layers])
            shape = (len(layers), meta.top_k)
            self._layered = stored_layers(stored, lengths_S, shape, np.dtype(dtype))
        self._begins_S = np.cumsum(lengths_S) - lengths_S
        if self._layered is None and self._coded is None:
            self._ids = _Cells(read, ids, layers, lengths_S)
        kinds += [ids, *([gates] if meta.gates else [])]
        self._lengths_S = lengths_S
        self._columns: SampleColumns | None = None
        self.size = int(lengths_S.sum()) * len(layers) * sum(kind.row_bytes for kind in kinds)
        self.size += self._rows.nbytes

    def sample(self, index: int, where: str) -> Sample:
        """One sample, by its place in the row group. Raises FormatError, ValueError for damage."""
        row = self._rows.row(index)
        if not self._rows.sound:
            check_row(row)
        if row["num_rows"] is None:
            return sample_of(row, None, None)
        meta, layers, num_rows = self._about.meta, self._about.layers, row["num_rows"]
        if self._coded is not None:
            ids: Any = self._coded.ids(index)
        elif self._layered is not None:
            begin = int(self._begins_S[index])
            ids = self._layered[:, begin : begin + num_rows].transpose(1, 0, 2)
        else:
            assert self._ids is not None
            ids = self._ids.part(index, num_rows, where)
        margins = [cells.part(index, num_rows, where) for cells in self._margins]
        missing = missing_of(row, meta, layers)
        routes = Routes(ids, layers, meta.num_experts, row["start"], missing, *margins)
        gates = None
        if self._gates is not None and row["gate_of"] is not None:
            logprobs_TLK = self._gates.part(index, num_rows, where)
            if logprobs_TLK is None:
                raise FormatError(f"{where}: {gate_name(layers[0])}: got nothing, expected some")
            gates = GateLogprobs(logprobs_TLK, row["gate_of"])
        return sample_of(row, routes, gates)

    def batch(self) -> SampleBatch:
        """All samples of the row group.

        Raises ValueError or FormatError where they are to be looked at one by one: some of them are
        damaged, or have margins that others have not.
        """
        if not self._rows.sound:
            raise ValueError("a row that no writer makes")
        named = {name: self._rows.column(name) for name in _OF_BATCH}
        sizes = zip(
            named["prompt_length"],
            named["response_length"],
            named["start"],
            named["num_rows"],
            strict=True,
        )
        return SampleBatch(
            routes=self._routes(named["missing"], named["num_rows"]),
            start=named["start"],
            start_inferred=[bool(inferred) for inferred in named["start_inferred"]],
            row_count=[None if None in n else form_of(n[0] + n[1], n[2] + n[3]) for n in sizes],
            prompt_length=named["prompt_length"],
            response_length=named["response_length"],
            cached_tokens=named["cached_tokens"],
            retractions=named["retractions"],
            finish_reason=named["finish_reason"],
            has_logprobs=self._rows.there("logprobs").tolist(),
            weight_spans=[spans_of(spans) for spans in named["weight_spans"]],
            segments=[()] * len(named["start"]),
        )

    def columns(self, first: int) -> SampleColumns:
        """All samples of the row group, of which ``first`` is the first, as columns.

        Raises ValueError or FormatError where they are to be looked at one by one, as batch does.
        """
        if self._columns is None:
            self._columns = self._as_columns(first)
            self.size += _COLUMN_BYTES * len(self._columns)
        return self._columns

    def _as_columns(self, first: int) -> SampleColumns:
        rows = self._rows
        if not rows.sound:
            raise ValueError("a row that no writer makes")
        routes = self._routes([None] * len(self._lengths_S), [])
        lengths_S = np.where(self._routed_S, self._lengths_S, 0)
        prompt, response = rows.lists("prompt_ids"), rows.lists("response_ids")
        return SampleColumns(
            first=first,
            ids_RLK=None if routes is None else routes.ids_TLK,
            begins_S=np.cumsum(lengths_S) - lengths_S,
            num_rows_S=lengths_S,
            routed_S=self._routed_S,
            start_S=rows.numbers("start", 0),
            inferred_S=rows.numbers("start_inferred", 0) > 0,
            prompt_length_S=rows.numbers("prompt_length", NONE),
            response_length_S=rows.numbers("response_length", NONE),
            cached_S=rows.numbers("cached_tokens", NONE),
            retractions_S=rows.numbers("retractions", NONE),
            missing_S=rows.there("missing"),
            masked_S=rows.there("loss_mask"),
            scored_S=rows.there("logprobs"),
            spans_S=rows.sizes("weight_spans"),
            prompt=prompt,
            response=response,
            names=rows.texts("sample_id"),
            groups=rows.texts("group_id"),
        )

    def _routes(self, missing: list[bytes | None], counts: list[int | None]) -> Routes | None:
        """The routes of all samples end to end; ``counts`` are their rows. Raises as batch does."""
        meta, layers, routed_S = self._about.meta, self._about.layers, self._routed_S
        if self._gates is not None:
            gated_S = routed_S & self._rows.there("gate_of")
            gates = self._gates.together(gated_S)
            if gates is None and gated_S.any():
                raise ValueError("gates that are not there")
            if gates is not None:
                GateLogprobs(gates, "")
        margins = [cells.together(routed_S) for cells in self._margins]
        if not routed_S.any():
            return None
        if self._coded is not None:
            ids: Any = np.concatenate(
                [self._coded.ids(i) for i in np.flatnonzero(routed_S).tolist()]
            )
        elif self._layered is not None:
            ids = self._layered.transpose(1, 0, 2)
        else:
            assert self._ids is not None
            ids = self._ids.together(routed_S)
        missing_TL = self._missing(missing, counts)
        return Routes(ids, layers, meta.num_experts, 0, missing_TL, *margins)

    def _missing(self, missing: list[bytes | None], counts: list[int | None]) -> Bools | None:
        """The missing rows of all samples end to end; None where none has any. ValueError."""
        if all(packed is None for packed in missing):
            return None
        meta, layers = self._about.meta, self._about.layers
        parts = []
        for packed, count in zip(missing, counts, strict=True):
            if count is not None:
                part = missing_of({"missing": packed, "num_rows": count}, meta, layers)
                parts.append(np.zeros((count, len(layers)), np.bool_) if part is None else part)
        return np.concatenate(parts)
