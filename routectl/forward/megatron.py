"""The routers of a live Megatron-Core model.

Megatron-Core is not imported: its ``TopKRouter`` (0.16.1 ``transformer/moe/router.py``) is known by
its name and its attributes. ``layer_number`` is 1-based there. Routers of MTP modules are left out:
they are never replayed.
"""

import torch

from ..errors import UnsupportedError
from .discover import RouterAt

__all__ = ["find_megatron_routers"]


def find_megatron_routers(model: torch.nn.Module) -> tuple[RouterAt, ...]:
    """The TopKRouters of a model or of a list of its chunks, by layer; none where it has none.

    Raises UnsupportedError for the fused router, which selects inside one kernel.
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
        layer = int(module.layer_number) - 1
        if layer in found:
            raise UnsupportedError(f"layer {layer} has two routers: {found[layer].name} and {name}")
        experts, top_k = int(module.config.num_moe_experts), int(module.topk)
        found[layer] = RouterAt(layer, name, module, experts, experts, top_k, "topk")
    return tuple(found[layer] for layer in sorted(found))
