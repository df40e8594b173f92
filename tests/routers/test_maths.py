"""Router maths against the real router modules of transformers, family by family.

What is required: the same logits, selection scores, weights and margins bit for bit, and the same
sets of ids. Two exceptions, each for a reason:
- a row whose margin is 0 may hold other ids of the same scores, since torch.topk leaves the order
  of equal scores open;
- weights that the module sums in another order of ids (its top-k is unsorted) may differ by
  rounding, so they are compared in the module's order, where they must be equal bit for bit.
"""

from dataclasses import replace
from importlib.metadata import version

import pytest
import torch

from routectl.routers.from_config import recipe_from_config
from routectl.routers.maths import gate_weights, route, router_logits
from support.families import FAMILIES, config_of_family, routers, tiny
from support.modules import call, hidden_states, same_sets, tensors_of

pytestmark = pytest.mark.models

T = 96
COVERED = [name for name in FAMILIES if name != "inkling"]


def case(name, dtype, seed=0):
    """A tiny model, its recipe, and hidden states for its routers."""
    recipe = recipe_from_config(
        config_of_family(name).to_dict(), name, version=version("transformers")
    )
    return tiny(name, dtype, seed), recipe, hidden_states(T, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", COVERED)
def test_equals_the_module(name, dtype):
    """A family's recipe gives its module's logits, scores, ids, weights and margins; the matrix is
    stored in float32, and held in the dtype in which this transformers holds it.
    """
    model, whole, hidden = case(name, dtype)
    stored = tiny(name)
    token_ids = torch.arange(T) % 100
    for layer in routers(model):
        recipe, tensors = whole.at(layer), tensors_of(model, layer)
        seen = call(model, layer, hidden, recipe.columns, token_ids)
        if not recipe.logits_gap:
            held = tensors_of(stored, layer)
            logits = router_logits(recipe, hidden, held.weight, held.linear_bias)
            assert logits.dtype == seen.logits.dtype
            assert torch.equal(logits, seen.logits)
        by_table = recipe.select_on == "table"
        got = route(
            recipe,
            seen.logits,
            expert_bias_E=None if by_table else tensors.expert_bias,
            token_ids_T=token_ids if by_table else None,
            table_VK=tensors.table,
            expert_scale_E=tensors.expert_scale,
        )
        clear = ~torch.zeros(T, dtype=torch.bool)
        if got.group_margin_T is not None:
            clear = got.group_margin_T != 0
            assert dtype == torch.bfloat16 or clear.all()
        if seen.scores is not None:
            assert torch.equal(got.scores_TE[clear], seen.scores[clear])
        assert (same_sets(got.ids_TK, seen.ids) | got.tie_T).all()
        selected = got.scores_TE.gather(-1, got.ids_TK)
        assert (selected.diff(dim=-1) <= 0).all()
        theirs = got.scores_TE.gather(-1, seen.ids)
        assert torch.equal(selected[clear], theirs.sort(-1, descending=True).values[clear])
        again = gate_weights(recipe, seen.logits, seen.ids, got.scores_TE, tensors.expert_scale)
        if recipe.weight_dtype == "model":
            again = again.to(dtype)
        assert again.dtype == seen.weights.dtype
        assert torch.equal(again, seen.weights)
        if not by_table:
            order = got.scores_TE.float().sort(-1, descending=True).values
            margin = order[:, recipe.top_k - 1] - order[:, recipe.top_k]
            assert torch.equal(got.margin_T, margin)


def test_masked_scores_are_the_weights_of_deepseek_v2():
    """An expert of a dropped group that DeepSeek-V2 selects all the same has the weight 0."""
    model, recipe, hidden = case("deepseek_v2", torch.float32)
    recipe = replace(recipe, n_group=4, topk_group=1)
    router = routers(model)[1]
    router.topk_group = 1
    seen = call(model, 1, hidden * 20, recipe.columns)  # most of a kept group's scores are 0
    got = route(recipe, seen.logits)
    theirs = gate_weights(recipe, seen.logits, seen.ids, seen.scores)
    assert torch.equal(theirs, seen.weights)
    unmasked = gate_weights(recipe, seen.logits, seen.ids)
    assert (unmasked != theirs).any()
    assert got.tie_T.any()
