"""A report that was saved, read again: strict JSON, of the types of its schema.

Within a schema's number keys are only added. So a report of before may lack some, and one of after
may have more: what is there is held to its type, and whoever reads a report misses what it needs.
"""

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
from ..formats.documents.size import check_json
from ..visible import quoted

if TYPE_CHECKING:
    from ..reports.document import Document

__all__ = ["read_report"]

_MAX_BYTES = 1 << 30


def read_report(path: Path, *wanted: str) -> "Document":
    """A report that was written with --json, of one of the ``wanted`` schemas.

    Raises FormatError where it is no JSON object, of another schema, or where a value has not the
    type that the schema says: the line says where. Keys may be missing; those that no schema has
    are kept.
    """
    try:
        data = read_bytes(path, _MAX_BYTES, f"more than {_MAX_BYTES} bytes of JSON")
        check_json(data, str(path))
        found: Any = msgspec.json.decode(data)
    except ValueError as error:
        raise FormatError(f"{path}: not JSON: {error}") from None
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
    return found


def _types() -> dict[str, Any]:
    """The type of each schema that is read again."""
    from ..reports.check.schema import CheckDocument
    from ..reports.ci.schema import BaselineDocument, CiDocument
    from ..reports.diff.schema import DiffDocument
    from ..reports.pack.schema import VerifyDocument
    from ..reports.predict.schema import PredictDocument
    from ..reports.recompute.schema import RecomputeDocument
    from ..reports.show.schema import CheckpointDocument, ShowDocument
    from ..reports.staleness.schema import SeriesDocument, StalenessDocument

    return {
        "routectl.diff/1": DiffDocument,
        "routectl.check/1": CheckDocument,
        "routectl.staleness/1": StalenessDocument,
        "routectl.staleness_series/1": SeriesDocument,
        "routectl.show/1": ShowDocument,
        "routectl.checkpoint/1": CheckpointDocument,
        "routectl.predict/1": PredictDocument,
        "routectl.recompute/1": RecomputeDocument,
        "routectl.verify/1": VerifyDocument,
        "routectl.ci/1": CiDocument,
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
