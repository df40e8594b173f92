"""Documents that gather calls: sessions, gateway traces; and traces of routes that hold none."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ...errors import FormatError
from ..documents.fields import Doc, first_of, mapping, one_line, sequence, text
from ..wire.fireworks import from_pti
from ..wire.sample import NoSamplesError, WireSample

__all__ = [
    "is_gateway_trace",
    "is_session",
    "read_gateway_trace",
    "read_session",
    "refuse_nemo_trace",
]

_NEMO_EVENTS = (
    "rollout_payload_sample",
    "policy_payload_sample",
    "tq_fetch_sample",
    "cp_routed_experts",
    "router_replay_assignment",
    "router_replay_action",
    "router_replay_forward_verify",
)
_Read = Callable[[Any, Doc | None, str], list[WireSample]]


def _gateway_data(doc: Doc, name: str, where: str) -> str | None:
    part = mapping(mapping(doc.get("payloads"), where, "payloads").get(name), where, name)
    data = part.get("data")
    if data is not None and not isinstance(data, str):
        raise FormatError(f"{where}: {name}: got {type(data).__name__}, expected base64")
    return data or None


def is_gateway_trace(doc: Doc) -> bool:
    """Whether a document is a trace of Fireworks' gateway with its payloads."""
    payloads = doc.get("payloads")
    return isinstance(payloads, dict) and "router_replay" in payloads


def read_gateway_trace(doc: Doc, where: str) -> WireSample:
    """The sequence of one trace of ``/v1/traces/pointwise?include_payloads=true``.

    Source: eval-protocol python-sdk 3393c047 (adapters/fireworks_tracing.py): R3/v1 in
    ``payloads.router_replay.data``, the prompt's ids in ``payloads.prompt_token_ids.data``.
    """
    tokens = _gateway_data(doc, "prompt_token_ids", where)
    prompt = None if tokens is None else from_pti(tokens, where)
    return WireSample(
        where=where,
        payload=_gateway_data(doc, "router_replay", where),
        sample_id=text(first_of(doc, ("id", "trace_id"))),
        prompt_ids=prompt,
        prompt_length=None if prompt is None else len(prompt),
    )


def is_session(doc: Doc) -> bool:
    """Whether a document says which session its calls are of."""
    return doc.get("session_id") is not None and ("records" in doc or "response" in doc)


def read_session(doc: Doc, where: str, read: _Read) -> list[WireSample]:
    """The calls of one session, named by it; choice n > 0 of a call is a sample of its own.

    Source: miles 31f1ca96 (rollout/session): ``GET /sessions/<id>`` answers with ``session_id``
    and ``records`` of {request, response}; a log of its calls has a line a record.
    """
    calls = sequence(doc.get("records"), where, "records") if "records" in doc else [doc]
    name, wires = text(doc["session_id"]), []
    for i, call in enumerate(calls or ()):
        inner = {
            key: value
            for key, value in mapping(call, where, "records").items()
            if key != "session_id"
        }
        of_call = read(inner, None, where if "records" not in doc else f"{where}: record {i}")
        wires += [replace(w, sample_id=f"{name}/{n}" if n else name) for n, w in enumerate(of_call)]
    if not wires:
        raise NoSamplesError(f"{where}: session {one_line(name)} has no records")
    return wires


def refuse_nemo_trace(doc: Doc, where: str) -> None:
    """Raise NoSamplesError for a line of NeMo-RL's R3 trace, which has digests and no routes.

    Source: NeMo-RL 7ea279ab (NRL_R3_TRACE, r3_trace_HOST_pidPID.jsonl; tools/check_r3_trace.py).
    """
    if doc.get("event") in _NEMO_EVENTS and not isinstance(doc.get("routed_experts"), str):
        raise NoSamplesError(
            f"{where}: NeMo-RL's R3 trace: shapes, digests and previews of routes, not routes",
            hint="records with nrlre1 strings hold them: NeMo Gym's rollouts",
        )
