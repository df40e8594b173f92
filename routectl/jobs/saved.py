"""A report that was saved, read again: strict JSON, of the types of its schema.

Within a schema's number keys are only added. So a report of before may lack some, and one of after
may have more: what is there is held to its type, what came later and is read is filled in with what
a report of before says by not having it, and whoever reads a report misses what else it needs.
"""

from collections.abc import Iterator
from copy import deepcopy
from functools import reduce
from operator import or_
from pathlib import Path
from types import UnionType
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    TypedDict,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

import msgspec

from ..errors import FormatError
from ..files.reading import read_bytes
from ..formats.documents.kinds import kind_in_words
from ..formats.documents.size import check_json
from ..visible import quoted

if TYPE_CHECKING:
    from ..reports.document import Document

__all__ = ["read_report"]

_MAX_BYTES = 1 << 30
_ALL = "*"  # every element of a list
_LATER: dict[str, tuple[tuple[str, Any], ...]] = {  # keys that a schema got later, and then needed
    "routectl.show/1": (
        ("row_counts", {}),
        ("samples_merged", 0),
        ("segments", 0),
        ("segment_rows_differing", 0),
        ("damaged", None),
        ("layers.*.lift", None),
    ),
    "routectl.checkpoint/1": (("refused", None),),
    "routectl.check/1": (
        ("by_tokens", None),
        ("counts.undecided", 0),
        ("findings.*.facts", {}),
        ("findings.*.places.*.note", None),
    ),
    "routectl.staleness/1": (("gain", {"versions": [], "unmeasured": []}),),
    "routectl.verify/1": (
        ("extra_files", []),
        ("faults", []),
        ("changed_files", []),
        ("rows_missing", 0),
        ("rows_made_up", 0),
        ("moves", []),
        ("suspects_of", None),
        ("wrong", []),
        ("wrong.*.holds", None),
    ),
}


def read_report(path: Path, *wanted: str) -> "Document":
    """A report that was written with --json, of one of the ``wanted`` schemas.

    Raises FormatError where it is no JSON object, of another schema, or where a value has not the
    type that the schema says: the line says where. Keys may be missing, of which those that came
    later are filled in; keys that no schema has are kept.
    """
    try:
        data = read_bytes(path, _MAX_BYTES, f"more than {_MAX_BYTES} bytes of JSON")
        check_json(data, str(path))
        found: Any = msgspec.json.decode(data)
    except ValueError as error:
        kind = kind_in_words(path)
        what = f"not JSON: {error}" if kind == "JSON" else f"got {kind}, expected a report in JSON"
        raise FormatError(f"{path}: {what}") from None
    if not isinstance(found, dict):
        raise FormatError(f"{path}: got a JSON {type(found).__name__}, expected a report")
    schema = found.get("schema")
    if not isinstance(schema, str) or schema not in wanted:
        raise FormatError(
            f"{path}: got schema {quoted(schema)}, expected "
            f"{'one of ' if len(wanted) > 1 else ''}{', '.join(wanted)}"
        )
    try:
        msgspec.convert(found, _as_far_as_there(_types()[schema]))
    except (msgspec.ValidationError, RecursionError) as error:
        raise FormatError(f"{path}: not a whole report of {schema}: {error}") from None
    for place, value in _LATER.get(schema, ()):
        *outer, key = place.split(".")
        for entry in _entries(found, outer):
            entry.setdefault(key, deepcopy(value))
    return found


def _entries(value: Any, place: list[str]) -> Iterator[dict[str, Any]]:
    """The objects at a place of a document, as far as they are there."""
    if not place:
        if isinstance(value, dict):
            yield value
        return
    name, *rest = place
    if name == _ALL:
        for one in value if isinstance(value, list) else ():
            yield from _entries(one, rest)
    elif isinstance(value, dict) and name in value:
        yield from _entries(value[name], rest)


def _types() -> dict[str, Any]:
    """The type of each schema that is read again."""
    from ..reports.beside.schema import BesideDocument
    from ..reports.cache.schema import CacheDocument
    from ..reports.check.schema import CheckDocument
    from ..reports.ci.schema import BaselineDocument, CiDocument
    from ..reports.diff.schema import DiffDocument
    from ..reports.pack.schema import VerifyDocument
    from ..reports.predict.schema import PredictDocument
    from ..reports.recompute.schema import RecomputeDocument
    from ..reports.show.schema import (
        CheckpointDocument,
        LoadsDocument,
        OutlineDocument,
        ShowDocument,
    )
    from ..reports.staleness.schema import SeriesDocument, StalenessDocument

    return {
        "routectl.diff/1": DiffDocument,
        "routectl.check/1": CheckDocument,
        "routectl.staleness/1": StalenessDocument,
        "routectl.staleness_series/1": SeriesDocument,
        "routectl.show/1": ShowDocument,
        "routectl.checkpoint/1": CheckpointDocument,
        "routectl.outline/1": OutlineDocument,
        "routectl.loads/1": LoadsDocument,
        "routectl.predict/1": PredictDocument,
        "routectl.recompute/1": RecomputeDocument,
        "routectl.verify/1": VerifyDocument,
        "routectl.ci/1": CiDocument,
        "routectl.beside/1": BesideDocument,
        "routectl.cache/1": CacheDocument,
        "routectl.baseline/1": BaselineDocument,
    }


def _as_far_as_there(kind: Any) -> Any:
    """A type of which every key of every TypedDict may be missing."""
    if is_typeddict(kind):
        fields = {
            name: _as_far_as_there(one)
            for name, one in get_type_hints(kind).items()  # without NotRequired
        }
        return TypedDict(kind.__name__, fields, total=False)  # type: ignore[operator]
    parts = tuple(map(_as_far_as_there, get_args(kind)))
    origin = get_origin(kind)
    if origin is None or origin is Literal:
        return kind
    return reduce(or_, parts) if origin in (UnionType, Union) else origin[parts]
