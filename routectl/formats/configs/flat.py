"""A config of any form as one flat table: ``a.b.c`` is c of the table b of the table a."""

import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from ...errors import FormatError, UnsupportedError, extra_hint
from ...files.reading import read_text
from ..documents.fields import from_json, one_line
from .script import script_settings

__all__ = ["Flat", "read_flat"]

Flat = dict[str, Any]
_MAX_BYTES = 4 << 20
_MAX_SETTINGS = 100_000  # an alias of YAML names a table again and again
_MAX_DEPTH = 64
_MAX_DOTS = 3000**2
_FORMS = {".toml": "TOML", ".yaml": "YAML", ".yml": "YAML", ".json": "JSON"}


def read_flat(path: Path) -> Flat:
    """The settings of a TOML, YAML or JSON file; of any other the options of its command lines.

    A list of ``a.b=c`` (hydra's overrides.yaml) is a table of them. Values are what the form gives:
    numbers, text, booleans, None, lists. Raises FormatError for what is none of these, and
    UnsupportedError for YAML where PyYAML is not installed.
    """
    form = _FORMS.get(path.suffix.lower(), "text")
    try:
        text = read_text(path, _MAX_BYTES, f"more than {_MAX_BYTES} bytes: no config")
        if form == "text":
            return script_settings(text)
        found = _decoded(text, form, str(path))
        if isinstance(found, list) and all(isinstance(one, str) for one in found):
            return script_settings("\n".join(found))
        if not isinstance(found, dict):
            raise ValueError(f"got {type(found).__name__}, expected a table")
        return _flattened(found)
    except ImportError:
        raise UnsupportedError(
            f"{path}: YAML needs PyYAML, which is not installed",
            hint=extra_hint("trainers"),
        ) from None
    except (ValueError, RecursionError, msgspec.DecodeError) as error:
        raise FormatError(f"{path}: not {form} of a config: {one_line(error)}") from None


def _decoded(text: str, form: str, where: str) -> Any:
    if form == "JSON":
        return from_json(text, where)
    if form == "TOML":
        if sum(part.count(".") ** 2 for part in re.split("[=\n]", text)) > _MAX_DOTS:
            raise ValueError("keys of too many parts")  # which take the square of their number
        return tomllib.loads(text)
    return msgspec.yaml.decode(text)


def _flattened(found: Any) -> Flat:
    """Each setting of a table and of those in it, by its whole name, in their order."""
    flat: Flat = {}
    open_tables = [iter([("", found)])]
    seen = 0
    while open_tables:
        entry = next(open_tables[-1], None)
        if entry is None:
            open_tables.pop()
            continue
        name, value = entry
        seen += 1
        if seen > _MAX_SETTINGS or len(open_tables) > _MAX_DEPTH:
            raise ValueError(f"more than {_MAX_SETTINGS} settings, or tables too deep")
        if isinstance(value, dict):
            above = f"{name}." if name else ""
            open_tables.append(iter([(f"{above}{key}", inner) for key, inner in value.items()]))
        else:
            flat[name] = value
    return flat
