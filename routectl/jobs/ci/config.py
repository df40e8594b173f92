"""The config of ``routectl ci``: named checks, each a request of a verb; read and refused whole."""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any

import msgspec

from ...errors import FormatError, RoutectlError
from ...files.reading import read_text
from ..check.request import CheckRequest
from ..diff import DiffRequest
from ..options import build, groups_of, options_of
from ..staleness.request import StalenessRequest

__all__ = ["Check", "CiConfig", "Request", "read_checks"]

Request = DiffRequest | CheckRequest | StalenessRequest
_VERBS: dict[str, type[Request]] = {
    "diff": DiffRequest,
    "check": CheckRequest,
    "staleness": StalenessRequest,
}
_ELSEWHERE = ("series",)  # of many runs: each of its steps can be a check
_NEEDED = ("dump", "at")  # that a staleness may go without, with a series
_MAX_BYTES = 1 << 20
_STRINGS = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Check:
    """A named check.

    name     of its table [checks.NAME]
    verb     diff, check or staleness
    request  what that verb is asked, with paths as the config has them
    """

    name: str
    verb: str
    request: Request


@dataclass(frozen=True, slots=True)
class CiConfig:
    """A config that makes sense.

    path      where it was read from
    baseline  where the accepted numbers are kept
    checks    in the order of the file
    """

    path: Path
    baseline: Path
    checks: tuple[Check, ...]


def read_checks(path: Path) -> CiConfig:
    """The checks of a TOML file, or of [tool.routectl] where it is a pyproject.toml.

    Raises FormatError where it is no TOML or says what no check knows.
    """
    table = _table(path)
    _refuse_unknown(table, ("baseline", "checks"), str(path))
    baseline = table.get("baseline", f"{path.stem}.baseline.json")
    if not isinstance(baseline, str) or not baseline:
        raise FormatError(f"{path}: baseline: got {_kind(baseline)}, expected a path")
    checks = table.get("checks")
    if not isinstance(checks, dict) or not checks:
        raise FormatError(f"{path}: no check in it: expected tables [checks.NAME]")
    found = tuple(_check(f"{path}: checks.{name}", name, checks[name]) for name in checks)
    return CiConfig(path, path.parent / baseline, found)


def _table(path: Path) -> dict[str, Any]:
    """The table of routectl in a file."""
    try:
        text = read_text(path, _MAX_BYTES, f"more than {_MAX_BYTES} bytes of TOML")
        found: Any = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: not TOML: {error}") from None
    if path.name != "pyproject.toml":
        return found  # type: ignore[no-any-return]
    for name in ("tool", "routectl"):
        found = found.get(name) if isinstance(found, dict) else None
    if not isinstance(found, dict):
        raise FormatError(
            f"{path}: no table [tool.routectl] in it",
            hint="routectl ci CONFIG.toml reads another file",
        )
    return found


def _refuse_unknown(table: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in table:
        if key not in known:
            raise FormatError(f"{where}: {key} is not known: {', '.join(sorted(known))}")


def _check(where: str, name: str, table: Any) -> Check:
    """One table as a check."""
    if not isinstance(table, dict):
        raise FormatError(f"{where}: got {_kind(table)}, expected a table")
    if not name or not name.isprintable() or set(name) & set("[]/"):
        raise FormatError(f"{where}: a name is printable, and has none of [ ] /")
    verb = table.get("verb")
    if not isinstance(verb, str) or verb not in _VERBS:
        raise FormatError(f"{where}: verb {verb!r} is not known: {', '.join(_VERBS)}")
    known = dict(_keys(_VERBS[verb]))
    words = {key: value for key, value in table.items() if key != "verb"}
    _refuse_unknown(words, tuple(known), where)
    for key, (_, _, needed) in known.items():
        if needed and key not in words:
            raise FormatError(f"{where}: {key} is not given")
    given = {known[k][0]: _value(f"{where}: {k}", v, known[k][1]) for k, v in words.items()}
    try:
        request = build(_VERBS[verb], given)
        _ = request.reading.facts
    except RoutectlError as error:
        raise FormatError(f"{where}: {error}", hint=error.hint) from None
    return Check(name, verb, request)


def _keys(kind: Any) -> Iterator[tuple[str, tuple[str, Any, bool]]]:
    """The keys of a verb, named as its flags: of each the field, its type, whether it must be."""
    for one, about in options_of(kind):
        key = about.flag
        if key not in _ELSEWHERE:
            yield key, (one.name, one.type, one.default is MISSING or key in _NEEDED)
    for group in groups_of(kind).values():
        yield from _keys(group)


def _value(where: str, value: Any, kind: Any) -> Any:
    """A TOML value as the type of an option: one string stands for a list of one."""
    if kind == _STRINGS and isinstance(value, str):
        value = [value]
    if "" in (value if isinstance(value, list) else [value]):
        raise FormatError(f"{where}: got an empty string, expected a string")
    try:
        return msgspec.convert(value, kind, dec_hook=_path)
    except msgspec.ValidationError as error:
        raise FormatError(f"{where}: {error}") from None


def _path(kind: Any, value: Any) -> Path:
    """What msgspec does not know by itself."""
    if kind is not Path or not isinstance(value, str):
        raise ValueError(f"Expected a path, got `{type(value).__name__}`")
    return Path(value)


def _kind(value: Any) -> str:
    """What a TOML value is, in words."""
    kinds = {
        str: "a string",
        bool: "a boolean",
        int: "an integer",
        float: "a number",
        list: "a list",
        dict: "a table",
    }
    return kinds.get(type(value), type(value).__name__)
