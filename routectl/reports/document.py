"""What all reports share: documents as JSON text, and what each says of dumps and thresholds.

docs/json.md is the contract. Undefined figures are null; nan and infinity never appear: the figure
is null too then, and ``not_finite`` beside it says so. A document is a plain dict, whose type is in
the ``schema`` of its capability.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict, TypeVar

from ..visible import visible

if TYPE_CHECKING:
    from ..dump import DumpMeta
    from ..ops.diff.thresholds import Failure

__all__ = [
    "AskedEntry",
    "CountedRows",
    "Document",
    "DumpEntry",
    "FailureEntry",
    "IntervalEntry",
    "PartEntry",
    "dump_document",
    "failure_entries",
    "finite",
    "not_finite",
    "to_json",
    "to_line",
    "visible_document",
]

Document = Any  # one of any schema, for what hands documents on and does not look into them
Value = TypeVar("Value")
_FLAT_LIST = re.compile(r"\[\n +([^\[\]{}]*?)\n +\]")  # a line break is never inside a string
_BREAK = re.compile(r",\n +")
_MARK = re.compile(r"#(?=#\w*\[)")  # a log's reader looks for ##[ and its like anywhere in a line
_ESCAPE = re.compile(r"\\\\|\\ud[89ab]..\\ud[c-f]..|\\(ud[89a-f]..)")
_LONGEST = 1000
_HOLDS_TEXT = (str, dict, list, tuple)


class AskedEntry(TypedDict):
    """What was typed: inputs by their place; options, each with its flag, and its value if any."""

    inputs: list[str]
    options: list[list[str]]


class PartEntry(TypedDict):
    """Which part, from 1, of how many an answer is of: --shard without --partial."""

    part: int
    of: int


class CountedRows(TypedDict):
    """Compared rows, those whose sets differ, and the share."""

    rows: int
    rows_mismatched: int
    mismatch_rate: float | None


class DumpEntry(TypedDict):
    """A dump that a document is about; what is not required is there where it says something."""

    path: str
    samples: int
    layers: list[int]
    format: str
    num_experts: int
    top_k: int
    engine: str | None
    engine_version: str | None
    model: str | None
    id_space: str
    wire_dtype: str | None
    facts_source: str | None
    file_bytes: int | None
    skipped: list[str]
    order: NotRequired[str]
    margins: NotRequired[bool]
    group_margins: NotRequired[bool]
    gates: NotRequired[bool]
    provenance: NotRequired[dict[str, str]]
    codec: NotRequired[str]


class IntervalEntry(TypedDict):
    """Where a figure lies; the level is that of the whole document."""

    low: float
    high: float


class FailureEntry(TypedDict):
    """A threshold that was crossed; not_finite, where value is null, says what it is."""

    threshold: str
    metric: str
    layer: int | None
    value: float | None
    limit: float | None
    not_finite: NotRequired[str]


def finite(value: Value) -> Value:
    """The value with every float that JSON cannot hold as None."""
    plain: Any = value
    if isinstance(plain, dict):
        plain = {k: finite(v) for k, v in plain.items()}
    elif isinstance(plain, list | tuple):
        plain = [finite(v) for v in plain]
    elif isinstance(plain, float) and not math.isfinite(plain):
        plain = None
    return plain  # type: ignore[no-any-return]


def not_finite(figures: Mapping[str, Any]) -> dict[str, str]:
    """The figures that JSON cannot hold, by name: "inf", "-inf" or "nan"; ``float`` reads them."""
    return {
        name: str(float(value))
        for name, value in figures.items()
        if isinstance(value, float) and not math.isfinite(value)
    }


def to_json(document: Document) -> str:
    """The document as text in ASCII, keys in the order of docs/json.md, flat lists on one line.

    Of a name that is no UTF-8, what strict readers of JSON refuse is escaped as it is shown.
    """
    text = _whole(json.dumps(document, indent=2, allow_nan=False))
    text = _FLAT_LIST.sub(lambda m: f"[{_BREAK.sub(', ', m[1])}]", text)
    return _MARK.sub(r"\\u0023", text) + "\n"


def to_line(document: Document) -> str:
    """The document as one line of JSON in ASCII, without its end."""
    return _MARK.sub(r"\\u0023", _whole(json.dumps(document, allow_nan=False)))


def _whole(text: str) -> str:
    """JSON in ASCII, in which half of a surrogate pair is its escape as text."""
    return _ESCAPE.sub(lambda m: rf"\\{m[1]}" if m[1] else m[0], text) if "\\ud" in text else text


def visible_document(document: Document) -> Document:
    """The document as text may show it: each string, keys too, visible and cut at 1,000 characters.

    Whoever renders a document renders this one, so that no renderer can forget.
    """
    if isinstance(document, str):
        return visible(document, _LONGEST, end=_LONGEST // 4)
    if isinstance(document, list | tuple):
        return [visible_document(v) if isinstance(v, _HOLDS_TEXT) else v for v in document]
    if not isinstance(document, dict):
        return document
    found: Document = {}
    for name, value in document.items():
        shown = name = visible_document(name)
        while name in found:  # two that differ in what is cut
            name = f"{shown} ({len(found)})"
        found[name] = visible_document(value) if isinstance(value, _HOLDS_TEXT) else value
    return found


def dump_document(meta: "DumpMeta", samples: int) -> DumpEntry:
    """What a document says of a dump that it is about."""
    entry: DumpEntry = {
        "path": meta.path,
        "samples": samples,
        "layers": list(meta.layers_L),
        "format": meta.format,
        "num_experts": meta.num_experts,
        "top_k": meta.top_k,
        "engine": meta.engine,
        "engine_version": meta.engine_version,
        "model": meta.model,
        "id_space": meta.id_space,
        "wire_dtype": meta.wire_dtype,
        "facts_source": meta.facts_source,
        "file_bytes": meta.file_bytes,
        "skipped": list(meta.skipped),
    }
    if meta.order != "unknown":
        entry["order"] = meta.order
    if meta.margins:
        entry["margins"] = True
    if meta.group_margins:
        entry["group_margins"] = True
    if meta.gates:
        entry["gates"] = True
    if meta.provenance:
        entry["provenance"] = dict(meta.provenance)
    if meta.codec is not None:
        entry["codec"] = meta.codec
    return entry


def failure_entries(failures: "Iterable[Failure]") -> list[FailureEntry]:
    """Thresholds that were crossed, as every verdict lists them."""
    return [_failure_entry(failure) for failure in failures]


def _failure_entry(failure: "Failure") -> FailureEntry:
    entry: FailureEntry = {
        "threshold": failure.threshold,
        "metric": failure.metric,
        "layer": failure.layer,
        "value": failure.value,
        "limit": failure.limit,
    }
    for told in not_finite({"value": failure.value}).values():
        entry["not_finite"] = told
    return finite(entry)
