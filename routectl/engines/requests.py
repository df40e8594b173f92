"""What an endpoint is asked: one request a sample, its body as the engine's documents have it.

Source: SGLang 0.5.23, managers/io_struct.py and entrypoints/openai/protocol.py; vLLM 0.32.0,
entrypoints/openai and scale_out/token_in_token_out/protocol.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import RoutectlError
from .prompts import Prompt
from .server import ENDPOINTS, Server, endpoint_for

__all__ = ["Request", "Sampling", "plan_requests"]

_OURS = {"n", "best_of", "stream", "echo", "prompt", "messages", "model"}


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn; ``seed`` is of a prompt's first sample, one more of each next one.

    ``more`` holds options by the engine's own names, and comes before the others.
    """

    max_tokens: int = 256
    temperature: float = 1.0
    seed: int | None = None
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Request:
    """One sample to be asked for: ``path`` and ``body`` of the POST, and whose it is."""

    sample_id: str
    group_id: str
    path: str
    body: Mapping[str, Any]


def _options(
    sampling: Sampling, prompt: Prompt, number: int, names: Sequence[str]
) -> dict[str, Any]:
    """Sampling options under an endpoint's names for max_tokens and seed."""
    max_tokens, seed = names
    own = {max_tokens: sampling.max_tokens, "temperature": sampling.temperature}
    if sampling.seed is not None:
        own[seed] = sampling.seed + number
    more = {**sampling.more, **prompt.sampling}
    if taken := sorted(_OURS & set(more)):
        raise RoutectlError(
            f"prompt {prompt.name}: sampling option {taken[0]} is not free to set",
            hint="--n N asks for N samples of every prompt",
        )
    return {**own, **more}


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
    if endpoint == "generate":
        names = ("max_new_tokens", "sampling_seed")
        return _generate(prompt, _options(sampling, prompt, number, names))
    options = _options(sampling, prompt, number, ("max_tokens", "seed"))
    model = {} if server.model is None else {"model": server.model}
    if endpoint == "inference":
        return {**model, "token_ids": prompt.value, "sampling_params": {**options, "logprobs": 1}}
    return {**model, **_openai(prompt, options, server)}


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
            planned.append(Request(sample_id, prompt.group, ENDPOINTS[name], body))
    return planned
