"""A group of options given in one word, KEY=VALUE,...: ``--forward mode=forced,dtype=bf16``."""

from collections.abc import Sequence
from typing import Any, TypeVar, get_args

from ..errors import RoutectlError, check_choice
from .options import options_of

__all__ = ["key_names", "keyed", "keys_text"]

_Group = TypeVar("_Group")
_WORDS = {"yes": True, "true": True, "no": False, "false": False}


def keys_text(kind: type[Any]) -> str:
    """The keys of a group, as help lists them."""
    return ", ".join(about.flag for _, about in options_of(kind))


def key_names(kind: type[Any]) -> list[str]:
    """What completion offers: each key with each of its choices, or with what is to come."""
    return [
        f"{about.flag}={choice}"
        for _, about in options_of(kind)
        for choice in about.choices or [""]
    ]


def keyed(kind: type[_Group], flag: str, texts: Sequence[str]) -> _Group:
    """A group of options out of what was given with ``flag``, each text ``KEY=VALUE,...``.

    A part without = goes on with the value before it, as in ``device=cuda:0,cuda:1``. Raises
    RoutectlError for a key that the group has not, with the list of them, for one that is there
    twice, and for a value that its option refuses.
    """
    known = {about.flag: one for one, about in options_of(kind)}
    values: dict[str, Any] = {}
    for key, value in _pairs(flag, texts):
        check_choice(f"{flag} key", key, known)
        one = known[key]
        if one.name in values:
            raise RoutectlError(f"{flag} {key} is given twice: it takes one value")
        values[one.name] = _read(f"{flag} {key}", one.type, value)
    try:
        return kind(**values)
    except RoutectlError as error:
        raise RoutectlError(f"{flag} {str(error).removeprefix('--')}", hint=error.hint) from None


def _pairs(flag: str, texts: Sequence[str]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for text in texts:
        begun = len(found)
        for part in text.split(","):
            key, equals, value = part.partition("=")
            if equals:
                found.append((key.strip(), value.strip()))
            elif len(found) > begun:
                found[-1] = (found[-1][0], f"{found[-1][1]},{part.strip()}")
            else:
                raise RoutectlError(f"{flag} {text}: expected KEY=VALUE, and more after commas")
    return found


def _read(told: str, kind: Any, text: str) -> Any:
    """A value of a field's type."""
    kinds = get_args(kind) or (kind,)
    if bool in kinds:
        if text not in _WORDS:
            raise RoutectlError(f"{told}={text}: expected yes or no")
        return _WORDS[text]
    for number, words in ((int, "a whole number"), (float, "a number")):
        if number in kinds:
            try:
                return number(text)
            except ValueError:
                raise RoutectlError(f"{told}={text}: expected {words}") from None
    return text
