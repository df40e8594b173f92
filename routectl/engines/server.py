"""Which engine answers at an address, under which name its model is served, and its endpoints."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import RoutectlError
from ..formats.documents.fields import text
from .http import Address, Reply

__all__ = ["ENDPOINTS", "FLAGS", "Server", "assumed_server", "endpoint_for", "find_server"]

ENDPOINTS = {
    "generate": "/generate",
    "completions": "/v1/completions",
    "chat": "/v1/chat/completions",
    "inference": "/inference/v1/generate",
}
# Source: SGLang 0.5.23, exec_.py; vLLM 0.32, engine/arg_utils.py.
FLAGS = {
    "sglang": "python -m sglang.launch_server ... --enable-return-routed-experts",
    "vllm": "vllm serve ... --enable-return-routed-experts",
}


@dataclass(frozen=True, slots=True)
class Server:
    """A running engine: ``engine`` is sglang, vllm or None where it does not say; ``model`` too."""

    address: Address
    engine: str | None
    version: str | None = None
    model: str | None = None

    @property
    def flag(self) -> str:
        """The command that starts this engine with routed experts."""
        known = FLAGS.get(self.engine or "")
        return known or " or ".join(FLAGS.values())


def _object(ask: Callable[[str], Reply], path: str) -> dict[str, Any]:
    """The JSON object at a path; empty when there is none. Raises RoutectlError without a key."""
    reply = ask(path)
    if reply.status in (401, 403):
        raise RoutectlError(f"{path}: {reply.status}: not let in", hint="--api-key-file FILE")
    if reply.status != 200:
        return {}
    try:
        doc = json.loads(reply.body)
    except (ValueError, RecursionError):
        return {}
    return doc if isinstance(doc, dict) else {}


def _models(ask: Callable[[str], Reply]) -> list[dict[str, Any]]:
    listed = _object(ask, "/v1/models").get("data")
    return [m for m in listed if isinstance(m, dict)] if isinstance(listed, list) else []


def _one_model(models: list[dict[str, Any]], url: str) -> str | None:
    """The name of the model that is no adapter of another; RoutectlError for several."""
    names = [str(m["id"]) for m in models if m.get("id") and not m.get("parent")]
    if len(names) > 1:
        raise RoutectlError(f"{url}: serves {', '.join(names)}", hint="--served-model NAME")
    return names[0] if names else None


def find_server(address: Address, ask: Callable[[str], Reply], model: str | None = None) -> Server:
    """The engine at an address, by what only it answers: SGLang's model info, vLLM's version.

    ``ask`` is a GET; ``model`` is the served name, None to take the server's. Raises RoutectlError
    when nothing there is an engine, and what ``ask`` raises.
    """
    for path in ("/model_info", "/get_model_info"):  # the second name is the older one
        info = _object(ask, path)
        if "model_path" in info:
            version = _object(ask, "/server_info").get("version")
            served = model or text(info.get("served_model_name"))
            return Server(address, "sglang", text(version), served)
    version = _object(ask, "/version").get("version")
    models = _models(ask)
    owners = {str(m.get("owned_by")) for m in models}
    engine = next((name for name in FLAGS if name in owners), None)
    if engine is None and version is not None:
        engine = "vllm"
    if engine is None and not models:
        raise RoutectlError(
            f"{address.url('')}: no engine: neither /model_info (SGLang), /version (vLLM) nor "
            "/v1/models answers as one",
            hint="--endpoint asks it without knowing which it is",
        )
    served = model or _one_model(models, address.url(""))
    return Server(address, engine, text(version) if engine == "vllm" else None, served)


def assumed_server(address: Address, endpoint: str, model: str | None) -> Server:
    """The engine that has an endpoint of its own, not asked; of an OpenAI one it is not known."""
    return Server(address, {"generate": "sglang", "inference": "vllm"}.get(endpoint), None, model)


def endpoint_for(server: Server, kind: str) -> str:
    """The endpoint for a prompt of ``kind`` ids, text or messages: the engine's own if it has one.

    vLLM's is off unless the server was started with --enable-scale-out; completions take ids too.
    """
    if kind == "messages":
        return "chat"
    return "generate" if server.engine == "sglang" else "completions"
