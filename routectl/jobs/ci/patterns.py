"""Paths of a config: globs, and ``{}`` for a part of a name that pairs files with each other.

A path that is there is itself, whatever characters it has; another one is a glob where it can be.
"""

import fnmatch
import glob
import re
from collections.abc import Iterator
from pathlib import Path

from ...errors import RoutectlError
from ...files.places import glob_places, is_there, is_uri, place_of

__all__ = ["BRACES", "beside", "named", "names_in"]

BRACES = "{}"
_PARTS = re.compile(r"\*\*/|\*+|\?|\[!?\]?[^\]/]*\]|.", re.DOTALL)
_ESCAPED = re.compile(r"\[([*?[])\]")
_WILD = {"**/": "(?:[^/]+/)*", "?": "[^/]"}


def beside(folder: Path, text: str) -> str:
    """A path of the config in ``folder``, whose own name is never a glob; a URI is itself."""
    if is_uri(text):
        return text
    path = folder / text
    wild = BRACES in text or glob.has_magic(text)
    if wild and glob.has_magic(str(folder)) and not path.exists():
        return str(Path(glob.escape(str(folder))) / text)
    return str(path)


def names_in(pattern: str) -> Iterator[str]:
    """What ``{}`` stands for in the files that are there: a part of one name, the same each time.

    Raises RoutectlError for one that cannot be printed.
    """
    for name, shape in _found(pattern):
        match = shape.fullmatch(name)
        if match is None:
            continue
        if not match[1].isprintable():
            raise RoutectlError(f"{name!a}: {BRACES} matches what cannot be printed")
        yield match[1]


def named(pattern: str, key: str) -> str:
    """The pattern with a key in place of ``{}``: a file that is there, or a glob."""
    plain = _unescaped(pattern).replace(BRACES, key)
    return plain if is_there(plain) else pattern.replace(BRACES, glob.escape(key))


def _unescaped(pattern: str) -> str:
    return _ESCAPED.sub(r"\1", pattern)


def _found(pattern: str) -> Iterator[tuple[str, re.Pattern[str]]]:
    """Files that a pattern matches, and its expression; as it is written, else as a glob."""
    parts = _unescaped(pattern).split(BRACES)
    exact = _shape([re.escape(part) for part in parts])
    here = list(_matching("*".join(map(glob.escape, parts))))
    if any(exact.fullmatch(name) for name in here):
        yield from ((name, exact) for name in here)
        return
    parts = pattern.split(BRACES)
    wild = _shape([_expression(part) for part in parts])
    for name in _matching("*".join(parts)):
        yield name, wild


def _matching(pattern: str) -> Iterator[str]:
    if is_uri(pattern):
        return map(str, glob_places(place_of(pattern)))
    return glob.iglob(pattern, recursive=True)


def _shape(parts: list[str]) -> re.Pattern[str]:
    return re.compile("([^/]+?)".join(parts[:2]) + "".join(rf"\1{part}" for part in parts[2:]))


def _expression(part: str) -> str:
    """A part of a glob as an expression, by the rules of ``glob``."""
    return "".join(_one(token) for token in _PARTS.findall(part))


def _one(token: str) -> str:
    if token.startswith("*") and token not in _WILD:
        return "[^/]*"
    if token.startswith("[") and len(token) > 1:
        return fnmatch.translate(token).removeprefix("(?s:").rpartition(")")[0]
    return _WILD.get(token, re.escape(token))
