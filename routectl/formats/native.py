"""routectl's own container: Parquet, one row a sample, one binary column a MoE layer.

Schema metadata key ``routectl`` holds everything of DumpMeta as JSON; a second binary column a
layer holds margins, a third group margins, a fourth gate log-probabilities, where there are any.
docs/formats.md is the contract. Shape suffixes: T tokens, L MoE layers, K top_k.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..dump import ORDERS, Dump, DumpMeta, Sample, SampleKey, key_of
from ..errors import FormatError, UnsupportedError
from ..files import replacing
from .fields import one_line
from .limits import check_inflation
from .native_rows import gate_name, gate_row, group_margin_name, layer_name, margin_name, sample_of

__all__ = ["open_native", "write_native"]

SCHEMAS = ("routectl.native/1", "routectl.native/2", "routectl.native/3")  # by kinds of columns
WITH_GATES = "routectl.native/4"  # any of the three, and gate log-probabilities
_GROUP_BYTES = 4 << 20  # ids in a row group: what reading one sample at random costs at most
_ABOUT = ("engine", "engine_version", "model", "id_space", "wire_dtype")
_SOURCE = ("path", "format", "facts_source", "file_bytes", "skipped")  # of what was converted
_SPAN = pa.struct([("version", pa.string()), ("start", pa.int32()), ("end", pa.int32())])
_COLUMNS = (
    ("sample_id", pa.string()),
    ("group_id", pa.string()),
    ("prompt_ids", pa.list_(pa.int32())),
    ("response_ids", pa.list_(pa.int32())),
    ("prompt_length", pa.int32()),
    ("response_length", pa.int32()),
    ("loss_mask", pa.list_(pa.bool_())),
    ("logprobs", pa.list_(pa.float64())),
    ("weight_spans", pa.list_(_SPAN)),
    ("finish_reason", pa.string()),
    ("cached_tokens", pa.int32()),
    ("retractions", pa.int32()),
    ("start", pa.int32()),
    ("start_inferred", pa.bool_()),
    ("num_rows", pa.int32()),
    ("missing", pa.binary()),
)
_KEYS = ("sample_id", "prompt_ids", "response_ids")
_KEPT = ("order", "margins", "group_margins", "gates", "provenance")


def _kinds(meta: DumpMeta) -> int:
    """How many columns a layer has: ids; margins; group margins."""
    return 3 if meta.group_margins else 2 if meta.margins else 1


def _of_layers(layers: Iterable[int], kinds: int, gates: bool) -> list[tuple[str, pa.DataType]]:
    """The columns of some layers; with gates, one more says which routes they are of."""
    numbers = list(layers)
    names = (layer_name, margin_name, group_margin_name)[:kinds]
    columns = [name(n) for name in (*names, *([gate_name] if gates else [])) for n in numbers]
    digest = [("gate_of", pa.string())] if gates else []
    return [*((name, pa.binary()) for name in columns), *digest]


def _schema(meta: DumpMeta) -> pa.Schema:
    about: dict[str, Any] = {
        "schema": WITH_GATES if meta.gates else SCHEMAS[_kinds(meta) - 1],
        "layers": list(meta.layers_L),
        "num_experts": meta.num_experts,
        "top_k": meta.top_k,
        **{name: getattr(meta, name) for name in _ABOUT},
        "source": {name: getattr(meta, name) for name in _SOURCE},
    }
    if meta.order != ORDERS[0]:
        about["order"] = meta.order
    if meta.provenance:
        about["provenance"] = meta.provenance
    if meta.gates:
        about["kinds"] = _kinds(meta)
    columns = [*_COLUMNS, *_of_layers(meta.layers_L, _kinds(meta), meta.gates)]
    return pa.schema(
        [pa.field(*column) for column in columns], metadata={"routectl": json.dumps(about)}
    )


def _row(sample: Sample, meta: DumpMeta) -> dict[str, Any]:
    """A sample as one row; the layer columns are null when it has no routes."""
    row: dict[str, Any] = {
        name: getattr(sample, name) for name, _ in _COLUMNS if hasattr(sample, name)
    }
    row["weight_spans"] = [dataclasses.asdict(span) for span in sample.weight_spans]
    routes = sample.routes
    if routes is None:
        return row
    row |= {"start": routes.start, "num_rows": routes.num_tokens}
    if routes.missing_TL is not None:
        row["missing"] = np.packbits(routes.missing_TL, bitorder="little").tobytes()
    by_layer = np.ascontiguousarray(routes.ids_TLK.transpose(1, 0, 2))
    for layer, ids_TK in zip(meta.layers_L, by_layer, strict=True):
        row[layer_name(layer)] = ids_TK.astype(ids_TK.dtype.newbyteorder("<"), copy=False).data
    for name, margin_TL, kinds in (
        (margin_name, routes.margin_TL, 2), (group_margin_name, routes.group_margin_TL, 3)
    ):  # fmt: skip
        if margin_TL is None:
            continue
        if _kinds(meta) < kinds:
            raise ValueError("a sample has margins, but its dump's meta says that none has")
        margin_LT = np.ascontiguousarray(margin_TL.T, "<f2")
        row |= {name(n): column.data for n, column in zip(meta.layers_L, margin_LT, strict=True)}
    return row | gate_row(sample, meta)


def _batches(samples: Iterable[Sample], meta: DumpMeta) -> Iterator[list[dict[str, Any]]]:
    """Rows, a row group at a time."""
    rows: list[dict[str, Any]] = []
    size = 0
    for sample in samples:
        rows.append(_row(sample, meta))
        size += 0 if sample.routes is None else sample.routes.ids_TLK.nbytes
        if size >= _GROUP_BYTES or len(rows) >= 4096:
            yield rows
            rows, size = [], 0
    if rows:
        yield rows


def write_native(samples: Iterable[Sample], meta: DumpMeta, path: Path, *, force: bool) -> int:
    """Write samples to a native file and return how many.

    The file appears whole or not at all. An existing one is refused unless ``force``.
    """
    schema = _schema(meta)
    small = [name for name, _ in _COLUMNS if name not in ("logprobs", "missing")]
    count = 0
    options: dict[str, Any] = {
        "compression": "zstd",
        "use_dictionary": small,
        "write_statistics": ["sample_id"],
        "write_page_checksum": True,
        "data_page_size": _GROUP_BYTES,
    }
    with (
        replacing(path, force=force) as target,
        pq.ParquetWriter(target, schema, **options) as writer,
    ):
        for rows in _batches(samples, meta):
            columns = [pa.array([r.get(f.name) for r in rows], f.type) for f in schema]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema), len(rows))
            count += len(rows)
    return count


def _read_about(path: Path, schema: pa.Schema) -> dict[str, Any]:
    """The routectl block of the schema metadata, checked against the columns."""
    block = (schema.metadata or {}).get(b"routectl")
    if block is None:
        raise UnsupportedError(
            f"{path}: a Parquet file of another program: no 'routectl' entry in its schema metadata"
        )
    try:
        about = json.loads(block)
        version = about["schema"]
        known = (*SCHEMAS, WITH_GATES)
        if version not in known:
            raise UnsupportedError(
                f"{path}: container {one_line(version)}, this routectl reads {', '.join(known)}"
            )
        gates = version == WITH_GATES
        kinds = about["kinds"] if gates else SCHEMAS.index(version) + 1
        about |= {"margins": kinds > 1, "group_margins": kinds > 2, "gates": gates}
        layers, experts, top_k = about["layers"], about["num_experts"], about["top_k"]
        sizes = all(type(n) is int and n >= 0 for n in (*layers, experts, top_k))
        fits = layers and layers == sorted(set(layers)) and 1 <= top_k <= experts <= 65536
        named = all(isinstance(about[name], str | None) for name in _ABOUT) and about["id_space"]
        named = named and about.setdefault("order", ORDERS[0]) in ORDERS
        made = about.setdefault("provenance", {})
        named = named and all(isinstance(text, str) for text in made.values())
        named = named and kinds in (1, 2, 3)
        columns = [*_COLUMNS, *_of_layers(layers, kinds, gates)]
        found = [(field.name, field.type) for field in schema]
        if not sizes or not fits or not named or found != columns:
            raise FormatError(f"{path}: damaged: the schema metadata does not fit the columns")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise FormatError(f"{path}: damaged: the schema metadata cannot be read") from None
    return dict(about)


def _table_row(table: pa.Table, index: int) -> dict[str, Any]:
    """One row as Python values; binary columns stay buffers, not copies."""
    row: dict[str, Any] = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
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


def open_native(path: Path) -> Dump:
    """Open a native file; row groups are read when a sample of theirs is, page checksums verified.

    Raises FormatError when the file is damaged, UnsupportedError for another program's Parquet or
    a newer container.
    """

    footer: pq.FileMetaData | None = None  # read once

    def opened() -> pq.ParquetFile:
        return pq.ParquetFile(
            path, metadata=footer, page_checksum_verification=True, pre_buffer=False
        )

    try:
        with opened() as file:
            footer = file.metadata
            about = _read_about(path, file.schema_arrow)
            groups = [file.metadata.row_group(g) for g in range(file.num_row_groups)]
            inflated = sum(group.total_byte_size for group in groups)
            check_inflation(inflated, path.stat().st_size, str(path))
            sizes = [group.num_rows for group in groups]
            keys = list(_read_keys(file))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise FormatError(f"{path}: damaged Parquet: {one_line(error)}") from None
    named: dict[str, Any] = {name: about.get(name) for name in _ABOUT}
    meta = DumpMeta(
        path=str(path),
        format="native",
        layers_L=tuple(about["layers"]),
        num_experts=about["num_experts"],
        top_k=about["top_k"],
        facts_source="the file itself",
        file_bytes=path.stat().st_size,
        **{name: about[name] for name in _KEPT},
        **named,
    )
    ends = np.cumsum(sizes)

    def holding(layers: tuple[int, ...]) -> Dump:
        """The file as a dump of some of its layers; no other layer column is read."""
        of_layers = _of_layers(layers, _kinds(meta), meta.gates)
        columns = [name for name, _ in (*_COLUMNS, *of_layers)]
        held: tuple[int, pa.Table] | None = None

        def load(index: int) -> Sample:
            nonlocal held
            group = int(np.searchsorted(ends, index, side="right"))
            if held is None or held[0] != group:
                held = None  # let go of one row group before the next is read
                held = (group, _read_group(opened, group, columns, str(path)))
            where = f"{path}: sample {index}"
            try:
                row = _table_row(held[1], index - int(ends[group] - sizes[group]))
                return sample_of(row, meta, layers, where)
            except ValueError as error:
                raise FormatError(f"{where}: damaged: {error}") from None

        return Dump(dataclasses.replace(meta, layers_L=layers), keys, load, holding)

    return holding(meta.layers_L)


def _read_group(
    opened: Callable[[], pq.ParquetFile], group: int, columns: list[str], path: str
) -> pa.Table:
    try:
        with opened() as file:
            return file.read_row_group(group, columns, use_threads=False)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise FormatError(f"{path}: row group {group}: damaged: {one_line(error)}") from None


def _read_keys(file: pq.ParquetFile) -> Iterator[SampleKey]:
    for batch in file.iter_batches(256, columns=list(_KEYS), use_threads=False):
        ids, prompts, responses = (batch.column(name) for name in _KEYS)
        for i in range(batch.num_rows):
            prompt, response = (
                None if c[i].values is None else c[i].values.to_numpy()
                for c in (prompts, responses)
            )
            yield key_of(ids[i].as_py(), prompt, response)
