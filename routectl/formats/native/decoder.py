"""A row group's coded columns as routes: cells are decoded when a sample of theirs is asked for.

Shape suffixes: T tokens, L MoE layers, K top_k, S samples, R coded rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ...codecs.block import Coded
from ...codecs.dictionary import TokenDictionary
from ...codecs.orders import ordered_rows, orders_bytes
from ...dump import DumpMeta
from ...errors import FormatError, MismatchError, UnsupportedError
from ...limits import check_inflation
from ...routes import Ids, Routes, ids_dtype
from .bases import Bases
from .cells import Head, Held, about_of, input_tokens, take_count, take_head
from .rows import check_row, missing_of
from .schema import coded_name
from .table import BinaryCells, Rows

__all__ = ["CodedGroup", "open_group"]

_OF_HELD = ("prompt_ids", "response_ids", "start", "num_rows", "missing")


@dataclass(frozen=True, slots=True, eq=False)
class _CodedLayer:
    """The cells of one layer, taken apart: its head, and what each sample shares and holds."""

    head: Head
    shared_S: tuple[int, ...]
    cells: tuple[bytes, ...]
    orders: tuple[bytes, ...]


def _open_layer(data: Sequence[Any], helds: Sequence[Held], layer: int, top_k: int) -> _CodedLayer:
    """Take the cells of a layer (by its index) apart; None where a sample has no routes.

    Raises ValueError for what no writer makes.
    """
    first = data[0]
    if first is None:
        raise ValueError("the first cell is not there")
    head, rest = take_head(bytes(first))
    shared, cells, orders = [], [], []
    for i, (value, held) in enumerate(zip(data, helds, strict=True)):
        body = rest if i == 0 else b"" if value is None else bytes(value)
        count = 0
        if held.num_rows or body:
            count, body = take_count(body)
        source = None if held.source is None else helds[held.source]
        room = 0 if source is None else source.start + source.num_rows - held.start
        if count > min(max(room, 0), held.num_rows) or (
            count and source is not None and source.start > held.start
        ):
            raise ValueError(f"sample {i} of the row group shares {count} rows that are not there")
        rows = int(held.kept(layer, count).sum())
        size = orders_bytes(rows, top_k) if head.orders else 0
        if size > len(body):
            raise ValueError(f"sample {i} of the row group has a cell that is cut short")
        shared.append(count)
        cells.append(body[: len(body) - size])
        orders.append(body[len(body) - size :])
    return _CodedLayer(head, tuple(shared), tuple(cells), tuple(orders))


class CodedGroup:
    """The routes of a row group, decoded as they are asked for.

    The first sample that is asked for is decoded alone, unless the codec is solid; another one
    brings in all of the row group, since they will be read one by one.
    """

    def __init__(
        self,
        columns: Mapping[int, Sequence[Any]],
        helds: Sequence[Held],
        meta: DumpMeta,
        where: str,
        dictionary: TokenDictionary | None = None,
    ) -> None:
        """``columns`` are the cells by layer; ``where`` opens every message."""
        self._dictionary = dictionary
        self._helds, self._numbers, self._where = helds, tuple(columns), where
        self._sizes = (meta.num_experts, meta.top_k)
        self._sources = {held.source for held in helds}
        self._layers: list[_CodedLayer] = [
            self._said(i, _open_layer, cells, helds, i, meta.top_k)
            for i, cells in enumerate(columns.values())
        ]
        self._whole: list[list[Ids]] | None = None
        self._kept: dict[int, Ids] = {}
        self._first: int | None = None

    def ids(self, index: int) -> Ids:
        """The ids of a sample, [T, L, K]; those of missing rows are 0. Raises FormatError."""
        if self._first not in (None, index) and self._whole is None:
            every = range(len(self._helds))
            self._whole = [self._decode(i, every) for i in range(len(self._layers))]
        self._first = index
        chain = [index]
        while (source := self._helds[chain[-1]].source) is not None and source not in self._kept:
            chain.append(source)
        ids = None
        for sample in reversed(chain):  # a sample comes after its source
            ids = self._kept.get(sample)
            if ids is None:
                ids = self._assembled(sample)
            if sample in self._sources:
                self._kept[sample] = ids
        assert ids is not None
        return ids

    def _assembled(self, sample: int) -> Ids:
        """The ids of a sample, its source being kept already."""
        held, (num_experts, top_k) = self._helds[sample], self._sizes
        shape = (held.num_rows, len(self._layers), top_k)
        ids: Ids = np.zeros(shape, ids_dtype(num_experts))
        for i, layer in enumerate(self._layers):
            count = layer.shared_S[sample]
            if count and held.source is not None:
                offset = held.start - self._helds[held.source].start
                ids[:count, i] = self._kept[held.source][offset : offset + count, i]
            kept = held.kept(i, count)
            whole = self._whole
            rows = self._decode(i, [sample])[0] if whole is None else whole[i][sample]
            if count + len(rows) == held.num_rows:
                ids[count:, i] = rows
            else:
                ids[kept, i] = rows
        if held.missing_TL is not None:
            ids[held.missing_TL] = 0
        return ids

    def _decode(self, i: int, samples: Sequence[int]) -> list[Ids]:
        rows: list[Ids] = self._said(i, self._decoded, i, samples)
        return rows

    def _decoded(self, i: int, samples: Sequence[int]) -> list[Ids]:
        """The coded rows of some samples in a layer, by its index: one [R, K] each."""
        layer, head = self._layers[i], self._layers[i].head
        wanted, solid = samples, head.codec.solid
        if solid:
            samples = range(len(self._helds))
        helds = [self._helds[s] for s in samples]
        kept = [h.kept(i, layer.shared_S[s]) for h, s in zip(helds, samples, strict=True)]
        dictionary = None
        if self._dictionary is not None and "dictionary" in head.codec.needs:
            dictionary = self._dictionary.layer(self._numbers[i])
        about = about_of(helds, kept, self._sizes, i, head.codec.needs, dictionary)
        coded = Coded(head.shared, tuple(layer.cells[s] for s in samples))
        ids = head.codec.decode(coded, about)
        if ids.shape != about.shape or (ids.size and int(ids.max()) >= about.num_experts):
            raise ValueError("the codec gave rows that are none")
        found, end = {}, 0
        for s, rows in zip(samples, about.lens_S, strict=True):
            part = ids[end : end + rows]
            end += rows
            found[s] = ordered_rows(part, layer.orders[s]) if head.orders else part
        return [found[s] for s in wanted]

    def _said(self, i: int, what: Any, *arguments: Any) -> Any:
        """``what`` of a layer, by its index, its errors told with the place."""
        try:
            return what(*arguments)
        except ValueError as error:
            raise FormatError(
                f"{self._where}: layer {self._numbers[i]}: damaged: {error}"
            ) from None
        except (MismatchError, UnsupportedError) as error:
            where = f"{self._where}: layer {self._numbers[i]}"
            raise type(error)(f"{where}: {error}", hint=error.hint) from None


def _held_row(
    row: dict[str, Any],
    meta: DumpMeta,
    layers: tuple[int, ...],
    source: int | None,
    base: Routes | None,
) -> Held:
    """What a row tells of its sample before its cells are read. Raises ValueError."""
    check_row({"weight_spans": None, **row})
    if row["num_rows"] is None:
        return Held(0, 0, None)
    rows = (row["num_rows"], row["start"])
    parts = [row["prompt_ids"], row["response_ids"]]
    tokens = None if any(p is None for p in parts) else np.concatenate(parts).astype(np.int32)
    missing = missing_of(row, meta, layers)
    return Held(*rows, missing, source, input_tokens(tokens, *rows), base)


def open_group(
    given: Rows, cells: pa.Table, meta: DumpMeta, layers: tuple[int, ...], bases: Bases, where: str
) -> CodedGroup:
    """The coded columns of some layers of a row group; nothing is decoded yet.

    ``where`` is the row group. Raises ValueError or FormatError for what no writer makes.
    """
    where = f"{meta.path}: {where}"
    rows = [given.row(i) for i in range(len(cells))]
    row_bytes = len(layers) * meta.top_k * ids_dtype(meta.num_experts).itemsize
    total = sum(max(row["num_rows"] or 0, 0) for row in rows) * row_bytes
    check_inflation(total, meta.file_bytes or 0, where, ratio="coded")
    helds: list[Held] = []
    for i, row in enumerate(rows):
        source, index = row["shared_with"], row["base_index"]
        if source is not None and not (0 <= source < i and rows[source]["num_rows"] is not None):
            raise ValueError(f"row {i} shares rows with {source}")
        base = None if index is None else bases.routes(index, meta, layers)
        helds.append(_held_row({name: row[name] for name in _OF_HELD}, meta, layers, source, base))
    columns = [
        [column.cell(i) for i in range(len(cells))]
        for column in (BinaryCells(cells.column(coded_name(layer))) for layer in layers)
    ]
    by_layer = dict(zip(layers, columns, strict=True))
    return CodedGroup(by_layer, helds, meta, where, bases.dictionary)
