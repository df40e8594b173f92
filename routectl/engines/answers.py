"""An engine's answer, judged as it comes by the readers of dumps, and kept as it was sent."""

import json
from dataclasses import dataclass
from typing import Any

from ..errors import FormatError, UnsupportedError
from ..formats.documents.fields import one_line
from ..formats.responses.dialects import read_document
from ..formats.wire.sample import WireSample, to_sample
from ..model import ModelFacts
from .http import PassingError
from .requests import Request
from .server import Server

__all__ = ["Answer", "judge_answer", "read_answer"]


@dataclass(frozen=True, slots=True)
class Answer:
    """One sample: the line of a text dump that holds request and response, and what it came to.

    ``engine_id`` is the engine's own name of the response, None when it gives none.
    """

    line: bytes
    engine_id: str | None
    tokens: int


def _parse(body: bytes, where: str) -> Any:
    """The JSON document in UTF-8; PassingError where it begins as one and is cut short."""
    try:
        return json.loads(body.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        head = body[:80].lstrip()
    if not body or head.startswith((b"{", b"[")):
        raise PassingError(f"{where}: the answer is cut short: {len(body)} bytes of JSON")
    said = one_line(head.decode("utf-8", "replace"))[:40]
    raise FormatError(f"{where}: no answer of an engine: got {said!r}, expected JSON")


def _line(request: Request, server: Server, body: bytes) -> bytes:
    """Request and response as a line of JSON; of the response only line breaks are replaced.

    Between tokens of JSON they are white space, and inside strings there are none.
    """
    about = {
        "sample_id": request.sample_id,
        "group_id": request.group_id,
        "engine": server.engine,
        "engine_version": server.version,
        "request": request.body,
    }
    head = json.dumps({k: v for k, v in about.items() if v is not None}, ensure_ascii=False)
    flat = body.removeprefix(b"\xef\xbb\xbf").replace(b"\r", b" ").replace(b"\n", b" ").strip()
    return head[:-1].encode() + b', "response": ' + flat + b"}\n"


def judge_answer(
    document: Any, request: Request, server: Server, facts: ModelFacts | None
) -> WireSample:
    """The sequence of an answer, by the readers of dumps; with ``facts`` its payload is decoded.

    Raises PassingError for an answer that was aborted, UnsupportedError when there are no routes in
    it, FormatError when it is no answer or does not fit its tokens or the model.
    """
    where = f"{server.address.url(request.path)}: sample {request.sample_id}"
    wires = read_document(document, dict(request.body), where)
    if len(wires) != 1:
        raise FormatError(f"{where}: got {len(wires)} sequences, expected 1")
    wire = wires[0]
    if wire.finish_reason == "abort":
        raise PassingError(f"{where}: the engine aborted the request")
    if not wire.has_routes:
        raise UnsupportedError(
            f"{where}: no routed_experts in the answer: the server was started without "
            "--enable-return-routed-experts, or something on the way drops them",
            hint=f"start it with {server.flag}",
        )
    if facts is not None and to_sample(wire, facts, None).routes is None:
        raise FormatError(
            f"{where}: routed_experts in the answer are empty: there is no row in them"
        )
    return wire


def read_answer(body: bytes, request: Request, server: Server, facts: ModelFacts | None) -> Answer:
    """An answer as it came, judged and made a line.

    Raises PassingError for one that is cut short, and what ``judge_answer`` raises.
    """
    where = f"{server.address.url(request.path)}: sample {request.sample_id}"
    wire = judge_answer(_parse(body, where), request, server, facts)
    return Answer(_line(request, server, body), wire.sample_id, wire.num_tokens or 0)
