"""What an endpoint is asked: one request a sample, its body as the engine's documents have it.

Source: SGLang 0.5.23, managers/io_struct.py and entrypoints/openai/protocol.py; vLLM 0.32.0,
entrypoints/openai and scale_out/token_in_token_out/protocol.py; vLLM 0.33.0 for weight versions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import RoutectlError
from .parameters import check_places, tells_versions
from .prompts import Prompt
from .server import ENDPOINTS, Server, endpoint_for

__all__ = ["Request", "Sampling", "plan_requests"]

_WHOLE = "routes come with the last chunk or not at all, so whole answers are asked for"
_PROMPTS = "prompts are in the file of --prompts"
_READ = "it is asked for by capture itself, which reads what comes of it"
_OURS = {  # what capture sets, and how else to get what is wanted
    **dict.fromkeys(("n", "best_of"), "--n N asks for N samples of every prompt"),
    **dict.fromkeys(("stream", "stream_options"), _WHOLE),
    **dict.fromkeys(("prompt", "messages", "input_ids", "token_ids", "text", "echo"), _PROMPTS),
    "sampling_params": "--sampling NAME=VALUE, once for each",
    "use_beam_search": "engines give no routes of a beam search",
    "beam_width": "engines give no routes of a beam search",
    **dict.fromkeys(("return_routed_experts", "return_token_ids", "return_meta_info"), _READ),
    "return_prompt_token_ids": _READ,
}


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn; ``seed`` is of a prompt's first sample, one more of each next one.

    ``more`` holds options by the engine's own names, and comes before the others; ``fields`` are
    those of the request itself, at the top of its body.
    """

    max_tokens: int = 256
    temperature: float = 1.0
    seed: int | None = None
    more: Mapping[str, Any] = field(default_factory=dict)
    fields: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise RoutectlError for what is not free to set."""
        for flag, given in (("--sampling", self.more), ("--request", self.fields)):
            _refuse_ours(flag, given)


def _refuse_ours(where: str, given: Mapping[str, Any]) -> None:
    for name in given:
        if name in _OURS:
            raise RoutectlError(f"{where} {name} is not free to set", hint=_OURS[name])


@dataclass(frozen=True, slots=True)
class Request:
    """One sample to be asked for: ``endpoint`` and ``body`` of the POST, and whose it is."""

    sample_id: str
    group_id: str
    endpoint: str
    body: Mapping[str, Any]

    @property
    def path(self) -> str:
        """The path of the endpoint."""
        return ENDPOINTS[self.endpoint]


def _options(
    sampling: Sampling, prompt: Prompt, number: int, names: Sequence[str]
) -> dict[str, Any]:
    """Sampling options under an endpoint's names for max_tokens and seed."""
    max_tokens, seed = names
    own = {max_tokens: sampling.max_tokens, "temperature": sampling.temperature}
    if sampling.seed is not None:
        own[seed] = sampling.seed + number
    _refuse_ours(f"prompt {prompt.name}: sampling option", prompt.sampling)
    return {**own, **sampling.more, **prompt.sampling}


def _generate(prompt: Prompt, options: dict[str, Any]) -> dict[str, Any]:
    asked: dict[str, Any] = {"input_ids": prompt.value}
    if prompt.kind == "text":
        asked = {"text": prompt.value, "return_prompt_token_ids": True}
    return {
        **asked,
        "sampling_params": options,
        "return_logprob": True,
        "return_routed_experts": True,
    }


def _openai(prompt: Prompt, options: dict[str, Any], server: Server) -> dict[str, Any]:
    """A completion or a chat. vLLM has no switch for routes; a server of unknown kind gets all."""
    chat = prompt.kind == "messages"
    body: dict[str, Any] = {"messages" if chat else "prompt": prompt.value, **options}
    body |= {"logprobs": True if chat else 1, "return_token_ids": True}
    if server.engine != "vllm":
        body["return_routed_experts"] = True
        if chat:
            body |= {"return_meta_info": True, "return_prompt_token_ids": True}
    if tells_versions(server):
        body["return_weight_versions"] = True
    return body


def _body(server: Server, endpoint: str, prompt: Prompt, sampling: Sampling, number: int) -> Any:
    takes = {
        "generate": ("ids", "text"),
        "completions": ("ids", "text"),
        "chat": ("messages",),
        "inference": ("ids",),
    }[endpoint]
    if prompt.kind not in takes:
        raise RoutectlError(
            f"prompt {prompt.name}: --endpoint {endpoint} takes "
            f"{' or '.join(takes)}, got {prompt.kind}"
        )
    check_places(server, endpoint, (*sampling.more, *prompt.sampling), sampling.fields)
    if endpoint == "generate":
        names = ("max_new_tokens", "sampling_seed")
        options = _options(sampling, prompt, number, names)
        return {**_generate(prompt, options), **sampling.fields}
    options = _options(sampling, prompt, number, ("max_tokens", "seed"))
    model = {} if server.model is None else {"model": server.model}
    if endpoint == "inference":
        body = {"token_ids": prompt.value, "sampling_params": {**options, "logprobs": 1}}
    else:
        body = _openai(prompt, options, server)
    return {**model, **body, **sampling.fields}


def plan_requests(
    server: Server, prompts: Sequence[Prompt], sampling: Sampling, n: int, endpoint: str | None
) -> list[Request]:
    """A request for each of ``n`` samples of every prompt, named PROMPT/0, PROMPT/1, ...

    ``endpoint`` is one of ENDPOINTS, None for the one that suits server and prompt. One sample a
    request: SGLang's completions carry the routes of the first of n alone. Raises RoutectlError
    for a prompt that the endpoint does not take.
    """
    planned = []
    for prompt in prompts:
        name = endpoint or endpoint_for(server, prompt.kind)
        for number in range(n):
            body = _body(server, name, prompt, sampling, number)
            sample_id = f"{prompt.name}/{number}"
            planned.append(Request(sample_id, prompt.group, name, body))
    return planned
