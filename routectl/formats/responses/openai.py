"""Responses with ``choices`` (or vLLM's ``outputs``): completions, chat, token-in-token-out.

Both engines speak it; they differ in where routed_experts sits (SGLang has used four places).
Sources: vLLM 0.21 and 0.32, SGLang 0.5.7 to 0.5.23.
"""

from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import FormatError
from ..documents import fields
from ..documents.fields import Doc
from ..wire.encodings import payload_engine
from ..wire.sample import WireSample, with_media
from .megatron import in_common_words
from .weight_versions import weight_spans

__all__ = ["START_NAMES", "read_choices", "requested_start"]

START_NAMES = ("routed_experts_prompt_start", "routed_experts_start_len")


def requested_start(request: Doc | None, where: str) -> int | None:
    """The start that the request asked for: 0 when it names none, None without a request."""
    if request is None:
        return None
    params = request.get("sampling_params")
    params = {} if isinstance(params, list) else fields.mapping(params, where, "sampling_params")
    nvext = fields.mapping(request.get("nvext"), where, "nvext")
    found = (fields.first_of(doc, START_NAMES) for doc in (request, params, nvext))
    asked = next((start for start in found if start is not None), None)
    return fields.integer(asked, where, "start of routed_experts") or 0


def _requested_prompts(request: Doc | None) -> list[Any]:
    """The prompts of a request, as ids or text, one entry each; empty when not known."""
    prompt = (
        None if request is None else fields.first_of(request, ("prompt", "token_ids", "input_ids"))
    )
    if request is not None and prompt is None and isinstance(request.get("nvext"), dict):
        prompt = request["nvext"].get("token_data")
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
        return prompt
    return [] if prompt is None else [prompt]


def _read_logprobs(choice: Doc, meta: Doc, where: str) -> tuple[list[Any], list[Any]]:
    """The log-probs and token strings of a choice, in any of four forms; empty when absent."""
    native = fields.scored_tokens(meta, "output_token_logprobs", where)
    if native:
        return [item[0] for item in native], []
    logprobs = choice.get("logprobs")
    if isinstance(logprobs, list):  # offline
        ids = fields.sequence(choice.get("token_ids"), where, "token_ids") or []
        return [_of_token(e, i) for e, i in zip_longest(logprobs, ids)], []
    block = fields.mapping(logprobs, where, "logprobs")
    content = fields.sequence(block.get("content"), where, "logprobs.content")
    if content is not None:
        entries = [fields.mapping(item, where, "logprobs.content") for item in content]
        return [e.get("logprob") for e in entries], [e.get("token") for e in entries]
    values = fields.sequence(block.get("token_logprobs"), where, "token_logprobs") or []
    return list(values), list(fields.sequence(block.get("tokens"), where, "tokens") or [])


def _of_token(entry: Any, token: Any) -> Any:
    """The sampled token's log-prob: a number, or looked up in {id: {"logprob": ...}}.

    Source: vLLM 0.32 ``CompletionOutput.logprobs``, a dict of candidates for each token.
    """
    if not isinstance(entry, dict):
        return entry
    found = entry.get(str(token))
    return found.get("logprob") if isinstance(found, dict) else found


def _ids_from_strings(tokens: list[Any]) -> list[int] | None:
    """Ids out of "token_id:97" (vLLM with return_tokens_as_token_ids), else None."""
    prefix = "token_id:"
    if not tokens or not all(isinstance(t, str) and t.startswith(prefix) for t in tokens):
        return None
    tails = [t[len(prefix) :] for t in tokens]
    return [int(t) for t in tails] if all(t.isdigit() for t in tails) else None


@dataclass(frozen=True, slots=True)
class _Response:
    """What the choices of one response share."""

    doc: Doc
    extra: Doc
    dynamo: Doc
    usage: Doc
    prompts: list[Any]
    num_choices: int
    echo: bool
    start: int | None
    where: str

    @property
    def one_prompt(self) -> bool:
        is_chat = str(self.doc.get("object", "")).startswith("chat")
        return is_chat or len(self.prompts) == 1 or self.num_choices == 1

    def prompt_of(self, index: int) -> Any:
        """The requested prompt of choice ``index``: n choices in a row share one."""
        each = max(1, self.num_choices // max(1, len(self.prompts)))
        return self.prompts[index // each] if index // each < len(self.prompts) else None


def _payload(choice: Doc, meta: Doc, response: _Response, index: int) -> Any:
    """routed_experts of a choice; response-level places belong to the first choice only."""
    found = choice.get("routed_experts")
    found = meta.get("routed_experts") if found is None else found
    if found is None and index == 0:
        found = response.extra.get("routed_experts")
        found = response.doc.get("routed_experts") if found is None else found
        found = response.dynamo.get("routed_experts") if found is None else found
    return found


def _prompt_ids(choice: Doc, response: _Response, index: int) -> NDArray[np.int32] | None:
    where, name = response.where, "prompt_token_ids"
    ids = choice.get(name)
    ids = response.doc.get(name) if ids is None else ids
    ids = response.extra.get("input_ids") if ids is None else ids
    if ids is None:
        asked = response.prompt_of(index)
        ids = asked if isinstance(asked, list) else None
    if isinstance(ids, list) and ids and isinstance(ids[0], list):
        ids = ids[min(index * len(ids) // response.num_choices, len(ids) - 1)]
    return fields.token_ids(ids, where, name)


def _cached_tokens(meta: Doc, response: _Response) -> int | None:
    """Prompt tokens that a prefix cache served: SGLang's meta_info, usage, or RequestOutput's."""
    where = response.where
    details = fields.mapping(
        response.usage.get("prompt_tokens_details"), where, "prompt_tokens_details"
    )
    found = [meta.get("cached_tokens"), details.get("cached_tokens")]
    found.append(response.doc.get("num_cached_tokens"))
    return fields.integer(next((n for n in found if n is not None), None), where, "cached_tokens")


def _prompt_tokens(meta: Doc, response: _Response) -> int | None:
    """The prompt's tokens as the engine counts them, media's too; None where it is not of one."""
    told = meta.get("prompt_tokens")
    if told is None and response.one_prompt:
        told = response.usage.get("prompt_tokens")
    return fields.integer(told, response.where, "prompt_tokens")


def _native_ids(meta: Doc, where: str) -> list[Any] | None:
    """The response's token ids out of SGLang's log-probs, where it has them."""
    return [item[1] for item in fields.scored_tokens(meta, "output_token_logprobs", where)] or None


def _echoed_start(meta: Doc, response: _Response) -> int | None:
    """The start that miles and slime keep in meta_info, else the request's."""
    echoed = fields.integer(
        fields.first_of(meta, START_NAMES), response.where, "start of routed_experts"
    )
    return response.start if echoed is None else echoed


def _dynamo(doc: Doc, where: str) -> Doc:
    """What Dynamo says of the first choice: ``nvext.engine_data``, and ``nvext`` over it.

    Source: Dynamo #10529 and #15114; a ``routed_experts`` of nvext that is a placeholder beside
    an object in engine_data is passed over, as PrimeIntellect's renderers (client.py) do.
    """
    nvext = fields.mapping(doc.get("nvext"), where, "nvext")
    engine = fields.mapping(nvext.get("engine_data"), where, "engine_data")
    routes, inner = nvext.get("routed_experts"), engine.get("routed_experts")
    use_inner = routes is None or (isinstance(inner, dict) and not isinstance(routes, dict))
    return {**engine, "routed_experts": inner if use_inner else routes}


def _read_choice(choice: Doc, position: int, response: _Response) -> WireSample:
    where = f"{response.where}: choice {position}"
    choice = in_common_words(choice, where)
    index = fields.integer(choice.get("index"), where, "index")
    index = position if index is None else index
    meta = fields.mapping(choice.get("meta_info"), where, "meta_info")
    payload = _payload(choice, meta, response, index)
    prompt_ids = _prompt_ids(choice, response, index)
    values, strings = _read_logprobs(choice, meta, where)
    if index == 0 and not values:
        scores = response.dynamo.get("completion_logprobs")
        values = list(fields.sequence(scores, where, "completion_logprobs") or [])
    outputs = fields.sequence(response.extra.get("output_ids"), where, "output_ids") or []
    ids = fields.first_of(choice, ("token_ids", "response_token_ids"))
    ids = outputs[index] if ids is None and index < len(outputs) else ids
    ids = response.dynamo.get("completion_token_ids") if ids is None and index == 0 else ids
    ids = _native_ids(meta, where) if ids is None else ids
    echoed = 0 if prompt_ids is None else len(prompt_ids)
    single = response.num_choices == 1
    counted = _prompt_tokens(meta, response)
    if response.echo and "message" not in choice:
        own = echoed if prompt_ids is not None else counted or 0
        values, strings = values[own:], strings[own:]
    ids = _ids_from_strings(strings) if ids is None else ids
    prompt_ids, media = with_media(prompt_ids, counted)
    response_ids = fields.token_ids(ids, where, "token_ids")
    length = meta.get("completion_tokens") if response_ids is None else len(response_ids)
    length = response.usage.get("completion_tokens") if length is None and single else length
    length = len(values) if length is None and values else length
    response_length = fields.integer(length, where, "completion_tokens")
    if response_length is not None and len(values) == echoed + response_length:
        values = values[echoed:]  # echo=true: the prompt's come first
    logprobs = fields.floats(values, where, "logprobs") if len(values) == response_length else None
    about = meta if meta else choice
    if "weight_versions" not in about and index == 0:
        about = {**about, **fields.mapping(response.doc.get("metadata"), where, "metadata")}
    identity = fields.text(fields.first_of(response.doc, ("id", "request_id")))
    fingerprint = str(response.doc.get("system_fingerprint") or "")
    is_vllm = fingerprint.startswith("vllm-")
    return WireSample(
        where=where,
        payload=payload,
        prompt_payload=response.doc.get("prompt_routed_experts"),
        start=_echoed_start(meta, response),
        sample_id=None if identity is None else f"{identity}/{index}",
        prompt_ids=prompt_ids,
        response_ids=response_ids,
        prompt_length=counted if prompt_ids is None else len(prompt_ids),
        response_length=response_length,
        logprobs=logprobs,
        weight_spans=weight_spans(about, response_length, where),
        finish_reason=fields.finish_reason(fields.first_of(choice, ("finish_reason",))),
        cached_tokens=_cached_tokens(meta, response),
        retractions=fields.integer(about.get("num_retractions"), where, "num_retractions"),
        engine="vllm" if is_vllm else fields.text(choice.get("engine")) or payload_engine(payload),
        engine_version=fingerprint.split("-")[1] if is_vllm else None,
        media_tokens=media,
    )


def read_choices(doc: Doc, request: Doc | None, where: str) -> list[WireSample]:
    """The sequences of one response document, one a choice."""
    name = "choices" if "choices" in doc else "outputs"
    choices = fields.sequence(doc.get(name), where, name)
    if not choices:
        raise FormatError(f"{where}: {name} is empty: the response holds no sequence")
    engine_extra = fields.first_of(doc, ("sglext", "sgl_ext"))
    response = _Response(
        doc=doc,
        extra=fields.mapping(engine_extra, where, "sglext"),
        dynamo=_dynamo(doc, where),
        usage=fields.mapping(doc.get("usage"), where, "usage"),
        prompts=_requested_prompts(request),
        num_choices=len(choices),
        echo=request is not None and bool(request.get("echo")),
        start=requested_start(request, where),
        where=where,
    )
    return [
        _read_choice(fields.mapping(c, where, name), i, response) for i, c in enumerate(choices)
    ]
