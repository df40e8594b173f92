"""One JSON document in, its sequences out: which of the dialects is it?"""

from dataclasses import replace
from typing import Any

from ...errors import FormatError
from ..documents.fields import Doc, mapping, one_line, text
from ..documents.forms import unlike
from ..documents.own import own_document
from ..wire.sample import NoSamplesError, WireSample
from .megatron import is_megatron_request, request_as_record
from .offline import is_record, read_record
from .openai import read_choices
from .sglang import read_generate
from .traces import (
    is_gateway_trace,
    is_session,
    read_gateway_trace,
    read_session,
    refuse_nemo_trace,
)

__all__ = ["read_document"]

_FORMS_WITHOUT = {"response": "/v1/responses", "message": "/v1/messages"}  # by object, or type
_OWN = ("sample_id", "group_id", "engine", "engine_version")


def _error_text(doc: Doc) -> str:
    error = doc["error"]
    message = error.get("message") if isinstance(error, dict) else error
    return one_line(message) if message else "no message"


def _read_list(items: list[Any], request: Doc | None, where: str) -> list[WireSample]:
    """The sequences of all items; one item without any among others that have some is an error."""
    wires: list[WireSample] = []
    nothing: NoSamplesError | None = None
    for i, item in enumerate(items):
        try:
            wires += read_document(item, request, f"{where}: item {i}")
        except NoSamplesError as error:
            nothing = nothing or error
    if nothing is not None:
        raise FormatError(str(nothing)) if wires else nothing
    return wires


def _named(wires: list[WireSample], doc: Doc) -> list[WireSample]:
    """The sequences of a request and its response, with what the pair says of them itself."""
    own = {name: text(doc.get(name)) for name in _OWN}
    known: dict[str, Any] = {name: value for name, value in own.items() if value is not None}
    if len(wires) > 1 and "sample_id" in known:
        name = known.pop("sample_id")
        wires = [replace(wire, sample_id=f"{name}/{i}") for i, wire in enumerate(wires)]
    return [replace(wire, **known) for wire in wires] if known else wires


def read_document(doc: Any, request: Doc | None, where: str) -> list[WireSample]:
    """The sequences of a document: a response, a request/response pair, a record or a list.

    Raises NoSamplesError when it is JSON of another kind (an error response, a configuration).
    """
    if isinstance(doc, list):
        if doc and all(isinstance(item, dict) and "meta_info" in item for item in doc):
            return read_generate(doc, request, where)
        return _read_list(doc, request, where)
    if not isinstance(doc, dict):
        raise NoSamplesError(f"{where}: no response: got {type(doc).__name__}, expected an object")
    own = own_document(doc.get("schema"))
    if own is not None:
        raise NoSamplesError(f"{where}: {own[0]}, not a dump", hint=own[1])
    if is_session(doc):
        return read_session(doc, where, read_document)
    if "response" in doc and isinstance(doc.get("request"), dict):
        asked = mapping(doc["request"], where, "request")
        return _named(read_document(doc["response"], asked, where), doc)
    if "meta_info" in doc:
        return read_generate([doc], request, where)
    if "choices" in doc or ("outputs" in doc and "request_id" in doc):
        return read_choices(doc, request, where)
    if is_gateway_trace(doc):
        return [read_gateway_trace(doc, where)]
    refuse_nemo_trace(doc, where)
    if is_megatron_request(doc):
        return [read_record(request_as_record(doc, where), where)]
    if is_record(doc):
        return [read_record(doc, where)]
    if doc.get("error"):
        raise NoSamplesError(f"{where}: an error response: {_error_text(doc)}")
    form = _FORMS_WITHOUT.get(str(doc.get("object") or doc.get("type")))
    if form is not None and ("output" in doc or "content" in doc):
        raise NoSamplesError(
            f"{where}: an answer of {form}, and no engine's carries routes",
            hint="ask /v1/chat/completions instead",
        )
    what = "JSON without routed_experts, choices or meta_info"
    raise NoSamplesError(f"{where}: {what}: {unlike(doc, 'json')}")
