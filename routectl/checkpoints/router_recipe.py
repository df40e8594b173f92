"""How the routers of a checkpoint select: by a config.json, or by Megatron's arguments in it."""

from pathlib import Path

from ..errors import FormatError, MismatchError
from ..routers.from_config import megatron_recipe, recipe_from_config
from ..routers.recipe import Recipe
from .checkpoint import Checkpoint
from .hf import read_config
from .router_names import router_names

__all__ = ["router_recipe"]

# E (under either name), K and the score function: every argument list of Megatron says them.
_DECIDING = (
    ("num_experts", "num_moe_experts"),
    ("moe_router_topk",),
    ("moe_router_score_function",),
)


def router_recipe(checkpoint: Checkpoint, model: Path | None = None) -> Recipe:
    """The recipe of a checkpoint's routers.

    By ``model``, an HF config.json or a folder with one; else by the checkpoint's own; else by the
    arguments that Megatron stored in it. Those name no version: stored beside the tensors they are
    of Megatron-Core 0.19 or later, else the rule is that of 0.16.1 (scores are rounded to the
    logits' dtype; 0.18 does not, and cannot be told apart).

    Raises FormatError when none of the three says it, MismatchError when Megatron's routers hold
    what the recipe does not use, and what recipe_from_config and megatron_recipe raise.
    """
    where = str(checkpoint.path)
    if checkpoint.config is not None:
        config = checkpoint.config if model is None else read_config(model)
        return recipe_from_config(config, str(model or where))
    if model is not None:
        recipe = recipe_from_config(read_config(model), str(model))
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
