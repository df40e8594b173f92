"""The routers of a checkpoint: read alone, in their stored dtype, and how they select.

E experts, D hidden size.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import FormatError, MismatchError
from ..routers.families import NEWEST
from ..routers.from_config import megatron_recipe, recipe_from_config
from ..routers.recipe import Recipe
from .checkpoint import Checkpoint
from .hf import read_config
from .router_names import RouterNames, RouterPart, router_names

if TYPE_CHECKING:
    import torch

__all__ = ["RouterTensors", "router_recipe", "router_tensors"]

# E (under either name), K and the score function: every argument list of Megatron says them.
_DECIDING = (
    ("num_experts", "num_moe_experts"),
    ("moe_router_topk",),
    ("moe_router_score_function",),
)


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


def router_recipe(
    checkpoint: Checkpoint, model: Path | None = None, *, version: str = NEWEST
) -> Recipe:
    """The recipe of a checkpoint's routers, in transformers of a ``version`` where it has a config.

    By ``model``, an HF config.json or a folder with one; else by the checkpoint's own; else by the
    arguments that Megatron stored in it. Those name no version: stored beside the tensors they are
    of Megatron-Core 0.19 or later, else the rule is that of 0.16.1 (scores are rounded to the
    logits' dtype; 0.18 does not, and cannot be told apart).

    Raises FormatError when none of the three says it, MismatchError when its routers hold what the
    recipe does not use, and what recipe_from_config and megatron_recipe raise.
    """
    where = str(checkpoint.path)
    if checkpoint.config is not None and model is None:
        recipe = recipe_from_config(checkpoint.config, where, version=version)
    elif model is not None:
        recipe = recipe_from_config(read_config(model), str(model), version=version)
    else:
        recipe = _by_arguments(checkpoint, where)
    _check_stored(recipe, checkpoint)
    return recipe


def _by_arguments(checkpoint: Checkpoint, where: str) -> Recipe:
    absent = [names[0] for names in _DECIDING if checkpoint.arguments.keys().isdisjoint(names)]
    if absent:
        raise FormatError(
            f"{where}: {checkpoint.format}: nothing in it says how its routers select: got no "
            f"{', '.join(absent)}, expected config.json or Megatron's arguments",
            hint="--model CONFIG, the model's HF config.json",
        )
    return megatron_recipe(checkpoint.arguments, where, version=checkpoint.core or "0.16.1")


def _check_stored(recipe: Recipe, checkpoint: Checkpoint) -> None:
    """Refuse an expert bias, or Megatron's qb_beta, that is stored and would be left out."""
    for layer, names in router_names(checkpoint).items():
        unused = [names.extras.get("qb_beta"), None if recipe.expert_bias else names.expert_bias]
        for part in filter(None, unused):
            raise MismatchError(
                f"{checkpoint.path}: layer {layer}: bad router: got {part.name}, expected none "
                f"with {recipe.describe()}"
            )
