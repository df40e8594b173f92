"""A document as JSON text."""

import json
import re
from typing import Any

__all__ = ["to_json"]

_FLAT_LIST = re.compile(r"\[\n +([^\[\]{}]*?)\n +\]")  # a line break is never inside a string
_BREAK = re.compile(r",\n +")


def to_json(document: dict[str, Any]) -> str:
    """The document as text, keys in the order of docs/json.md, flat lists on one line."""
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    return _FLAT_LIST.sub(lambda m: f"[{_BREAK.sub(', ', m[1])}]", text) + "\n"
