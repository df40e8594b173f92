"""Megatron-Core's inference: its answers and serialised requests, in the words of other engines.

A choice has ``moe_topk_indices`` [N - 1, MoE layers, K] from the first token on, and its ids in
``prompt_token_ids``, ``generation_token_ids`` and ``generation_log_probs``: of completions in the
choice, of chat in ``message``. ``prompt_moe_topk_indices`` is meant to be the first P of them; in
0.19.2 both are ``["ndarray", {data, dtype}]``, of which the prompt's slice is the whole again, so
it is let be. Source: megatron-core 0.19.2 (inference/inference_request.py,
text_generation_server/dynamic_text_gen_server/endpoints).
"""

from typing import Any

from ...errors import FormatError
from ..documents.fields import Doc, integer, mapping, sequence

__all__ = ["in_common_words", "is_megatron_request", "request_as_record"]

_ROUTES = "moe_topk_indices"
_WRAPPED = ("ndarray", "tensor")


def _unwrapped(value: Any) -> Any:
    """What ``serialize`` wraps as ["tensor", list] or ["ndarray", {data, dtype}], or itself."""
    if isinstance(value, list) and len(value) == 2 and value[0] in _WRAPPED:
        value = value[1]
    return value["data"] if isinstance(value, dict) and "data" in value else value


def in_common_words(choice: Doc, where: str) -> Doc:
    """A choice whose routes, ids, log-probs and versions have the names of OpenAI's and vLLM's.

    Any choice that is not Megatron-Core's is given back as it is.
    """
    if _ROUTES not in choice:
        return choice
    held = {**mapping(choice.get("message"), where, "message"), **choice}
    prompt, response = held.get("prompt_token_ids"), held.get("generation_token_ids")
    scores = held.get("generation_log_probs")
    common = {
        **choice,
        "routed_experts": _unwrapped(choice[_ROUTES]),
        "prompt_token_ids": prompt,
        "token_ids": response,
        "logprobs": scores or None,
        "num_retractions": held.get("num_evictions"),
        "engine": "megatron",
    }
    lengths = [len(ids) if isinstance(ids, list) else None for ids in (prompt, response)]
    return {**common, "weight_versions": _spans(held.get("policy_epoch"), lengths, where)}


def _spans(epochs: Any, lengths: list[int | None], where: str) -> list[dict[str, Any]] | None:
    """Spans over response tokens out of policy_epoch: [first position fed, epoch] pairs.

    The engine adds a pair when new weights arrive: the last token that is there is the first that
    they are fed, and the next the first that they sample (engines/dynamic_engine.py,
    schedule_requests).
    """
    prompt, response = lengths
    pairs = sequence(epochs, where, "policy_epoch")
    if not pairs or prompt is None or response is None:
        return None
    starts = []
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2 or type(pair[1]) is not int:
            raise FormatError(f"{where}: policy_epoch: expected [position, epoch] pairs")
        fed = integer(pair[0], where, "policy_epoch") or 0
        starts.append(min(max(fed + 1 - prompt, 0), response))
    ends = [*starts[1:], response]
    return [
        {"version": str(pair[1]), "start": start, "end": end}
        for pair, start, end in zip(pairs, starts, ends, strict=True)
        if start < end
    ]


def is_megatron_request(doc: Doc) -> bool:
    """Whether a document is a DynamicInferenceRequest, as its ``serialize`` gives it."""
    return "routing_indices" in doc and "generated_tokens" in doc and "request_id" in doc


def request_as_record(doc: Doc, where: str) -> Doc:
    """A finished request as a flat record (offline.py)."""
    prompt, response = (_unwrapped(doc.get(n)) for n in ("prompt_tokens", "generated_tokens"))
    choice = {
        _ROUTES: doc.get("routing_indices"),
        "prompt_token_ids": prompt,
        "generation_token_ids": response,
        "generation_log_probs": doc.get("generated_log_probs"),
        "policy_epoch": doc.get("policy_epoch"),
    }
    told = {name: doc.get(name) for name in ("request_id", "prompt_length")}
    cached = {"num_cached_tokens": doc.get("num_cached_tokens")}
    return {**in_common_words(choice, where), **told, **cached}
