"""The config of ``routectl ci``: named checks, each a request of a verb; read and refused whole."""

import tomllib
from collections.abc import Mapping
from dataclasses import Field, dataclass, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args

from ...errors import FormatError, RoutectlError
from ..check.request import CheckRequest
from ..diff.request import DiffRequest
from ..reading import Reading
from ..staleness.request import StalenessRequest

__all__ = ["Check", "CiConfig", "Request", "read_checks"]

Request = DiffRequest | CheckRequest | StalenessRequest
_VERBS: dict[str, type[Request]] = {
    "diff": DiffRequest,
    "check": CheckRequest,
    "staleness": StalenessRequest,
}
_ELSEWHERE = ("reading", "series")  # a series is of many runs: each of its steps can be a check
_NEEDED = ("old", "new", "dump", "at")
_FROM_ONE = ("ep", "mini-steps", "num-layers", "top-k", "num-experts", "threads")
_MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Check:
    """A named check: its verb, and the request with paths as the config has them."""

    name: str
    verb: str
    request: Request


@dataclass(frozen=True, slots=True)
class CiConfig:
    """A config that makes sense: ``path``, where accepted numbers are kept, and its checks."""

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
        if path.stat().st_size > _MAX_BYTES:
            raise FormatError(f"{path}: more than {_MAX_BYTES} bytes of TOML")
        found: Any = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror}") from None
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
    of_verb = {_key(f): f for f in fields(_VERBS[verb]) if f.name not in _ELSEWHERE}
    of_reading = {_key(f): f for f in fields(Reading)}
    known = of_verb | of_reading
    words = {key: value for key, value in table.items() if key != "verb"}
    _refuse_unknown(words, tuple(known), where)
    for key in _NEEDED:
        if key in of_verb and key not in words:
            raise FormatError(f"{where}: {key} is not given")
    given = {known[k].name: _value(f"{where}: {k}", v, known[k].type) for k, v in words.items()}
    return Check(name, verb, _request(where, _VERBS[verb], given))


def _request(where: str, kind: type[Request], given: dict[str, Any]) -> Request:
    """The request of a check; what it refuses is the config's."""
    names = {field.name for field in fields(Reading)}
    reading = Reading(**{name: value for name, value in given.items() if name in names})
    rest = {name: value for name, value in given.items() if name not in names}
    try:
        _ = reading.facts
        return kind(reading=reading, **rest)
    except RoutectlError as error:
        raise FormatError(f"{where}: {error}", hint=error.hint) from None


def _key(field: "Field[Any]") -> str:
    """An option's name in a config: that of the flag."""
    return field.name.replace("_", "-")


def _value(where: str, value: Any, kind: Any) -> Any:
    """A TOML value as the type of an option: one string stands for a list of one."""
    kinds = [part for part in get_args(kind) if part is not NoneType]
    wanted = kinds[0] if isinstance(kind, UnionType) else kind
    if wanted in (str, Path) and isinstance(value, str) and value:
        return wanted(value)
    if wanted == tuple[str, ...] and isinstance(value, str) and value:
        return (value,)
    if (
        wanted == tuple[str, ...]
        and isinstance(value, list)
        and all(isinstance(one, str) and one for one in value)
    ):
        return tuple(value)
    if wanted is bool and isinstance(value, bool):
        return value
    if wanted in (int, float) and isinstance(value, int | wanted) and not isinstance(value, bool):
        least = int(where.endswith(tuple(f" {key}" for key in _FROM_ONE)))
        if value < least:
            raise FormatError(f"{where}: got {value}, expected at least {least}")
        return value
    words = {
        str: "a string",
        Path: "a path",
        int: "an integer",
        float: "a number",
        bool: "true or false",
    }
    raise FormatError(f"{where}: got {_kind(value)}, expected {words.get(wanted, 'strings')}")


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
    return "an empty string" if value == "" else kinds.get(type(value), type(value).__name__)
