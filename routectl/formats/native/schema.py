"""The columns and the metadata of a native file.

Schema metadata key ``routectl`` holds everything of DumpMeta as JSON; docs/formats.md is the
contract.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pyarrow as pa
from msgspec import UNSET, UnsetType

from ...dump import DumpMeta
from ...errors import FormatError, UnsupportedError
from ..documents.fields import from_json, one_line
from ..documents.forms import unlike

__all__ = [
    "COLUMNS",
    "DIGEST",
    "FACTS",
    "CodedAbout",
    "NativeAbout",
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
DIGEST = "routectl.digest"  # in the footer: of all routes
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
    """What a coded file says of its coding: the codec asked for, whether rows were sorted, the
    base's path, relative to the file's folder, and the digest of its dictionary, in hex.
    """

    codec: str
    sorted: bool
    base: str | None
    dictionary: str | None = None


class NativeAbout(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """The routectl block of the schema metadata, as JSON, its keys in this order.

    source says what was converted; kinds and gates are there where ``schema`` does not tell them,
    codec, sorted and base where ids are coded, dictionary where they are with one.
    """

    schema: str
    layers: Annotated[tuple[Annotated[int, msgspec.Meta(ge=0)], ...], msgspec.Meta(min_length=1)]
    num_experts: Annotated[int, msgspec.Meta(ge=1, le=65536)]
    top_k: Annotated[int, msgspec.Meta(ge=1)]
    engine: str | None
    engine_version: str | None
    model: str | None
    id_space: Annotated[str, msgspec.Meta(min_length=1)]
    wire_dtype: str | None
    source: Any = None
    order: Literal["unknown", "score"] = "unknown"  # dump.ORDERS
    num_layers: int | None = None
    provenance: dict[str, str] = {}
    kinds: Literal[1, 2, 3] | UnsetType = UNSET
    gates: bool | UnsetType = UNSET
    codec: str | UnsetType = UNSET
    sorted: bool | UnsetType = UNSET
    base: str | UnsetType | None = UNSET
    dictionary: str | UnsetType = UNSET

    @property
    def coded(self) -> CodedAbout | None:
        """How ids are coded; None: plain. Raises ValueError where that is not said."""
        if self.schema != CODED:
            return None
        codec, is_sorted, base = self.codec, self.sorted, self.base
        if codec is UNSET or is_sorted is UNSET or base is UNSET:
            raise ValueError("codec, sorted or base is not there")
        dictionary = None if self.dictionary is UNSET else self.dictionary
        return CodedAbout(codec, is_sorted, base, dictionary)

    @property
    def with_gates(self) -> bool:
        """Whether there are gate log-probabilities."""
        return self.gates is True if self.schema == CODED else self.schema == WITH_GATES

    @property
    def num_kinds(self) -> int:
        """How many columns a layer has (see kinds_of). Raises ValueError where that is not said."""
        if self.schema in SCHEMAS:
            return SCHEMAS.index(self.schema) + 1
        if self.kinds is UNSET:
            raise ValueError("kinds is not there")
        return self.kinds

    def fits(self) -> bool:
        """Whether layers ascend, and all sizes fit together."""
        layers = self.layers
        deep = self.num_layers is None or self.num_layers > max(layers)
        ascending = list(layers) == sorted(set(layers))
        said = self.schema != CODED or self.gates is not UNSET
        return deep and ascending and said and self.top_k <= self.num_experts


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
    about = NativeAbout(
        schema=CODED if coded else plain,
        layers=meta.layers_L,
        num_experts=meta.num_experts,
        top_k=meta.top_k,
        source={name: getattr(meta, name) for name in _SOURCE},
        order=meta.order,  # type: ignore[arg-type]
        num_layers=meta.num_layers,
        provenance=dict(meta.provenance),
        kinds=kinds_of(meta) if meta.gates or coded else UNSET,  # type: ignore[arg-type]
        gates=meta.gates if coded else UNSET,
        codec=coded.codec if coded else UNSET,
        sorted=coded.sorted if coded else UNSET,
        base=coded.base if coded else UNSET,
        dictionary=coded.dictionary or UNSET if coded else UNSET,
        **{name: getattr(meta, name) for name in FACTS},
    )
    columns = [
        *COLUMNS,
        *columns_of_layers(meta.layers_L, kinds_of(meta), meta.gates, coded is not None),
    ]
    block = json.dumps(msgspec.to_builtins(about))
    return pa.schema([pa.field(*column) for column in columns], metadata={"routectl": block})


def read_schema(path: Path, schema: pa.Schema) -> NativeAbout:
    """The routectl block of the schema metadata, checked against the columns.

    Raises UnsupportedError for another program's Parquet or a newer container, FormatError for
    damage.
    """
    block = (schema.metadata or {}).get(b"routectl")
    if block is None:
        raise UnsupportedError(
            f"{path}: a Parquet file of another program: no 'routectl' entry in its schema "
            "metadata: "
            f"{unlike(schema.names, 'parquet')}"
        )
    try:
        doc = from_json(block)
        version, known = doc["schema"], (*SCHEMAS, WITH_GATES, CODED)
        if version not in known:
            raise UnsupportedError(
                f"{path}: container {one_line(version)}, this routectl reads {', '.join(known)}"
            )
        about = msgspec.convert(doc, NativeAbout)
        of_layers = about.num_kinds, about.with_gates, about.coded is not None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        why = f": {one_line(error)}" if isinstance(error, msgspec.ValidationError) else ""
        raise FormatError(f"{path}: damaged: the schema metadata cannot be read{why}") from None
    columns = [*COLUMNS, *columns_of_layers(about.layers, *of_layers)]
    if not about.fits() or [(field.name, field.type) for field in schema] != columns:
        raise FormatError(f"{path}: damaged: the schema metadata does not fit the columns")
    return about
