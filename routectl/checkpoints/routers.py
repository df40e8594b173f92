"""The routers of a checkpoint, read alone and in their stored dtype.

E experts, D hidden size.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .checkpoint import Checkpoint
from .router_names import RouterNames, RouterPart, router_names

if TYPE_CHECKING:
    import torch

__all__ = ["RouterTensors", "router_tensors"]


@dataclass(frozen=True, slots=True)
class RouterTensors:
    """One layer's router as stored; ``names`` say where each tensor came from.

    weight       [E, D]; E counts zero and skip experts where the model has them. Of a router with
                 more steps (gemma4, zaya) the last one's, whose width need not be D
    linear_bias  [E] or None: added to the logits
    expert_bias  [E] or None: added to the scores, for the selection alone
    extras       other tables by name: tid2eid [vocabulary, K], per_expert_scale [E], ...
    """

    weight: "torch.Tensor"
    linear_bias: "torch.Tensor | None"
    expert_bias: "torch.Tensor | None"
    extras: "Mapping[str, torch.Tensor]"
    names: RouterNames


def router_tensors(checkpoint: Checkpoint) -> dict[int, RouterTensors]:
    """The router of every MoE layer, by 0-based layer, ascending; nothing else is read.

    Dtypes are the stored ones: an expert bias that is float32 on disk is float32 here, where
    transformers rounds some to the model's dtype. Raises what router_names and Checkpoint.read do.
    """
    stacks: dict[str, torch.Tensor] = {}

    def read(part: RouterPart) -> "torch.Tensor":
        if part.row is None:
            return checkpoint.read(part.name)
        if part.name not in stacks:
            stacks[part.name] = checkpoint.read(part.name)
        return stacks[part.name][part.row]

    return {
        layer: RouterTensors(
            read(names.weight),
            None if names.linear_bias is None else read(names.linear_bias).reshape(-1),
            None if names.expert_bias is None else read(names.expert_bias).reshape(-1),
            {name: read(part) for name, part in names.extras.items()},
            names,
        )
        for layer, names in router_names(checkpoint).items()
    }
