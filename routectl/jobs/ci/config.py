"""The config of ``routectl ci``: named checks, each a request of a verb; read and refused whole."""

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, get_args

import msgspec

from ...errors import FormatError, RoutectlError, did_you_mean, misspelt
from ...files.places import place_of
from ...files.reading import read_text
from ..check.request import CheckRequest
from ..diff.request import DiffRequest
from ..options import build, check_bounds, groups_of, options_of
from ..spellings import key_now
from ..staleness.request import StalenessRequest

__all__ = ["Check", "CiConfig", "Request", "read_checks"]

Request = DiffRequest | CheckRequest | StalenessRequest
_VERBS: dict[str, type[Request]] = {
    "diff": DiffRequest,
    "check": CheckRequest,
    "staleness": StalenessRequest,
}
# Of many runs, of data, of no dump, of a part of one.
_ELSEWHERE = ("series", "save", "rules", "shard", "partial")
_NEEDED = ("dump", "at")  # that a staleness may go without, with a series
_MAX_BYTES = 1 << 20
_MAX_DOTS = 3000**2
_MOST_TOLD = 5
_STRINGS = tuple[str, ...]
_ANOTHER = "routectl ci CONFIG.toml reads another file"


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
    if not isinstance(baseline, str) or not baseline or "\0" in baseline:
        raise FormatError(f"{path}: baseline: got {_kind(baseline)}, expected a path")
    checks = table.get("checks")
    if not isinstance(checks, dict) or not checks:
        raise FormatError(f"{path}: no check in it: expected tables [checks.NAME]")
    found: list[Check] = []
    wrong: list[str] = []
    for name, words in checks.items():
        try:
            found.append(_check(name, words))
        except _WrongError as error:
            wrong += [f"checks.{name}: {line}" for line in error.lines]
    if wrong:
        raise FormatError(f"{path}: {_told(wrong)}")
    return CiConfig(path, path.parent / baseline, tuple(found))


class _WrongError(Exception):
    """What is wrong with a check, a line each."""

    def __init__(self, *lines: str) -> None:
        super().__init__(*lines)
        self.lines = lines


def _told(wrong: list[str]) -> str:
    """All that is wrong, on one line."""
    left = len(wrong) - _MOST_TOLD
    more = f"; and {left} more" if left > 0 else ""
    return "; ".join(wrong[:_MOST_TOLD]) + more


def _table(path: Path) -> dict[str, Any]:
    """The table of routectl in a file."""
    try:
        text = read_text(path, _MAX_BYTES, f"more than {_MAX_BYTES} bytes of TOML")
        if sum(part.count(".") ** 2 for part in re.split("[=\n]", text)) > _MAX_DOTS:
            raise ValueError("keys of too many parts")  # which take the square of their number
        found: Any = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: not TOML: {error}") from None
    except RoutectlError as error:
        error.hint = error.hint or (_ANOTHER if path.name == "pyproject.toml" else None)
        raise
    if path.name != "pyproject.toml":
        return found  # type: ignore[no-any-return]
    for name in ("tool", "routectl"):
        found = found.get(name) if isinstance(found, dict) else None
    if not isinstance(found, dict):
        raise FormatError(
            f"{path}: no table [tool.routectl] in it",
            hint=_ANOTHER,
        )
    return found


def _refuse_unknown(table: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in table:
        if key not in known:
            raise FormatError(f"{where}: {_not_known(key, key, sorted(known))}")


def _not_known(told: str, word: object, known: Iterable[str]) -> str:
    """That a word is none of the known ones, and which is near, or what they are."""
    return str(misspelt(f"{told} is not known", word, known, ValueError))


def _check(name: str, table: Any) -> Check:
    """One table as a check. Raises _WrongError with all that its keys are."""
    if not isinstance(table, dict):
        raise _WrongError(f"got {_kind(table)}, expected a table")
    if not name or not name.isprintable() or set(name) & set("[]/"):
        raise _WrongError("a name is printable, and has none of [ ] /")
    called = _verb_key(table)
    wrong = [] if called in ("verb", None) else [f"{called} is not known: did you mean verb?"]
    verb = None if called is None else table[called]
    if not isinstance(verb, str) or verb not in _VERBS:
        told = f"verb is not given: {', '.join(_VERBS)}"
        if called is not None:
            told = _not_known(f"verb {verb!r}", verb, _VERBS)
        raise _WrongError(*wrong, told, *_of_no_verb(table, called))
    known = dict(_keys(_VERBS[verb]))
    given: dict[str, Any] = {}
    wrong += [f"{key} is not given" for key, one in known.items() if one[2] and key not in table]
    for key, value in table.items():
        if key == called:
            continue
        if key not in known:
            new = key_now(verb, key)
            wrong.append(
                _not_known(key, key, sorted(known)) if new is None else f"{key} is now: {new}"
            )
            continue
        try:
            given[known[key][0]] = _value(value, known[key][1])
        except ValueError as error:
            wrong.append(f"{key}: {error}")
    wrong += _wrong_limits(_VERBS[verb], given)
    if wrong:
        raise _WrongError(*wrong)
    try:
        request = build(_VERBS[verb], given)
        check_bounds(request)
    except RoutectlError as error:
        raise _WrongError(_hinted(error)) from None
    return Check(name, verb, request)


def _verb_key(table: Mapping[str, Any]) -> str | None:
    """The key that says the verb, or that is near to it; None where there is none."""
    near = (key for key in table if did_you_mean(key, ["verb"]))
    return "verb" if "verb" in table else next(near, None)


def _of_no_verb(table: Mapping[str, Any], called: str | None) -> Iterator[str]:
    """What is wrong with keys of a check whose verb is not known: those that no verb has."""
    known = sorted({key for kind in _VERBS.values() for key, _ in _keys(kind)})
    old = {key for key in table for verb in _VERBS if key_now(verb, key) is not None}
    for key in table:
        if key not in (*known, *old, called):
            near = did_you_mean(key, known)
            yield f"{key} is not known" + (f": {near}" if near else "")


def _wrong_limits(kind: type[Request], given: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with each threshold, whatever else is."""
    needed = dict.fromkeys(("dump", "old", "new"), "-")
    for name in ("fail_over", "fail_under"):
        for text in given.get(name, ()):
            try:
                build(kind, {**needed, name: (text,)})
            except RoutectlError as error:
                yield _hinted(error)


def _hinted(error: RoutectlError) -> str:
    return str(error) + (f" ({error.hint})" if error.hint else "")


def _keys(kind: Any) -> Iterator[tuple[str, tuple[str, Any, bool]]]:
    """The keys of a verb, named as its flags: of each the field, its type, whether it must be."""
    for one, about in options_of(kind):
        key = about.flag
        if key not in _ELSEWHERE:
            yield key, (one.name, one.type, one.default is MISSING or key in _NEEDED)
    for group in groups_of(kind).values():
        yield from _keys(group)


def _value(value: Any, kind: Any) -> Any:
    """A TOML value as the type of an option: one string stands for a list of one.

    Raises ValueError for another one.
    """
    if kind == _STRINGS and isinstance(value, str):
        value = [value]
    elif str in get_args(kind) and kind != _STRINGS:  # what may be text is text here
        kind = str | None
    for text in value if isinstance(value, list) else [value]:
        if text == "":
            raise ValueError("got an empty string, expected a string")
        if isinstance(text, str) and "\0" in text:
            raise ValueError("got a string with a NUL in it")
    return msgspec.convert(value, kind, dec_hook=_path)


def _path(kind: Any, value: Any) -> Path:
    """What msgspec does not know by itself."""
    if kind is not Path or not isinstance(value, str):
        raise ValueError(f"Expected a path, got `{type(value).__name__}`")
    return place_of(value)


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
