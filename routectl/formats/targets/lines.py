"""JSON lines: the responses of vLLM and SGLang, and NeMo-RL's records with an ``nrlre1`` string.

Shape suffixes: R rows, W layers, K top_k.
"""

import base64
import io
import json
import re
from collections.abc import Callable
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ...dump import Sample
from ...errors import UnsupportedError
from .rows import Feed, TargetRows, tokens_of

__all__ = ["write_lines"]

_NUMBERED = re.compile(r"(.*)/(\d{1,9})", re.DOTALL)
Doc = dict[str, Any]


def _numbers(values: NDArray[Any] | None) -> list[Any] | None:
    """A list that JSON has; nan, which it has not, is null."""
    if values is None:
        return None
    listed = values.tolist()
    return [None if x != x else x for x in listed] if values.dtype.kind == "f" else listed


def _base64(data: bytes | memoryview) -> str:
    return base64.b64encode(data).decode("ascii")


def _spans(sample: Sample) -> list[Doc]:
    return [{"version": s.version, "start": s.start, "end": s.end} for s in sample.weight_spans]


def _known(doc: Doc) -> Doc:
    """The entries that have a value."""
    return {name: value for name, value in doc.items() if value is not None}


def _vllm(placed: TargetRows, where: str) -> Doc:
    """A ``/v1/completions`` response of one choice; the payload is the base64 of a .npy file.

    Source: vLLM 0.32.0. A sample id that ends in /N is choice N, as routectl names choices.
    """
    sample, payload = placed.sample, None
    if placed.ids_RWK is not None:
        stream = io.BytesIO()
        np.save(stream, np.ascontiguousarray(placed.ids_RWK), allow_pickle=False)
        payload = _base64(stream.getbuffer())
    numbered = _NUMBERED.fullmatch(sample.sample_id or "")
    logprobs = _numbers(sample.logprobs)
    usage: Doc = {
        "prompt_tokens": sample.prompt_length,
        "completion_tokens": sample.response_length,
    }
    if sample.cached_tokens is not None:
        usage |= {"prompt_tokens_details": {"cached_tokens": sample.cached_tokens}}
    choice = {
        "index": int(numbered[2]) if numbered else 0,
        "text": "",
        "prompt_token_ids": _numbers(sample.prompt_ids),
        "token_ids": _numbers(sample.response_ids),
        "logprobs": None if logprobs is None else {"token_logprobs": logprobs},
        "finish_reason": sample.finish_reason,
        "routed_experts": payload,
        "weight_versions": _spans(sample) or None,
    }
    identity = numbered[1] if numbered else sample.sample_id
    return _known(
        {"id": identity, "object": "text_completion", "choices": [choice], "usage": _known(usage)}
    )


def _sglang(placed: TargetRows, where: str) -> Doc:
    """A ``/generate`` response; the payload is the base64 of raw little-endian int32.

    Source: SGLang 0.5.23 (detokenizer_manager.py).
    """
    sample, ids = placed.sample, placed.ids_RWK
    payload = None if ids is None else _base64(np.ascontiguousarray(ids, "<i4").tobytes())
    scored = None
    if sample.logprobs is not None and sample.response_ids is not None:
        values = _numbers(sample.logprobs) or []
        pairs = zip(values, sample.response_ids.tolist(), strict=True)
        scored = [[value, token, None] for value, token in pairs]
    meta = {
        "id": sample.sample_id,
        "finish_reason": sample.finish_reason and {"type": sample.finish_reason},
        "prompt_tokens": sample.prompt_length,
        "completion_tokens": sample.response_length,
        "cached_tokens": sample.cached_tokens,
        "num_retractions": sample.retractions,
        "weight_versions": _spans(sample) or None,
        "output_token_logprobs": scored,
        "routed_experts": payload,
    }
    return _known(
        {
            "text": "",
            "prompt_token_ids": _numbers(sample.prompt_ids),
            "output_ids": _numbers(sample.response_ids),
            "meta_info": _known(meta),
        }
    )


def _nemo(placed: TargetRows, where: str) -> Doc:
    """NeMo Gym's training record: ``nrlre1:<dtype>:<R>x<L>x<K>:<base64>``.

    Source: NeMo-RL 7ea279ab (utils/routed_experts_codec.py, encode_routed_experts).
    """
    sample, ids_RLK = placed.sample, placed.ids_RWK
    assert ids_RLK is not None
    tokens_of(sample, where)
    shape = "x".join(map(str, ids_RLK.shape))
    little = np.ascontiguousarray(ids_RLK, ids_RLK.dtype.newbyteorder("<"))
    return _known(
        {
            "id": sample.sample_id,
            "prompt_token_ids": _numbers(sample.prompt_ids),
            "generation_token_ids": _numbers(sample.response_ids),
            "generation_log_probs": _numbers(sample.logprobs),
            "routed_experts": f"nrlre1:{ids_RLK.dtype}:{shape}:{_base64(little.tobytes())}",
        }
    )


_FORMS: dict[str, Callable[[TargetRows, str], Doc]] = {
    "jsonl": _vllm,
    "jsonl-sglang": _sglang,
    "nemo-rl": _nemo,
}


def write_lines(feed: Feed, stream: IO[bytes]) -> int:
    """Write one line a sample, each as it is read; returns how many.

    Raises UnsupportedError for a log-prob that JSON cannot hold; one that is not known is null.
    """
    form, count = _FORMS[feed.shape.target.name], 0
    for placed in feed:
        where = feed.where(placed.index, placed.sample)
        if placed.sample.logprobs is not None and np.isinf(placed.sample.logprobs).any():
            raise UnsupportedError(
                f"{where}: has a log-prob that is infinite, for which JSON has no number",
                hint="a native file, or --to npz, holds it",
            )
        doc = form(placed, where)
        stream.write(json.dumps(doc, separators=(",", ":"), allow_nan=False).encode() + b"\n")
        count += 1
    return count
