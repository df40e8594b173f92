"""A document without what users wrote: no token ids, no texts, no names that read as text."""

import re
from collections.abc import Iterator
from typing import Any, TypeVar

from ..visible import visible

__all__ = ["without_tokens"]

_Value = TypeVar("_Value")
_PLAIN = re.compile(r"[\w.:/#@+=~-]{1,128}", re.ASCII)  # a name that is no text
_NAMES = ("sample", "sample_id", "group_id")
_NAMING = "--sample"  # the option that has a name
_ABSENT = ("token_texts",)
_NULL = ("token_ids",)
_REASONS = ("reason", "why", "skipped")  # of damage, which quote what they found
_FOUND = re.compile(r"'[^']*'|\"[^\"]*\"|\[[^\]]*\]|\{[^}]*\}")
_SHORTEST = 3  # characters of a name that is looked for in texts: a space is everywhere
_QUOTED = 12  # characters of a name that tell that a text quotes it, cut short
_WITHHELD = "(withheld: it quotes a name that reads as text)"


def without_tokens(document: _Value) -> _Value:
    """The document with token ids as null, no token texts, and withheld names.

    A sample's name that is not of letters, digits and ``._:/#@+=~-``, or has more than 128 of them,
    may be a text: it becomes ``(name N withheld)``, here and in every text that quotes it. Why a
    sample is damaged is said without the values that were found.
    """
    found = [name for name in dict.fromkeys(_names(document)) if name]
    names = [name for name in found if not _PLAIN.fullmatch(name)]
    told = {name: f"(name {i} withheld)" for i, name in enumerate(names, 1)}
    told |= {visible(name): words for name, words in told.items()}
    reduced: _Value = _reduced(document, told)
    return reduced


def _names(value: Any) -> Iterator[str]:
    """Every name of a sample or a group in a document."""
    if isinstance(value, list):
        for item in value:
            yield from _names(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key in _NAMES and isinstance(item, str):
                yield item
            elif key == "asked":
                yield from (one[1] for one in item["options"] if one[0] == _NAMING)
            else:
                yield from _names(item)
        yield from _names_of_table(value)


def _names_of_table(table: dict[str, Any]) -> Iterator[str]:
    """The names in a table of columns and rows."""
    columns = table.get("columns")
    if isinstance(columns, list) and "sample" in columns:
        place = columns.index("sample")
        yield from (str(row[place]) for row in table["rows"])


def _reduced(value: Any, told: dict[str, str]) -> Any:
    if isinstance(value, str):
        return _text(value, told)
    if isinstance(value, list):
        return [_reduced(item, told) for item in value]
    if isinstance(value, dict):
        return {
            _text(key, told): None if key in _NULL else _reduced(_unquoted(key, item), told)
            for key, item in value.items()
            if key not in _ABSENT
        }
    return value


def _unquoted(key: str, value: Any) -> Any:
    """A reason, or a list of them, without the values that it quotes."""
    if key not in _REASONS:
        return value
    if isinstance(value, list):
        return [_unquoted(key, item) for item in value]
    return _FOUND.sub("(withheld)", value) if isinstance(value, str) else value


def _text(text: str, told: dict[str, str]) -> str:
    """A text with names replaced; one that quotes the beginning of a name is withheld whole."""
    if text in told:
        return told[text]
    for name in sorted(told, key=len, reverse=True):
        text = text.replace(name, told[name]) if len(name) >= _SHORTEST else text
    quotes = any(len(name) > _QUOTED and name[:_QUOTED] in text for name in told)
    return _WITHHELD if quotes else text
