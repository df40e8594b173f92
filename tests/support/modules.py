"""What a real router module of transformers does with hidden states, seen from outside.

The input of its top-k is taken by a TorchFunctionMode that is not routectl's. D is the hidden size.
"""

import inspect
import warnings
from dataclasses import dataclass

import torch
from torch.overrides import TorchFunctionMode

from support.families import expert_bias, routers

__all__ = ["Seen", "Tensors", "call", "hidden_states", "same_sets", "tensors_of"]

WEIGHTS = ("weight", "gate.weight", "wg.weight", "classifier.weight")


@dataclass
class Tensors:
    """What a router's checkpoint holds."""

    weight: torch.Tensor | None
    linear_bias: torch.Tensor | None
    expert_bias: torch.Tensor | None
    table: torch.Tensor | None
    expert_scale: torch.Tensor | None


@dataclass
class Seen:
    """What a router returned, and what its last top-k saw (None where it has none)."""

    logits: torch.Tensor
    weights: torch.Tensor
    ids: torch.Tensor
    scores: torch.Tensor | None


class _TopK(TorchFunctionMode):
    """Every top-k over the experts: its input and its ids."""

    def __init__(self, columns):
        super().__init__()
        self.columns, self.seen = columns, []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        named_topk = getattr(function, "__name__", "") == "topk"
        if named_topk and args[0].shape[-1] == self.columns:
            self.seen.append((args[0].detach().clone(), result[1].clone()))
        return result


def hidden_states(tokens, dtype, size=32, seed=0):
    """Random hidden states [tokens, size], as wide as after a norm."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tokens, size, generator=generator).to(dtype)


def tensors_of(model, layer):
    """A layer's router tensors as the model holds them."""
    router = routers(model)[layer]
    named = {**dict(router.named_parameters()), **dict(router.named_buffers())}
    weight = next((named[name] for name in WEIGHTS if name in named), None)
    return Tensors(
        *(
            None if tensor is None else tensor.detach()
            for tensor in (
                weight,
                named.get("bias"),
                expert_bias(model, layer),
                named.get("tid2eid"),
                named.get("per_expert_scale"),
            )
        )
    )


@torch.no_grad()
def call(model, layer, hidden_TD, columns, token_ids_T=None):
    """What the router of a layer does with hidden states [T, D]."""
    router, tensors = routers(model)[layer], tensors_of(model, layer)
    rest = list(inspect.signature(router.forward).parameters)[1:2]
    arguments = {
        "expert_bias": tensors.expert_bias,
        "e_score_correction_bias": tensors.expert_bias,
        "input_ids": token_ids_T,
    }
    second = [arguments[name] for name in rest if name in arguments]
    logits = []
    if hasattr(router, "proj"):
        router.proj.register_forward_hook(lambda _m, _i, output: logits.append(output))
    mode = _TopK(columns)
    three = type(router).__name__ in ("ZayaRouter", "AfmoeTokenChoiceRouter")
    with mode, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        output = router(hidden_TD[None] if three else hidden_TD, *second)
    scores, ids = mode.seen[-1] if mode.seen else (None, output[2])
    if type(router).__name__ == "Llama4Router":
        return Seen(output[1], output[0].gather(-1, ids), ids, scores)
    flat_ids = ids.reshape(hidden_TD.shape[0], -1)
    scores = None if scores is None else scores.reshape(hidden_TD.shape[0], -1)
    return Seen(logits[0] if logits else output[0], output[1], flat_ids, scores)


def same_sets(ids_TK, others_TK):
    """Bool [T], True where two rows hold the same ids."""
    return (ids_TK.sort(-1).values == others_TK.sort(-1).values).all(-1)
