"""Which engine answers at an address, under which name its model is served, and its endpoints."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ..errors import RoutectlError
from ..formats.documents.fields import from_json, text
from .complaints import body_or_raise
from .http import Address, Reply
from .patience import GaveUpError

__all__ = [
    "ENDPOINTS",
    "FLAGS",
    "Server",
    "endpoint_for",
    "endpoint_in",
    "find_server",
]

ENDPOINTS = {
    "generate": "/generate",
    "completions": "/v1/completions",
    "chat": "/v1/chat/completions",
    "inference": "/inference/v1/generate",
}
_ENGINE_OF = {"generate": "sglang", "inference": "vllm"}  # endpoints of one engine alone
_OTHER_PATHS = (  # what else is copied out of a client or a browser
    *("/v1/responses", "/v1/messages", "/v1/models", "/v1/embeddings", "/health", "/metrics"),
    *("/model_info", "/get_model_info", "/server_info", "/get_server_info", "/version", "/docs"),
)
# Source: SGLang 0.5.23, exec_.py; vLLM 0.32, engine/arg_utils.py.
FLAGS = {
    "sglang": "python -m sglang.launch_server ... --enable-return-routed-experts",
    "vllm": "vllm serve ... --enable-return-routed-experts",
}

_MODEL_INFO = ("/model_info", "/get_model_info")  # SGLang's; the second name is the older one

_Ask = Callable[[str], Reply]


@dataclass(frozen=True, slots=True)
class Server:
    """A running engine: ``engine`` is sglang, vllm or None where it does not say.

    ``model`` is the name under which its model is served and ``weights`` the path or hub name that
    it was loaded from; ``seeds`` whether samples are drawn by their seeds. Each may not be known.
    """

    address: Address
    engine: str | None
    version: str | None = None
    model: str | None = None
    weights: str | None = None
    seeds: bool | None = None

    @property
    def flag(self) -> str:
        """The command that starts this engine with routed experts."""
        known = FLAGS.get(self.engine or "")
        return known or " or ".join(FLAGS.values())

    @property
    def name(self) -> str:
        """The engine and its version, as far as they are known, for a message."""
        return f"{self.engine or 'a server of unknown kind'} {self.version or ''}".rstrip()


def endpoint_in(url: str) -> tuple[str, str | None]:
    """A URL without the path of an endpoint at its end, and which endpoint that was, or None.

    Raises RoutectlError for another path of an engine.
    """
    bare = url.rstrip("/")
    path = "/".join(["", *bare.split("://")[-1].split("/")[1:]])
    for name, end in sorted(ENDPOINTS.items(), key=lambda item: -len(item[1])):
        if path.endswith(end):
            return bare.removesuffix(end), name
    for end in _OTHER_PATHS:
        if path.endswith(end):
            raise RoutectlError(
                f"{url}: {end} is no endpoint that gives routes",
                hint=f"name the server alone: {bare.removesuffix(end)}",
            )
    return url, None


def _object(ask: _Ask, path: str, address: Address) -> dict[str, Any]:
    """The JSON object at a path; empty when there is none.

    Raises RoutectlError without a key, and where the path is redirected.
    """
    reply = ask(path)
    if reply.status in (401, 403) or 300 <= reply.status < 400:
        with_key = address.key is not None
        body_or_raise(reply, address.url(path), url=address.url(path), with_key=with_key)
    if reply.status != 200:
        return {}
    try:
        doc = from_json(reply.body, address.url(path))
    except (ValueError, RecursionError):
        return {}
    return doc if isinstance(doc, dict) else {}


def _told(ask: _Ask, paths: tuple[str, ...], address: Address) -> dict[str, Any]:
    """The object at the first of some paths that has one: what a server need not tell.

    Raises GaveUpError when nobody answers.
    """
    for path in paths:
        try:
            found = _object(ask, path, address)
        except GaveUpError as error:
            if error.away:
                raise
            break  # it hangs or fails: by its other name it would too
        except RoutectlError:  # one may ask for samples, and not for this
            continue
        if found:
            return found
    return {}


def _models(ask: _Ask, address: Address) -> list[dict[str, Any]]:
    listed = _object(ask, "/v1/models", address).get("data")
    return [m for m in listed if isinstance(m, dict)] if isinstance(listed, list) else []


def _one_model(models: list[dict[str, Any]], url: str) -> str | None:
    """The name of the model that is no adapter of another; RoutectlError for several."""
    names = [str(m["id"]) for m in models if m.get("id") and not m.get("parent")]
    if len(names) > 1:
        raise RoutectlError(f"{url}: serves {', '.join(names)}", hint="--request model=NAME")
    return names[0] if names else None


def _of_info(address: Address, info: dict[str, Any], model: str | None) -> Server:
    served = model or text(info.get("served_model_name"))
    return Server(address, "sglang", None, served, text(info.get("model_path")))


def _sglang(ask: _Ask, server: Server) -> Server:
    """SGLang with its version, and whether it draws by seeds.

    ``sampling_seed`` is dropped unless the server runs with --enable-deterministic-inference.
    Source: SGLang 0.5.23, sampling/sampling_batch_info.py; /server_info, before /get_server_info.
    """
    told = _told(ask, ("/server_info", "/get_server_info"), server.address)
    seeds = told.get("enable_deterministic_inference")
    return replace(
        server,
        version=text(told.get("version")),
        seeds=seeds if isinstance(seeds, bool) else None,
        weights=server.weights or text(told.get("model_path")),
    )


def find_server(
    address: Address, ask: _Ask, endpoint: str | None = None, model: str | None = None
) -> Server:
    """The engine at an address, by what only it answers: SGLang's model info, vLLM's version.

    ``ask`` is a GET; ``endpoint`` is the one to be asked for samples, None where that is open;
    ``model`` is the served name, None to take the server's. An endpoint of one engine alone says
    which it is, and nothing need be told beside. Raises RoutectlError when nothing there is an
    engine, and what ``ask`` raises.
    """
    given, sure = _ENGINE_OF.get(endpoint or ""), endpoint is not None and model is not None
    if given == "sglang":
        info = _told(ask, _MODEL_INFO, address)
        return _sglang(ask, _of_info(address, info, model))
    if given == "vllm":
        version = text(_told(ask, ("/version",), address).get("version"))
        return Server(address, given, version, model, seeds=True)
    for path in _MODEL_INFO:
        info = _told(ask, (path,), address) if sure else _object(ask, path, address)
        if "model_path" in info:
            return _sglang(ask, _of_info(address, info, model))
    version = text(_told(ask, ("/version",), address).get("version"))
    models = [] if sure else _models(ask, address)
    owners = {str(m.get("owned_by")) for m in models}
    engine = next((name for name in FLAGS if name in owners), None)
    if engine is None and version is not None:
        engine = "vllm"
    if engine is None and not models and not sure:
        raise RoutectlError(
            f"{address.url('')}: no engine: neither /model_info (SGLang), /version (vLLM) nor "
            "/v1/models answers as one",
            hint="--endpoint asks it without knowing which it is"
            + ("" if endpoint is None else ", with --request model=NAME"),
        )
    served = model or _one_model(models, address.url(""))
    weights = next((text(m.get("root")) for m in models if m.get("id") == served), None)
    seeds = True if engine == "vllm" else None
    return Server(address, engine, version if engine == "vllm" else None, served, weights, seeds)


def endpoint_for(server: Server, kind: str) -> str:
    """The endpoint for a prompt of ``kind`` ids, text or messages: the engine's own if it has one.

    vLLM's is off unless the server was started with --enable-scale-out; completions take ids too.
    """
    if kind == "messages":
        return "chat"
    return "generate" if server.engine == "sglang" else "completions"
