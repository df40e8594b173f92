"""A report that was saved, read again."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FormatError
from ..files.reading import read_text

if TYPE_CHECKING:
    from ..reports.document import Document

__all__ = ["read_report"]

_MAX_BYTES = 1 << 30


def read_report(path: Path) -> "Document":
    """A report that was written with --json. Raises FormatError where it is no JSON object."""
    try:
        found: Any = json.loads(
            read_text(path, _MAX_BYTES, f"more than {_MAX_BYTES} bytes of JSON")
        )
    except (ValueError, RecursionError):
        raise FormatError(f"{path}: not JSON") from None
    if not isinstance(found, dict):
        raise FormatError(f"{path}: got a JSON {type(found).__name__}, expected a report")
    return found
