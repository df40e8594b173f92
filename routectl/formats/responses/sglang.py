"""SGLang's native ``/generate`` and ``Engine.generate`` outputs: ``meta_info.routed_experts``.

Source: SGLang 0.5.23, tokenizer_manager and detokenizer_manager.
"""

from typing import Any

from ..documents import fields
from ..documents.fields import Doc
from ..wire.sample import WireSample, with_media
from .openai import START_NAMES, requested_start
from .weight_versions import weight_spans

__all__ = ["Outputs", "merge_output", "read_generate"]

Outputs = dict[tuple[str | None, int | None], dict[str, Any]]  # by id and index, each whole so far


def _prompt_of(item: Doc, meta: Doc, asked: Any, where: str) -> Any:
    """Prompt ids from the output, the request or the prompt's log-probs; None when nowhere."""
    if item.get("prompt_token_ids") is not None:
        return item["prompt_token_ids"]
    if isinstance(asked, list) and all(isinstance(i, int) for i in asked):
        return asked
    scored = fields.scored_tokens(meta, "input_token_logprobs", where)
    return [t[1] for t in scored] if scored and len(scored) == meta.get("prompt_tokens") else None


def _read_output(item: Doc, asked: Any, start: int | None, where: str) -> WireSample:
    meta = fields.mapping(item.get("meta_info"), where, "meta_info")
    scored = fields.scored_tokens(meta, "output_token_logprobs", where)
    prompt = fields.token_ids(_prompt_of(item, meta, asked, where), where, "prompt_token_ids")
    counted = fields.integer(meta.get("prompt_tokens"), where, "prompt_tokens")
    prompt, media = with_media(prompt, counted)
    ids = item.get("output_ids")
    ids = [t[1] for t in scored] if ids is None and scored else ids
    response = fields.token_ids(ids, where, "output_ids")
    length = fields.integer(
        meta.get("completion_tokens") if response is None else len(response),
        where,
        "completion_tokens",
    )
    logprobs = (
        fields.floats([t[0] for t in scored], where, "output_token_logprobs") if scored else None
    )
    echoed = fields.integer(fields.first_of(meta, START_NAMES), where, "start of routed_experts")
    return WireSample(
        where=where,
        payload=meta.get("routed_experts"),
        start=start if echoed is None else echoed,
        sample_id=fields.text(meta.get("id")),
        prompt_ids=prompt,
        response_ids=response,
        prompt_length=counted if prompt is None else len(prompt),
        response_length=length,
        logprobs=logprobs if logprobs is not None and len(logprobs) == length else None,
        weight_spans=weight_spans(meta, length, where),
        finish_reason=fields.finish_reason(meta.get("finish_reason")),
        cached_tokens=fields.integer(meta.get("cached_tokens"), where, "cached_tokens"),
        retractions=fields.integer(meta.get("num_retractions"), where, "num_retractions"),
        engine="sglang",
        media_tokens=media,
    )


def read_generate(items: list[Any], request: Doc | None, where: str) -> list[WireSample]:
    """The outputs of one request: prompts in order, the n samples of each in a row."""
    asked = None if request is None else fields.first_of(request, ("input_ids", "text", "prompt"))
    batch = isinstance(asked, list) and bool(asked) and not isinstance(asked[0], int)
    prompts: list[Any] = asked if isinstance(asked, list) and batch else [asked]
    each = max(1, len(items) // max(1, len(prompts)))
    start = requested_start(request, where)
    return [
        _read_output(
            fields.mapping(item, where, "output"),
            prompts[min(i // each, len(prompts) - 1)],
            start,
            where if len(items) == 1 else f"{where}: output {i}",
        )
        for i, item in enumerate(items)
    ]


def merge_output(outputs: Outputs, chunk: Doc, where: str) -> None:
    """Add a chunk of a ``/generate`` stream to the outputs: per id the last one, with all ids.

    ``output_ids`` of a chunk are all so far, or with incremental output only the new ones;
    ``completion_tokens`` tells which.
    """
    meta = fields.mapping(chunk.get("meta_info"), where, "meta_info")
    key = (fields.text(meta.get("id")), fields.integer(chunk.get("index"), where, "index"))
    before: list[Any] = outputs.get(key, {}).get("output_ids") or []
    ids = fields.sequence(chunk.get("output_ids"), where, "output_ids")
    if ids is not None and len(ids) != meta.get("completion_tokens", len(ids)):
        before += ids  # in place, or a stream of n chunks would be copied n times
        ids = before
    outputs[key] = {**chunk, "output_ids": ids}
