"""``routectl recompute --gate-logprobs``: what a checkpoint's routers think of given experts."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import UnsupportedError
from .router_inputs import layer_routers

if TYPE_CHECKING:
    from ...dump import Sample
    from ...forward import Forwarded
    from ...gate_logprobs import GateLogprobs
    from ...ops.predict.replay_inputs import LayerRouter
    from ...routers.recipe import Recipe

__all__ = ["kept_gates", "open_gates"]


def open_gates(checkpoint: Path, device: str) -> Mapping[int, Callable[[Any], Any]]:
    """By MoE layer: a function from hidden states [T, D] to log-probabilities, float32 [T, E].

    For ``RunOptions.gates``. The routers alone are read, and held on the device as stored; their
    recipe is that of the transformers that runs.
    Raises UnsupportedError for a family that has no recipe, or whose logits are not a product.
    """
    from ...checkpoints import open_checkpoint
    from ...checkpoints.routers import router_recipe
    from ...forward import transformers_version

    opened = open_checkpoint(str(checkpoint))
    if opened.config is None:
        raise UnsupportedError(f"{checkpoint}: no config.json says how its routers select")
    recipe = router_recipe(opened, version=transformers_version())
    if recipe.logits_gap:
        raise UnsupportedError(
            f"{checkpoint}: no gate log-probabilities of {recipe.family}: {recipe.logits_gap}"
        )
    return {
        layer: partial(_logprobs, recipe, _moved(router, device))
        for layer, router in layer_routers(opened).items()
    }


def kept_gates(sample: "Sample", result: "Forwarded") -> "GateLogprobs | None":
    """What a run found for the experts of a dump's sample, as it is stored."""
    from ...gate_logprobs import gates_of

    if result.gate_logprobs_TLK is None or sample.routes is None:
        return None
    return gates_of(result.gate_logprobs_TLK, sample.routes)


def _moved(router: "LayerRouter", device: str) -> tuple[Any, Any]:
    """The tensors of the product, on the device."""
    bias_E = router.linear_bias_E
    return router.weight_ED.to(device), None if bias_E is None else bias_E.to(device)


def _logprobs(recipe: "Recipe", router: tuple[Any, Any], hidden_TD: Any) -> Any:
    from ...routers.maths import gate_logprobs, router_logits

    weight_ED, bias_E = router
    return gate_logprobs(recipe, router_logits(recipe, hidden_TD, weight_ED, bias_E))
