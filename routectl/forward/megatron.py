"""The routers of a live Megatron-Core model.

Megatron-Core is not imported: its ``TopKRouter`` (0.16.1 ``transformer/moe/router.py``) is known by
its name and its attributes. ``layer_number`` is 1-based there. Routers of MTP modules are left out:
they are never replayed.
"""

from typing import Any

import torch

from ..errors import UnsupportedError
from .discover import RouterAt

__all__ = ["find_megatron_routers"]


def find_megatron_routers(
    model: torch.nn.Module, *, to_steer: bool = False
) -> tuple[RouterAt, ...]:
    """The TopKRouters of a model or of a list of its chunks, by layer; none where it has none.

    Raises UnsupportedError for the fused router, which selects inside one kernel; and, to steer,
    for groups without expert bias, where weights are those of the group mask.
    """
    found: dict[int, RouterAt] = {}
    for name, module in model.named_modules():
        if not any(cls.__name__ == "TopKRouter" for cls in type(module).__mro__):
            continue
        if "mtp" in name.split("."):
            continue
        if getattr(module.config, "moe_router_fusion", False):
            raise UnsupportedError(
                f"{name}: moe_router_fusion selects inside a kernel: switch it off"
            )
        if to_steer and _masks_weights(module.config):
            raise UnsupportedError(
                f"{name}: routing by groups without expert bias takes weights from masked scores"
            )
        layer = int(module.layer_number) - 1
        if layer in found:
            raise UnsupportedError(f"layer {layer} has two routers: {found[layer].name} and {name}")
        experts, top_k = int(module.config.num_moe_experts), int(module.topk)
        found[layer] = RouterAt(layer, name, module, experts, experts, top_k, "topk")
    return tuple(found[layer] for layer in sorted(found))


def _masks_weights(config: Any) -> bool:
    """Whether a forced expert outside the kept groups would have no weight."""
    grouped = bool(getattr(config, "moe_router_num_groups", None))
    return grouped and not getattr(config, "moe_router_enable_expert_bias", False)
