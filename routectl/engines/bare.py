"""An answer without what was asked and what was said: no token ids, no text.

What is kept is named here; whatever else an engine or a gateway sends is left out.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from ..errors import UnsupportedError
from ..formats.wire.sample import WireSample
from .requests import Request
from .server import Server

__all__ = ["bare_line"]

_WORD = re.compile(r"[\w-]{1,32}", re.ASCII)  # of a finish reason


def _numbers(body: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers and switches of a request, those among its sampling parameters too."""
    kept: dict[str, Any] = {}
    for name, value in body.items():
        if value is None or isinstance(value, bool | int | float):
            kept[name] = value
        elif name == "sampling_params" and isinstance(value, dict):
            kept[name] = _numbers(value)
    return kept


def _record(wire: WireSample) -> dict[str, Any]:
    """A flat record of a sequence, as readers of dumps know it: see formats.responses.offline."""
    reason = wire.finish_reason or ""
    scores = None if wire.logprobs is None else wire.logprobs.tolist()
    return {
        "start": wire.said_start,
        "prompt_length": wire.prompt_length,
        "response_length": wire.response_length,
        "finish_reason": reason if _WORD.fullmatch(reason) else None,
        "cached_tokens": wire.cached_tokens,
        "num_retractions": wire.retractions,
        "weight_versions": [
            {"version": span.version, "start": span.start, "end": span.end}
            for span in wire.weight_spans
        ]
        or None,
        "logprobs": scores and [score if math.isfinite(score) else None for score in scores],
        "routed_experts": wire.payload,
    }


def bare_line(request: Request, server: Server, wire: WireSample) -> bytes:
    """A sample as a line of a text dump: its routes, counts and log-probabilities.

    Raises UnsupportedError for routes in two parts, which a record has no place for.
    """
    if wire.prompt_payload is not None:
        raise UnsupportedError(
            f"{wire.where}: routes of vLLM 0.21, in two parts: not without tokens"
        )
    record = _record(wire)
    about = {
        "sample_id": request.sample_id,
        "group_id": request.group_id,
        "engine": server.engine or wire.engine,
        "engine_version": server.version,
        "served_model": server.model,
        "request": _numbers(request.body),
        "response": {
            name: value
            for name, value in record.items()
            if value is not None or name == "routed_experts"
        },
    }
    kept = {name: value for name, value in about.items() if value is not None}
    return json.dumps(kept, ensure_ascii=False, allow_nan=False).encode() + b"\n"
