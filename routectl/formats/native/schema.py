"""The columns and the metadata of a native file.

Schema metadata key ``routectl`` holds everything of DumpMeta as JSON; docs/formats.md is the
contract.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from ...dump import ORDERS, DumpMeta
from ...errors import FormatError, UnsupportedError
from ..documents.fields import one_line

__all__ = [
    "COLUMNS",
    "FACTS",
    "CodedAbout",
    "coded_name",
    "columns_of_layers",
    "gate_name",
    "group_margin_name",
    "kinds_of",
    "layer_name",
    "margin_name",
    "read_schema",
    "schema_of",
]

SCHEMAS = ("routectl.native/1", "routectl.native/2", "routectl.native/3")  # by kinds of columns
WITH_GATES = "routectl.native/4"  # any of the three, and gate log-probabilities
CODED = "routectl.native/5"  # any of the four, ids through a codec
FACTS = ("engine", "engine_version", "model", "id_space", "wire_dtype")
_SOURCE = ("path", "format", "facts_source", "file_bytes", "skipped")  # of what was converted
_SPAN = pa.struct([("version", pa.string()), ("start", pa.int32()), ("end", pa.int32())])
COLUMNS = (
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
_OF_CODED = (
    ("shared_with", pa.int32()),
    ("base_index", pa.int32()),
    ("routes_digest", pa.string()),
)


@dataclass(frozen=True, slots=True)
class CodedAbout:
    """What a coded file says of its coding: the codec asked for, whether rows were sorted, and the
    base's path, relative to the file's folder.
    """

    codec: str
    sorted: bool
    base: str | None


def layer_name(layer: int) -> str:
    """The column of a layer's ids."""
    return f"layer_{layer:03d}"


def margin_name(layer: int) -> str:
    """The column of a layer's margins."""
    return f"margin_{layer:03d}"


def group_margin_name(layer: int) -> str:
    """The column of a layer's group margins."""
    return f"group_margin_{layer:03d}"


def gate_name(layer: int) -> str:
    """The column of a layer's gate log-probabilities."""
    return f"gate_{layer:03d}"


def coded_name(layer: int) -> str:
    """The column of a layer's coded ids."""
    return f"coded_{layer:03d}"


def kinds_of(meta: DumpMeta) -> int:
    """How many columns a layer has: ids; margins; group margins."""
    return 3 if meta.group_margins else 2 if meta.margins else 1


def columns_of_layers(
    layers: Iterable[int], kinds: int, gates: bool, coded: bool
) -> list[tuple[str, pa.DataType]]:
    """The columns of some layers; with gates, one more says which routes they are of."""
    numbers = list(layers)
    names = (coded_name if coded else layer_name, margin_name, group_margin_name)[:kinds]
    columns = [name(n) for name in (*names, *([gate_name] if gates else [])) for n in numbers]
    digest = [("gate_of", pa.string())] if gates else []
    more = _OF_CODED if coded else ()
    return [*((name, pa.binary()) for name in columns), *digest, *more]


def schema_of(meta: DumpMeta, coded: CodedAbout | None) -> pa.Schema:
    """The schema of a file, its metadata included."""
    plain = WITH_GATES if meta.gates else SCHEMAS[kinds_of(meta) - 1]
    about: dict[str, Any] = {
        "schema": CODED if coded else plain,
        "layers": list(meta.layers_L),
        "num_experts": meta.num_experts,
        "top_k": meta.top_k,
        **{name: getattr(meta, name) for name in FACTS},
        "source": {name: getattr(meta, name) for name in _SOURCE},
    }
    if meta.order != ORDERS[0]:
        about["order"] = meta.order
    if meta.num_layers is not None:
        about["num_layers"] = meta.num_layers
    if meta.provenance:
        about["provenance"] = meta.provenance
    if meta.gates or coded:
        about["kinds"] = kinds_of(meta)
    if coded:
        about |= {"gates": meta.gates, "codec": coded.codec, "sorted": coded.sorted}
        about["base"] = coded.base
    columns = [
        *COLUMNS,
        *columns_of_layers(meta.layers_L, kinds_of(meta), meta.gates, coded is not None),
    ]
    return pa.schema(
        [pa.field(*column) for column in columns], metadata={"routectl": json.dumps(about)}
    )


def read_schema(path: Path, schema: pa.Schema) -> dict[str, Any]:
    """The routectl block of the schema metadata, checked against the columns.

    Beside what was written it has ``margins``, ``group_margins``, ``gates``, ``order``,
    ``provenance``, ``num_layers``, and ``coded``: CodedAbout or None. Raises UnsupportedError for
    another program's Parquet or a newer container, FormatError for damage.
    """
    block = (schema.metadata or {}).get(b"routectl")
    if block is None:
        raise UnsupportedError(
            f"{path}: a Parquet file of another program: no 'routectl' entry in its schema metadata"
        )
    try:
        about = json.loads(block)
        version = about["schema"]
        known = (*SCHEMAS, WITH_GATES, CODED)
        if version not in known:
            raise UnsupportedError(
                f"{path}: container {one_line(version)}, this routectl reads {', '.join(known)}"
            )
        coded = version == CODED
        gates = about["gates"] if coded else version == WITH_GATES
        kinds = about["kinds"] if gates or coded else SCHEMAS.index(version) + 1
        about |= {"margins": kinds > 1, "group_margins": kinds > 2, "gates": gates}
        about["coded"] = (
            CodedAbout(*(about[n] for n in ("codec", "sorted", "base"))) if coded else None
        )
        columns = [*COLUMNS, *columns_of_layers(about["layers"], kinds, gates, coded)]
        found = [(field.name, field.type) for field in schema]
        fits = _fits(about) and kinds in (1, 2, 3) and type(gates) is bool
        if not fits or found != columns:
            raise FormatError(f"{path}: damaged: the schema metadata does not fit the columns")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise FormatError(f"{path}: damaged: the schema metadata cannot be read") from None
    return dict(about)


def _fits(about: dict[str, Any]) -> bool:
    """Whether sizes and names are such as a writer writes; fills in what may be left out."""
    layers, experts, top_k = about["layers"], about["num_experts"], about["top_k"]
    sizes = all(type(n) is int and n >= 0 for n in (*layers, experts, top_k))
    fits = layers and layers == sorted(set(layers)) and 1 <= top_k <= experts <= 65536
    named = all(isinstance(about[name], str | None) for name in FACTS) and about["id_space"]
    named = named and about.setdefault("order", ORDERS[0]) in ORDERS
    made = about.setdefault("provenance", {})
    named = named and all(isinstance(text, str) for text in made.values())
    depth = about.setdefault("num_layers", None)
    named = named and (depth is None or (type(depth) is int and depth > max(layers)))
    coded: CodedAbout | None = about["coded"]
    if coded is not None:
        named = named and isinstance(coded.codec, str) and isinstance(coded.base, str | None)
        named = named and isinstance(coded.sorted, bool)
    return bool(sizes and fits and named)
