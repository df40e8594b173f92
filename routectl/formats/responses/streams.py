"""Server-sent event streams: the chunks of one response, merged into the document they spell."""

import re
from collections.abc import Sequence
from typing import Any

from ...errors import FormatError
from ..documents.fields import Doc, from_json, integer, mapping, sequence
from .sglang import merge_generate_stream

__all__ = ["merge_stream"]

_JOINED = ("token_ids", "response_token_ids")


def _chunks(text: str, where: str) -> list[Doc]:
    """The JSON objects of the ``data:`` lines; a stream that stops before [DONE] is cut short."""
    chunks: list[Doc] = []
    done = False
    for number, line in enumerate(re.split("\r\n|\r|\n", text), 1):
        body = line.removeprefix("data:").strip()
        if not line.startswith("data:"):
            continue
        if body == "[DONE]":
            done = True
            continue
        try:
            chunk = from_json(body, f"{where}: line {number}")
            chunks.append(mapping(chunk, where, "chunk"))
        except (ValueError, RecursionError):
            raise FormatError(f"{where}: line {number}: the chunk is not JSON") from None
    if not done and not _is_of_responses(chunks):
        raise FormatError(f"{where}: the stream is cut short: it ends without 'data: [DONE]'")
    return chunks


def _is_of_responses(chunks: list[Doc]) -> bool:
    """Whether a stream is one of /v1/responses: each event says its type, the last one the end."""
    return bool(chunks) and all(str(chunk.get("type")).startswith("response.") for chunk in chunks)


def _extend_logprobs(before: Any, more: Any, where: str) -> Any:
    """Log-prob blocks of two deltas as one: every list in the first grows by the second's."""
    if before is None or more is None:
        return more if before is None else before
    block = dict(mapping(before, where, "logprobs"))
    for name, values in mapping(more, where, "logprobs").items():
        if isinstance(values, list):
            held = sequence(block.get(name), where, name)
            block[name] = _grown(held, values)
    return block


def _grown(held: Any, more: Sequence[Any]) -> Any:
    """A list with more at its end; in place, or a stream of n chunks would be copied n times."""
    if held is None:
        return more
    held += more
    return held


def _merge_choice(before: dict[str, Any], delta: Doc, where: str) -> dict[str, Any]:
    merged = {**before, **{k: v for k, v in delta.items() if v is not None}}
    for name in _JOINED:
        new = sequence(delta.get(name), where, name)
        if name in before and new is not None:
            merged[name] = _grown(before[name], new)
    logprobs = _extend_logprobs(before.get("logprobs"), delta.get("logprobs"), where)
    return {**merged, "logprobs": logprobs}


def merge_stream(text: str, where: str) -> Any:
    """The response that a stream of OpenAI, vLLM or SGLang chunks adds up to."""
    chunks = _chunks(text, where)
    if failed := next((chunk for chunk in chunks if chunk.get("error")), None):
        return {"error": failed["error"]}
    if _is_of_responses(chunks):
        return {"object": "response", "output": []}
    if any("meta_info" in chunk for chunk in chunks):
        return merge_generate_stream(chunks, where)
    whole: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        whole.update({k: v for k, v in chunk.items() if v is not None and k != "choices"})
        for item in sequence(chunk.get("choices"), where, "choices") or ():
            delta = mapping(item, where, "choices")
            index = integer(delta.get("index"), where, "index") or 0
            choices[index] = _merge_choice(choices.get(index, {}), delta, where)
    return {**whole, "choices": [choices[i] for i in sorted(choices)]}
