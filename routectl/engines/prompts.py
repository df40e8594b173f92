"""Prompts to be asked: JSON lines of token ids, text or messages, with ids and groups."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import FormatError
from ..files.reading import open_regular
from ..formats.documents.fields import Doc, first_of, from_json, mapping, sequence, text, token_ids
from ..limits import check_budget, limits

__all__ = ["Prompt", "read_prompts"]

_IDS = ("prompt_token_ids", "prompt_ids", "input_ids", "token_ids")
_TEXT = ("prompt", "text")
_ID = ("id", "sample_id", "uid")
_GROUP = ("group_id", "group")


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt: ``kind`` is ids, text or messages and ``value`` is that; ``sampling`` its own.

    ``name`` is unique in its file; samples of one ``group`` are siblings.
    """

    name: str
    group: str
    kind: str
    value: Any
    sampling: Doc


def _content(doc: Doc, where: str) -> tuple[str, Any]:
    """What is asked, and of which kind."""
    ids = first_of(doc, _IDS)
    words = first_of(doc, _TEXT)
    if ids is None and isinstance(words, list):
        ids, words = words, None
    messages = sequence(doc.get("messages"), where, "messages")
    given = [
        kind
        for kind, value in (("ids", ids), ("text", words), ("messages", messages))
        if value is not None
    ]
    if not given:
        raise FormatError(f"{where}: no prompt: expected prompt_token_ids, prompt or messages")
    kind = given[0]
    if kind == "ids":
        token_ids(ids, where, "prompt_token_ids")
    elif kind == "text" and not isinstance(words, str):
        raise FormatError(f"{where}: prompt: got {type(words).__name__}, expected text or ids")
    value = {"ids": ids, "text": words, "messages": messages}[kind]
    if not value:
        raise FormatError(f"{where}: the prompt is empty")
    return kind, value


def _prompt(line: bytes, number: int, where: str) -> Prompt:
    try:
        doc = from_json(line, where)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{where}: not JSON: {error}") from None
    if not isinstance(doc, dict):
        raise FormatError(f"{where}: got {type(doc).__name__}, expected an object a line")
    name = text(first_of(doc, _ID)) or str(number)
    kind, value = _content(doc, where)
    own = mapping(doc.get("sampling"), where, "sampling")
    return Prompt(name, text(first_of(doc, _GROUP)) or name, kind, value, own)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with open_regular(path) as file:
            most = limits().line
            for number, line in enumerate(iter(lambda: file.readline(most + 1), b""), 1):
                check_budget("line", len(line), f"{path}: line {number}: bytes")
                if line.strip():
                    yield number, line
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror}") from None


def read_prompts(path: Path) -> list[Prompt]:
    """The prompts of a file of JSON lines, in order.

    A line without an id is named by its number among the prompts, from 0; a line without a group
    is a group of its own. Raises FormatError for a line that is no prompt, and for a name that
    is there twice.
    """
    prompts: list[Prompt] = []
    seen: dict[str, int] = {}
    for number, line in _lines(path):
        prompt = _prompt(line, len(prompts), f"{path}: line {number}")
        if prompt.name in seen:
            raise FormatError(
                f"{path}: line {number}: the id {prompt.name!r} is that of line "
                f"{seen[prompt.name]} too"
            )
        seen[prompt.name] = number
        prompts.append(prompt)
    if not prompts:
        raise FormatError(f"{path}: no prompt in it")
    return prompts
