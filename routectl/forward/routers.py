"""The routers of a transformers or a live Megatron-Core model by layer, on any device.

A model class names its router class itself: ``_can_record_outputs["router_logits"]``
(transformers 5). The hash routers of DeepSeek-V4 are not named there and are added here.
Megatron-Core is not imported: its ``TopKRouter`` (0.16.1 ``transformer/moe/router.py``) is known by
its name and its attributes. ``layer_number`` is 1-based there. Routers of MTP modules are left out:
they are never replayed.
"""

from dataclasses import dataclass
from typing import Any

import torch

from ..errors import UnsupportedError

__all__ = [
    "REFUSED",
    "RouterAt",
    "class_names",
    "find_megatron_routers",
    "find_routers",
    "layer_of",
    "refuse_family",
]

REFUSED = {
    "dbrx": "its top-k is taken inside the experts block, not in the router",
    "doge": "its experts are chosen by product keys, without a router",
    "ernie4_5_vl_moe": "its text and vision experts have routers of their own in one layer",
    "inkling2_loop": "its layers run several times a forward, each time with routes of their own",
    "jetmoe": "attention is routed as well: a layer has two sets of experts",
    "nllb-moe": "it is an encoder-decoder with expert capacity",
    "nllb_moe": "it is an encoder-decoder with expert capacity",
    "switch_transformers": "it is an encoder-decoder with expert capacity",
}
HASH = ("DeepseekV4HashRouter",)  # ids come from a table of token ids
ARGMAX = ("PhimoeTopKRouter",)  # ids come from one max after the other
TOP_K = ("top_k", "num_experts_per_tok", "top_k_experts")
EXPERTS = ("num_experts", "n_routed_experts", "num_local_experts")
CHOICES = ("num_router_classes", "n_routed_experts")  # of a router: skip or zero experts included


@dataclass(frozen=True, slots=True)
class RouterAt:
    """A router module and where it is.

    layer is 0-based. num_experts counts the experts that compute; num_choices also the zero experts
    of LongCat and the skip of Zaya, whose ids follow. selection: "topk", "argmax" (one maximum
    after the other) or "table" (a hash of the token id, without scores).
    """

    layer: int
    name: str
    module: torch.nn.Module
    num_experts: int
    num_choices: int
    top_k: int
    selection: str


def find_routers(model: Any) -> tuple[RouterAt, ...]:
    """The routers of a model, one a MoE layer, ascending by layer.

    Raises UnsupportedError for a family in REFUSED, and for a model that names no router or has
    several in a layer.
    """
    family = str(getattr(model.config, "model_type", type(model).__name__))
    refuse_family(family)
    recorders = _recorders(model)
    found: dict[int, RouterAt] = {}
    kinds_of = {type(module): class_names(module) for module in model.modules()}
    for name, module in model.named_modules():
        kinds = kinds_of[type(module)]
        named = any(isinstance(module, cls) and part in name for cls, part in recorders)
        if not named and kinds.isdisjoint(HASH):
            continue
        _, layer = layer_of(name)
        if layer in found:
            both = f"{found[layer].name} and {name}"
            raise UnsupportedError(f"{family}: layer {layer} has two routers: {both}")
        selection = "topk" if kinds.isdisjoint(ARGMAX) else "argmax"
        selection = selection if kinds.isdisjoint(HASH) else "table"
        around = (module, *_parents(model, name), model.config.get_text_config())
        num_experts, top_k = _number(around, EXPERTS, layer), _number(around, TOP_K, layer)
        counts = [getattr(module, choices, 0) for choices in CHOICES]
        num_choices = max(num_experts, *counts)
        found[layer] = RouterAt(layer, name, module, num_experts, num_choices, top_k, selection)
    if not found:
        raise UnsupportedError(f"{family}: transformers names no router in {type(model).__name__}")
    return tuple(found[layer] for layer in sorted(found))


def find_megatron_routers(model: torch.nn.Module) -> tuple[RouterAt, ...]:
    """The TopKRouters of a model or of a list of its chunks, by layer; none where it has none.

    Raises UnsupportedError for the fused router, which selects inside one kernel.
    """
    found: dict[int, RouterAt] = {}
    kinds = {type(module): class_names(module) for module in model.modules()}
    if not any("TopKRouter" in names for names in kinds.values()):
        return ()
    for name, module in model.named_modules():
        if "TopKRouter" not in kinds[type(module)]:
            continue
        if "mtp" in name.split("."):
            continue
        if getattr(module.config, "moe_router_fusion", False):
            raise UnsupportedError(
                f"{name}: moe_router_fusion selects inside a kernel: switch it off"
            )
        layer = int(module.layer_number) - 1
        if layer in found:
            raise UnsupportedError(f"layer {layer} has two routers: {found[layer].name} and {name}")
        experts, top_k = int(module.config.num_moe_experts), int(module.topk)
        found[layer] = RouterAt(layer, name, module, experts, experts, top_k, "topk")
    return tuple(found[layer] for layer in sorted(found))


def class_names(module: torch.nn.Module) -> set[str]:
    """The names of its class and of those above it: fully_shard makes a class of its own."""
    return {cls.__name__ for cls in type(module).__mro__}


def layer_of(name: str) -> tuple[str, int]:
    """A module's or tensor's list of layers and its 0-based place there: the first number."""
    parts = name.split(".")
    at = next((i for i, part in enumerate(parts) if part.isdigit()), None)
    if at is None:
        raise UnsupportedError(f"{name} is in no list of layers")
    return ".".join(parts[:at]), int(parts[at])


def refuse_family(model_type: str) -> None:
    """Raise UnsupportedError, with the reason, for a family whose routes cannot be recomputed."""
    model_type = model_type.removesuffix("_text")
    if model_type in REFUSED:
        others = ", ".join(sorted(REFUSED))
        raise UnsupportedError(
            f"{model_type}: routes cannot be recomputed: {REFUSED[model_type]} (refused: {others})"
        )


def _recorders(model: torch.nn.Module) -> list[tuple[type, str]]:
    """Router classes and a part of their names, of a model and of the models inside it."""
    found = []
    for module in model.modules():
        named = (getattr(module, "_can_record_outputs", None) or {}).get("router_logits", ())
        for recorder in named if isinstance(named, list | tuple) else (named,):
            cls = getattr(recorder, "target_class", recorder)
            part = getattr(recorder, "layer_name", None) or ""
            if isinstance(cls, type) and (cls, part) not in found:
                found.append((cls, part))
    return found


def _parents(model: torch.nn.Module, name: str) -> list[torch.nn.Module]:
    """The modules around a module, from the nearest out to its layer."""
    parts = name.split(".")
    first = next(i for i, part in enumerate(parts) if part.isdigit())
    return [model.get_submodule(".".join(parts[:n])) for n in range(len(parts) - 1, first, -1)]


def _number(holders: tuple[object, ...], names: tuple[str, ...], layer: int) -> int:
    """The first of the attributes that one of the holders has; of a list, the layer's."""
    for holder in holders:
        for name in names:
            value = getattr(holder, name, None)
            if isinstance(value, list | tuple):
                value = value[layer]
            if isinstance(value, int):
                return value
    raise UnsupportedError(f"{type(holders[0]).__name__} has none of {', '.join(names)}")
