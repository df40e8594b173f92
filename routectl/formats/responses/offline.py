"""Flat records: one sequence a JSON object, as people save offline results.

The names below are the ones that vLLM, SGLang and the trainers' own dumps use for each fact.
"""

import numpy as np
from numpy.typing import NDArray

from ...errors import FormatError
from ..documents.fields import (
    Doc,
    finish_reason,
    first_of,
    floats,
    integer,
    one_line,
    sequence,
    text,
    token_ids,
)
from ..wire.encodings import payload_engine
from ..wire.sample import WireSample, with_media
from .openai import START_NAMES
from .weight_versions import weight_spans

__all__ = ["is_record", "read_record"]

PAYLOAD_NAMES = (
    "routed_experts",
    "routed_experts_b64npy",
    "routed_experts_b64raw",
    "routing_matrices",
)
_ID = ("sample_id", "rollout_id", "uid", "id")
_GROUP = ("group_id", "group")
_PROMPT = ("prompt_token_ids", "prompt_ids")
_RESPONSE = (
    "token_ids",
    "response_token_ids",
    "response_ids",
    "output_ids",
    "output_token_ids",
    "generation_token_ids",
)
_LOGPROBS = (
    "logprobs",
    "response_logprobs",
    "rollout_log_probs",
    "rollout_logprobs",
    "generation_log_probs",
)
_LENGTHS = ("prompt_length", "response_length")
_CACHED = ("num_cached_tokens", "cached_tokens")


def is_record(doc: Doc) -> bool:
    """Whether a document is a flat record: it has routes, or the ids of a prompt and a response."""
    if any(name in doc for name in PAYLOAD_NAMES):
        return True
    return all(isinstance(first_of(doc, names), list) for names in (_PROMPT, _RESPONSE))


def _identity(doc: Doc) -> str | None:
    """The record's own id, else the request's with the choice index."""
    named = first_of(doc, _ID)
    if named is not None or doc.get("request_id") is None:
        return text(named)
    return text(f"{doc['request_id']}/{doc.get('index') or 0}")


def _length(doc: Doc, name: str, where: str) -> int | None:
    return integer(doc.get(name), where, name)


def _loss_mask(
    doc: Doc, prompt: int | None, response: int | None, where: str
) -> NDArray[np.bool_] | None:
    """The mask of all N tokens; one of the response alone is false for the prompt."""
    flags = sequence(doc.get("loss_mask"), where, "loss_mask")
    if flags is None:
        return None
    odd = [flag for flag in flags if type(flag) not in (bool, int, float) or flag not in (0, 1)]
    if odd:
        raise FormatError(f"{where}: loss_mask: got {one_line(repr(odd[0]))}, expected 0 or 1")
    mask = np.array(flags, np.bool_)
    if prompt is None or response is None or len(mask) == prompt + response:
        return mask
    if len(mask) != response:
        raise FormatError(
            f"{where}: loss_mask: got {len(mask)} entries, expected {prompt + response} (all "
            f"tokens) or {response} (response)"
        )
    return np.concatenate([np.zeros(prompt, np.bool_), mask])


def read_record(doc: Doc, where: str) -> WireSample:
    """One flat record; FormatError when log-probs and tokens do not line up.

    One of them is what lightllm's ``/generate`` answers (server/api_lightllm.py), whose counts have
    names of their own and whose array is [rows, layers, k], or was [layers, rows, k].
    """
    payload = first_of(doc, PAYLOAD_NAMES)
    prompt = token_ids(first_of(doc, _PROMPT), where, "prompt_token_ids")
    response = token_ids(first_of(doc, _RESPONSE), where, "token_ids")
    counted = doc.get("prompt_tokens")
    prompt, media = with_media(prompt, counted if type(counted) is int else None)
    is_lightllm = "count_output_tokens" in doc and "generated_text" in doc
    names = ("prompt_tokens", "count_output_tokens") if is_lightllm else _LENGTHS
    prompt_length = len(prompt) if prompt is not None else _length(doc, names[0], where)
    response_length = len(response) if response is not None else _length(doc, names[1], where)
    logprobs = floats(first_of(doc, _LOGPROBS), where, "logprobs")
    if logprobs is not None and response is not None and len(logprobs) != len(response):
        raise FormatError(
            f"{where}: logprobs: got {len(logprobs)} numbers, expected {len(response)}, "
            "one a response token"
        )
    return WireSample(
        where=where,
        payload=payload,
        start=integer(first_of(doc, (*START_NAMES, "start")), where, "start"),
        sample_id=_identity(doc),
        group_id=text(first_of(doc, _GROUP)),
        prompt_ids=prompt,
        response_ids=response,
        prompt_length=prompt_length,
        response_length=response_length,
        logprobs=logprobs,
        loss_mask=_loss_mask(doc, prompt_length, response_length, where),
        weight_spans=weight_spans(doc, None if response is None else len(response), where),
        finish_reason=finish_reason(doc.get("finish_reason")),
        cached_tokens=integer(first_of(doc, _CACHED), where, "cached_tokens"),
        retractions=integer(doc.get("num_retractions"), where, "num_retractions"),
        media_tokens=media,
        engine=text(doc.get("engine")) or ("lightllm" if is_lightllm else payload_engine(payload)),
    )
