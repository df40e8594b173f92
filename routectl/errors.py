"""What can go wrong, as a user sees it: one line, and a hint when a flag would help."""

import operator
import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, TypeVar

from .visible import visible

__all__ = [
    "FormatError",
    "MismatchError",
    "NoIdError",
    "NoIndexError",
    "RoutectlError",
    "UnsupportedError",
    "check_choice",
    "did_you_mean",
    "extra_hint",
    "index_of",
    "misspelt",
    "unknown",
]

_Error = TypeVar("_Error", bound=Exception)
_COPY = re.compile(r"[^\s:]*/\.routectl-stdin\.[\w-]+\.tmp/(stdin|fd-\d+)")  # files/streams.py


class RoutectlError(Exception):
    """Anything that a user can act on; the command line prints it as one line and exits 2.

    ``hint`` names the flag or the step that helps, or is None; a traceback has it as a note. Both
    may quote foreign text: they are made visible here, on one line, a long one without its middle.
    A pipe that was copied to be read is called by its own name: ``-``, or ``/dev/fd/63``.
    What is pickled is an error of this file: that of another file, with what it holds, stays in
    its process.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(visible(_COPY.sub(_pipe, message), end=1000))
        self.hint = hint

    @property
    def hint(self) -> str | None:
        """The flag or the step that helps."""
        return self._hint

    @hint.setter
    def hint(self, hint: str | None) -> None:
        self._hint = None if hint is None else visible(hint, end=1000)
        self.__notes__ = [] if self._hint is None else [f"hint: {self._hint}"]

    def __reduce__(self) -> tuple[Any, ...]:
        kind = next(one for one in type(self).__mro__ if one.__module__ == __name__)
        return _said, (kind, str(self), self.hint)


def _pipe(found: "re.Match[str]") -> str:
    """The pipe that a file is the copy of."""
    return "-" if found[1] == "stdin" else f"/dev/fd/{found[1].removeprefix('fd-')}"


def _said(kind: type[RoutectlError], message: str, hint: str | None) -> RoutectlError:
    """An error that another process raised."""
    return kind(message, hint=hint)


class FormatError(RoutectlError):
    """A file is not what it claims to be."""


class MismatchError(RoutectlError):
    """Two inputs cannot be laid side by side, or nothing in them was comparable."""


class UnsupportedError(RoutectlError):
    """The input is understood, but routectl has no way to handle it."""


class NoIndexError(RoutectlError, IndexError):
    """There are fewer than that; Python's own loops and ``in`` take it for the end."""


class NoIdError(RoutectlError, KeyError):
    """Nothing has that id."""

    __str__ = Exception.__str__  # KeyError's own puts the message in quotes


def index_of(index: object, size: int, what: str) -> int:
    """An index from 0 on among ``size``, of which -1 is the last; ``what`` they are: samples.

    Raises NoIndexError beyond them, TypeError for what is no integer.
    """
    at = operator.index(index)  # type: ignore[arg-type]
    if not -size <= at < size:
        raise NoIndexError(f"got index {at}: there are {size:,} {what}, counted from 0")
    return at % size


def did_you_mean(word: object, known: Iterable[str]) -> str | None:
    """The question whether the nearest of the known names was meant; None where none is near."""
    names = {_plain(name): name for name in known}
    near = get_close_matches(_plain(word), names, 1) if isinstance(word, str) else []
    return f"did you mean {names[near[0]]}?" if near else None


def _plain(word: str) -> str:
    return word.lower().replace("_", "-")


def unknown(told: str, word: object, known: Iterable[str], kind: type[_Error]) -> _Error:
    """The error for a word that is none of the known ones; see ``misspelt``.

    told is what the word is of: ``--codec``, ``metric``.
    """
    return misspelt(f"{told} {word!r} is not known", word, known, kind)


def misspelt(said: str, word: object, known: Iterable[str], kind: type[_Error]) -> _Error:
    """The error that says a word is none of the known ones: the nearest first, the list as hint.

    Where none is near, the list stands in the message.
    """
    names = tuple(known)
    near, listed = did_you_mean(word, names), ", ".join(names)
    error = kind(f"{said}: {near or listed}")
    if near is not None and isinstance(error, RoutectlError):
        error.hint = f"known: {listed}"
    elif near is not None:
        error.add_note(f"hint: known: {listed}")
    return error


def check_choice(told: str, word: object, known: Iterable[str]) -> None:
    """Raise RoutectlError for a word that is none of the known ones; see ``unknown``."""
    names = tuple(known)
    if word not in names:
        raise unknown(told, word, names, RoutectlError)


def extra_hint(extra: str) -> str:
    """How an extra is installed: from an index, and in a clone of the repository."""
    clone = f"pip install -c constraints.txt '.[{extra}]'"
    return f"pip install 'routectl[{extra}]'; in a clone: {clone}"
