"""Server-sent event streams: the chunks of one response, merged into the document they spell."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from ...errors import FormatError
from ..documents.fields import Doc, from_json, integer, mapping, sequence
from .sglang import Outputs, merge_output

__all__ = ["merge_stream"]

_JOINED = ("token_ids", "response_token_ids")


def _chunks(text: str, where: str) -> Iterator[Doc]:
    """The JSON objects of the ``data:`` lines, one at a time: each is let go of when it is merged.

    Raises FormatError at the end of a stream that stops before [DONE], and so is cut short.
    """
    done, of_responses = False, None
    for number, line in enumerate(re.split("\r\n|\r|\n", text), 1):
        body = line.removeprefix("data:").strip()
        if not line.startswith("data:"):
            continue
        if body == "[DONE]":
            done = True
            continue
        try:
            chunk = mapping(from_json(body, f"{where}: line {number}"), where, "chunk")
        except (ValueError, RecursionError):
            raise FormatError(f"{where}: line {number}: the chunk is not JSON") from None
        of_responses = of_responses is not False and _is_of_responses(chunk)
        yield chunk
    if not done and not of_responses:
        raise FormatError(f"{where}: the stream is cut short: it ends without 'data: [DONE]'")


def _is_of_responses(chunk: Doc) -> bool:
    """Whether a chunk is an event of /v1/responses: such a stream ends without [DONE]."""
    return str(chunk.get("type")).startswith("response.")


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
    """The response that a stream of OpenAI, vLLM or SGLang chunks adds up to.

    The first chunk says whether the stream is one of ``/generate``, whose chunks have a meta_info.
    """
    whole: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    outputs: Outputs = {}
    failed, events = None, set()
    for chunk in _chunks(text, where):
        events.add(_is_of_responses(chunk))
        failed = failed or chunk.get("error")
        if failed:
            continue
        if outputs or ("meta_info" in chunk and not (whole or choices)):
            merge_output(outputs, chunk, where)
        elif "meta_info" in chunk:
            raise FormatError(
                f"{where}: the stream is of two kinds: chunks with meta_info, and not"
            )
        else:
            whole.update({k: v for k, v in chunk.items() if v is not None and k != "choices"})
            _merge_choices(choices, chunk, where)
    if failed:
        return {"error": failed}
    if events == {True}:
        return {"object": "response", "output": []}
    if outputs:
        return list(outputs.values())
    return {**whole, "choices": [choices[i] for i in sorted(choices)]}


def _merge_choices(choices: dict[int, dict[str, Any]], chunk: Doc, where: str) -> None:
    """Add the deltas of a chunk to the choices, by index."""
    for item in sequence(chunk.get("choices"), where, "choices") or ():
        delta = mapping(item, where, "choices")
        index = integer(delta.get("index"), where, "index") or 0
        choices[index] = _merge_choice(choices.get(index, {}), delta, where)
