"""Typed access to JSON that a foreign program wrote: the value, None, or one clear line."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ...errors import FormatError
from ...visible import quoted, visible
from .size import check_json

__all__ = [
    "Doc",
    "as_float64",
    "finish_reason",
    "first_of",
    "floats",
    "from_json",
    "integer",
    "joined",
    "mapping",
    "one_line",
    "scored_tokens",
    "sequence",
    "text",
    "token_ids",
]

Doc = Mapping[str, Any]


def from_json(data: bytes | str, where: str = "the text", stored: int | None = None) -> Any:
    """What ``json.loads`` makes of a text, sooner, and within the budgets of one document.

    msgspec takes no NaN or Infinity, no half of a surrogate pair, no number beyond float64, and
    UTF-8 alone; json does, or says what is wrong. ``stored`` is as check_json takes it. Raises
    ValueError as json does, RecursionError, and FormatError, which begins with ``where``, for a
    text that is over a budget.
    """
    check_json(data if isinstance(data, bytes) else data.encode("utf-8", "replace"), where, stored)
    try:
        return msgspec.json.decode(data)
    except ValueError:
        return json.loads(data)


def first_of(doc: Doc, names: Sequence[str]) -> Any:
    """The first value among ``names`` that is there and not null, else None."""
    return next((doc[name] for name in names if doc.get(name) is not None), None)


def _wrong(where: str, name: str, value: object, expected: str) -> FormatError:
    return FormatError(f"{where}: {name}: got {quoted(value)}, expected {expected}")


def one_line(foreign: object) -> str:
    """The first line of a foreign message, visible, cut at 160 characters."""
    return visible(next(iter(str(foreign).splitlines()), ""), 160)


def integer(value: object, where: str, name: str) -> int | None:
    """A count >= 0, or None."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
        raise _wrong(where, name, value, "a count")
    return value


def text(value: object) -> str | None:
    """The value as a string that UTF-8 can hold, numbers too; None stays None."""
    return None if value is None else str(value).encode("utf-8", "replace").decode("utf-8")


def joined(values: Iterable[str | None]) -> str | None:
    """The different values in order, with + between them; None when there is none."""
    return "+".join(sorted({v for v in values if v})) or None


def sequence(value: object, where: str, name: str) -> Sequence[Any] | None:
    """A JSON list, or None."""
    if value is not None and not isinstance(value, list):
        raise _wrong(where, name, value, "a list")
    return value


def mapping(value: object, where: str, name: str) -> Doc:
    """A JSON object; null reads as an empty one."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise _wrong(where, name, value, "an object")
    return value


def token_ids(value: object, where: str, name: str) -> NDArray[np.int32] | None:
    """Token ids, int32, or None; raises FormatError when one is no 31-bit count."""
    ids = sequence(value, where, name)
    if ids is None:
        return None
    if ids and not (set(map(type, ids)) == {int} and min(ids) >= 0 and max(ids) < 2**31):
        bad = next(i for i in ids if type(i) is not int or not 0 <= i < 2**31)
        raise _wrong(where, name, bad, "token ids")
    return np.array(ids, np.int32)


def as_float64(values: NDArray[Any]) -> NDArray[np.float64]:
    """Numbers of any dtype as float64, of the same shape, in an array of their own.

    What is beyond float64 is infinite. A signalling NaN, of which numpy warns wherever it is cast
    or added, is a quiet one.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        quiet: NDArray[np.float64] = np.multiply(values, 1.0, dtype=np.float64)
    return quiet


def floats(value: object, where: str, name: str) -> NDArray[np.float64] | None:
    """Log-probabilities, float64, null entries as nan; or None."""
    numbers = sequence(value, where, name)
    if numbers is None:
        return None
    if not all(x is None or type(x) in (int, float) for x in numbers):
        bad = next(x for x in numbers if x is not None and type(x) not in (int, float))
        raise _wrong(where, name, bad, "numbers")
    try:
        return np.array([np.nan if x is None else x for x in numbers], np.float64)
    except OverflowError:
        raise FormatError(f"{where}: {name}: an integer too large for a float") from None


def scored_tokens(meta: Doc, name: str, where: str) -> list[Any]:
    """Entries [logprob, token id, text] of a log-prob list of SGLang; empty when absent."""
    items = sequence(meta.get(name), where, name) or []
    if not all(isinstance(item, list) and len(item) >= 2 for item in items):
        raise FormatError(f"{where}: {name}: expected entries [logprob, token id, ...]")
    return list(items)


def finish_reason(value: object) -> str | None:
    """The reason as one word: SGLang gives an object with ``type``, vLLM a string."""
    return text(value.get("type") if isinstance(value, Mapping) else value)
