"""A dump as a user names it: a path, and behind ``::`` what it does not say itself."""

import glob
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ..errors import RoutectlError, check_choice, misspelt
from ..files.places import is_there

__all__ = ["STDIN", "Input", "parse_input"]

STDIN = "/dev/stdin"  # with options, the same as -
_MARK = "::"
_NEXT = re.compile(r",(?=[a-z_-]+=)")
_KNOWN = ("start", "format", "base", "tokens", "dictionary", "expert_map")


@dataclass(frozen=True, slots=True)
class Input:
    """One dump, ``PATH::start=0,format=npz,base=B,tokens=FILE``; None where nothing is said.

    start   position of row 0, for samples that do not say it
    format  a name that ``open_dump`` knows, in place of sniffing
    base    the dump that native files of codec delta were coded against; it may have options too
    tokens  a second file with the tokens of a torch file of layers, or of a router trace
    dictionary  what native files of codec token were coded with
    expert_map  the logical expert of each physical one, whose ids the dump has
    """

    path: str
    start: int | None = None
    format: str | None = None
    base: str | None = None
    tokens: str | None = None
    dictionary: str | None = None
    expert_map: str | None = None

    def __str__(self) -> str:
        said = [f"{key}={getattr(self, key)}" for key in _KNOWN if getattr(self, key) is not None]
        return f"{self.path}{_MARK}{','.join(said)}" if said else self.path

    def placed(self, change: Callable[[str], str]) -> "Input":
        """The same input with ``change`` made to each of its paths."""
        base = None if self.base is None else str(parse_input(self.base).placed(change))
        tokens = None if self.tokens is None else change(self.tokens)
        dictionary = None if self.dictionary is None else change(self.dictionary)
        experts = None if self.expert_map is None else change(self.expert_map)
        found = replace(self, path=change(self.path), base=base, tokens=tokens)
        return replace(found, dictionary=dictionary, expert_map=experts)


def parse_input(text: str, exists: Callable[[str], bool] = is_there) -> Input:
    """What the user named. A path that is there is itself, whatever characters it has.

    Raises RoutectlError for what is behind ``::`` and no known option.
    """
    if _MARK not in text or _is_there(text, exists):
        return Input(text)
    path, tail = _split(text, exists)
    said: dict[str, Any] = {}
    for part in _NEXT.split(tail):
        key, equals, value = part.partition("=")
        if key not in _KNOWN or not equals:
            known = (f"{name}=" for name in _KNOWN)
            told = f"{text}: {part!r} behind {_MARK} is not known"
            raise misspelt(told, f"{key}=", known, RoutectlError)
        if key in said:
            raise RoutectlError(f"{text}: {key} is there twice")
        said[key] = _value(text, key, value)
    if "base" in said and "dictionary" in said:
        raise RoutectlError(
            f"{text}: base is of codec delta, dictionary of codec token: one of them"
        )
    return Input("-" if path == STDIN else path, **said)


def _split(text: str, exists: Callable[[str], bool]) -> tuple[str, str]:
    """The path and its options: at the first mark behind a path that is there, else the first."""
    parts = text.split(_MARK)
    for count in range(1, len(parts)):
        path = _MARK.join(parts[:count])
        if path in ("-", STDIN) or _is_there(path, exists) or glob.has_magic(path):
            return path, _MARK.join(parts[count:])
    return parts[0], _MARK.join(parts[1:])


def _is_there(path: str, exists: Callable[[str], bool]) -> bool:
    try:
        return exists(path)
    except (OSError, ValueError):  # too long, a NUL
        return False


def _value(text: str, key: str, value: str) -> str | int:
    if key == "start":
        if not re.fullmatch(r"\d{1,10}", value, re.ASCII):
            raise RoutectlError(f"{text}: start: got {value!r}, expected a position from 0 on")
        return int(value)
    if not value:
        raise RoutectlError(f"{text}: {key}: got nothing behind =")
    if key == "format":
        from ..formats import FORMATS

        check_choice(f"{text}: format", value, FORMATS)
    return value
