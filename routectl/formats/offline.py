"""Flat records: one sequence a JSON object, as people save offline results.

The names below are the ones that vLLM, SGLang and the trainers' own dumps use for each fact.
"""

import numpy as np

from ..errors import FormatError
from .fields import (
    Doc,
    finish_reason,
    first_of,
    floats,
    integer,
    text,
    token_ids,
    weight_spans,
)
from .openai import START_NAMES
from .wire import WireSample, payload_engine

__all__ = ["PAYLOAD_NAMES", "read_record"]

PAYLOAD_NAMES = ("routed_experts", "routed_experts_b64npy", "routed_experts_b64raw")
_ID = ("sample_id", "rollout_id", "uid", "id")
_GROUP = ("group_id", "group")
_PROMPT = ("prompt_token_ids", "prompt_ids")
_RESPONSE = ("token_ids", "response_token_ids", "response_ids", "output_ids", "output_token_ids")
_LOGPROBS = ("logprobs", "response_logprobs", "rollout_log_probs", "rollout_logprobs")
_CACHED = ("num_cached_tokens", "cached_tokens")


def _identity(doc: Doc) -> str | None:
    """The record's own id, else the request's with the choice index."""
    named = first_of(doc, _ID)
    if named is not None or doc.get("request_id") is None:
        return text(named)
    return f"{doc['request_id']}/{doc.get('index') or 0}"


def read_record(doc: Doc, where: str) -> WireSample:
    """One flat record; FormatError when log-probs and tokens do not line up."""
    payload = first_of(doc, PAYLOAD_NAMES)
    prompt = token_ids(first_of(doc, _PROMPT), where, "prompt_token_ids")
    response = token_ids(first_of(doc, _RESPONSE), where, "token_ids")
    prompt_length = doc.get("prompt_length") if prompt is None else len(prompt)
    response_length = doc.get("response_length") if response is None else len(response)
    logprobs = floats(first_of(doc, _LOGPROBS), where, "logprobs")
    if logprobs is not None and response is not None and len(logprobs) != len(response):
        raise FormatError(
            f"{where}: logprobs: got {len(logprobs)} numbers, expected {len(response)}, "
            "one a response token"
        )
    mask = floats(doc.get("loss_mask"), where, "loss_mask")
    return WireSample(
        where=where,
        payload=payload,
        start=integer(first_of(doc, (*START_NAMES, "start")), where, "start"),
        sample_id=_identity(doc),
        group_id=text(first_of(doc, _GROUP)),
        prompt_ids=prompt,
        response_ids=response,
        prompt_length=integer(prompt_length, where, "prompt_length"),
        response_length=integer(response_length, where, "response_length"),
        logprobs=logprobs,
        loss_mask=None if mask is None else np.asarray(mask != 0, np.bool_),
        weight_spans=weight_spans(doc, None if response is None else len(response), where),
        finish_reason=finish_reason(doc.get("finish_reason")),
        cached_tokens=integer(first_of(doc, _CACHED), where, "cached_tokens"),
        retractions=integer(doc.get("num_retractions"), where, "num_retractions"),
        engine=text(doc.get("engine")) or payload_engine(payload),
    )
