"""An engine's answer, judged as it comes by the readers of dumps, and kept as it was sent."""

import json
from dataclasses import dataclass
from typing import Any

from ..errors import FormatError, UnsupportedError
from ..formats.documents.fields import from_json, one_line
from ..formats.documents.size import check_json
from ..formats.responses.dialects import read_document
from ..formats.wire.sample import WireSample
from ..model import ModelFacts
from .bare import bare_line
from .complaints import is_page, page_text, said_of
from .http import PassingError
from .requests import Request
from .row_counts import check_rows_of_answer, rows_due
from .server import Server

__all__ = ["Answer", "judge_answer", "read_answer"]

_MARK = b"\xef\xbb\xbf"  # of byte order


@dataclass(frozen=True, slots=True)
class Answer:
    """One sample: the line of a text dump that holds request and response, and what it came to.

    ``engine_id`` is the engine's own name of the response, None when it gives none; ``model`` the
    name under which the model was served, and ``version`` the engine's, where they are known.
    """

    line: bytes
    engine_id: str | None
    tokens: int
    model: str | None = None
    version: str | None = None


def _parse(body: bytes, where: str) -> Any:
    """The JSON document in UTF-8; PassingError where it begins as one and is cut short.

    Raises FormatError where it is over a budget, or is no JSON.
    """
    try:
        return from_json(body.removeprefix(_MARK), where)
    except (ValueError, RecursionError):
        head = body[:80].lstrip(_MARK + b" \t\r\n")
    if not body or head.startswith((b"{", b"[")):
        raise PassingError(f"{where}: the answer is cut short: {len(body)} bytes of JSON")
    said = repr(one_line(head.decode("utf-8", "replace"))[:40])
    if is_page(body):
        said += f", a page that says {page_text(body)!r}"
    elif head.startswith((b"data:", b"event:")):
        said += ", a stream of events"
    elif head.startswith(b"\x1f\x8b"):
        said += ", compressed, which was not asked for"
    raise FormatError(f"{where}: no answer of an engine: got {said}, expected JSON")


def _aborted(document: Any) -> str:
    """What an engine says of a request that it aborted: SGLang's finish_reason has a message."""
    if isinstance(document, dict):
        choices = document.get("choices")
        first = choices[0] if isinstance(choices, list) and choices else None
        for place in (document.get("meta_info"), first):
            reason = place.get("finish_reason") if isinstance(place, dict) else None
            if isinstance(reason, dict) and reason.get("message"):
                return f": {said_of(reason['message'])}"
    return ""


def _line(request: Request, server: Server, body: bytes) -> bytes:
    """Request and response as a line of JSON; of the response only line breaks are replaced.

    Between tokens of JSON they are white space, and inside strings there are none.
    """
    about = {
        "sample_id": request.sample_id,
        "group_id": request.group_id,
        "engine": server.engine,
        "engine_version": server.version,
        "served_model": server.model,
        "request": request.body,
    }
    head = json.dumps({k: v for k, v in about.items() if v is not None}, ensure_ascii=False)
    flat = body.removeprefix(_MARK).replace(b"\r", b" ").replace(b"\n", b" ").strip()
    return head[:-1].encode() + b', "response": ' + flat + b"}\n"


def judge_answer(
    document: Any, request: Request, server: Server, facts: ModelFacts | None
) -> WireSample:
    """The sequence of an answer, by the readers of dumps; with ``facts`` its payload is decoded.

    Raises PassingError for an answer that was aborted, UnsupportedError when there are no routes in
    it, FormatError when it is no answer, or its rows are not exactly those of its tokens and of the
    model.
    """
    where = f"{server.address.url(request.path)}: sample {request.sample_id}"
    if isinstance(document, dict) and document.get("error") and "choices" not in document:
        raise FormatError(f"{where}: an error response: {said_of(document)}")
    wires = read_document(document, dict(request.body), where)
    if len(wires) != 1:
        raise FormatError(f"{where}: got {len(wires)} sequences, expected 1")
    wire = wires[0]
    if wire.finish_reason == "abort":
        raise PassingError(f"{where}: the engine aborted the request{_aborted(document)}")
    if wire.has_routes:
        check_rows_of_answer(wire, facts, server, where)
    elif wire.num_tokens is None or rows_due(wire):  # SGLang leaves out what has no row
        raise UnsupportedError(
            f"{where}: no routed_experts in the answer: the server was started without "
            "--enable-return-routed-experts, or something on the way drops them",
            hint=f"start it with {server.flag}",
        )
    return wire


def read_answer(
    body: bytes, request: Request, server: Server, facts: ModelFacts | None, *, tokens: bool = True
) -> Answer:
    """An answer as it came, judged and made a line; with ``tokens`` false without ids and text.

    Raises PassingError for one that is cut short, what ``judge_answer`` raises, and FormatError
    where the line is over a budget, though the answer is not: it could not be read again.
    """
    where = f"{server.address.url(request.path)}: sample {request.sample_id}"
    wire = judge_answer(_parse(body, where), request, server, facts)
    line = _line(request, server, body) if tokens else bare_line(request, server, wire)
    check_json(line, where)
    return Answer(line, wire.sample_id, wire.num_tokens or 0, server.model, server.version)
