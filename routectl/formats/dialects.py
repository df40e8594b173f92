"""One JSON document in, its sequences out: which of the dialects is it?"""

from typing import Any

from .fields import Doc, mapping
from .offline import PAYLOAD_NAMES, read_record
from .openai import read_choices
from .sglang import read_generate
from .wire import NoSamplesError, WireSample

__all__ = ["read_document"]


def _error_text(doc: Doc) -> str:
    error = doc["error"]
    message = error.get("message") if isinstance(error, dict) else error
    return str(message).splitlines()[0][:120] if message else "no message"


def read_document(doc: Any, request: Doc | None, where: str) -> list[WireSample]:
    """The sequences of a document: a response, a request/response pair, a record or a list.

    Raises NoSamplesError when it is JSON of another kind (an error response, a configuration).
    """
    if isinstance(doc, list):
        if doc and all(isinstance(item, dict) and "meta_info" in item for item in doc):
            return read_generate(doc, request, where)
        return [
            wire
            for i, item in enumerate(doc)
            for wire in read_document(item, request, f"{where}: item {i}")
        ]
    if not isinstance(doc, dict):
        raise NoSamplesError(f"{where}: no response: got {type(doc).__name__}, expected an object")
    if "response" in doc and isinstance(doc.get("request"), dict):
        return read_document(doc["response"], mapping(doc["request"], where, "request"), where)
    if "meta_info" in doc:
        return read_generate([doc], request, where)
    if "choices" in doc or ("outputs" in doc and "request_id" in doc):
        return read_choices(doc, request, where)
    if any(name in doc for name in PAYLOAD_NAMES):
        return [read_record(doc, where)]
    if doc.get("error"):
        raise NoSamplesError(f"{where}: an error response: {_error_text(doc)}")
    raise NoSamplesError(f"{where}: JSON without routed_experts, choices or meta_info")
