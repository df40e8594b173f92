"""Families that only engines run: recipes against what the engines' own functions selected.

fixtures/engine_routers.safetensors holds them, as fixtures/record_engine_routers.py took them from
SGLang 0.5.23 and vLLM 0.33.0. Required are the same logits bit for bit, the same sets of experts in
every row that is no tie, and the same weights but for their last bit (engines add up unsorted).
"""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open

from routectl.errors import FormatError, UnsupportedError
from routectl.ops.predict.replay_inputs import LayerRouter, replay_inputs
from routectl.routers.engine_families import ENGINE_FAMILIES
from routectl.routers.families import ALIASES, FAMILIES, NOT_COVERED
from routectl.routers.from_config import recipe_from_config
from routectl.routers.maths import gate_weights, route, router_logits
from support.recordings import FIXTURES

RECORDED = FIXTURES / "engine_routers.safetensors"
with safe_open(RECORDED, framework="pt") as held:
    CASES = {name: json.loads(said) for name, said in held.metadata().items()}
HELD_BY_TRANSFORMERS = {"kimi_k3", "kimi_k25", "step3p5"}  # whose text models it has


def recorded(name):
    """The case's recipe, and its tensors by name."""
    with safe_open(RECORDED, framework="pt") as file:
        keys = [key for key in file.keys() if key.startswith(f"{name}/")]  # noqa: SIM118
        tensors = {key.rpartition("/")[2]: file.get_tensor(key) for key in keys}
    return recipe_from_config(CASES[name]["config"], name), tensors


@pytest.mark.parametrize("name", CASES)
def test_selects_as_the_engine_does(name):
    """Logits, experts and weights are those of the engine's own function; only bf16 logits tie."""
    recipe, tensors = recorded(name)
    logits_TE = router_logits(recipe, tensors["hidden"], tensors["matrix"])
    assert logits_TE.dtype == tensors["logits"].dtype
    assert torch.equal(logits_TE, tensors["logits"])
    got = route(recipe, logits_TE.float(), expert_bias_E=tensors.get("bias"))
    ids_TK = tensors["ids"].long()
    same_T = (got.ids_TK.sort(-1).values == ids_TK.sort(-1).values).all(-1)
    assert (same_T | got.tie_T).all()
    assert same_T.all() or logits_TE.dtype == torch.bfloat16  # these tie
    weights_TK = gate_weights(recipe, logits_TE.float(), ids_TK)
    unscaled = 1.0 if CASES[name]["scaled"] else recipe.scale
    torch.testing.assert_close(weights_TK / unscaled, tensors["weights"], rtol=3e-7, atol=0)


@pytest.mark.parametrize("name", CASES)
def test_router_inputs_are_replayed(name):
    """From hidden states and the matrix: the same experts as ``route``, and its margins."""
    recipe, tensors = recorded(name)
    router = LayerRouter(tensors["matrix"], None, tensors.get("bias"))
    (found,) = replay_inputs(recipe, {0: router}, {0: tensors["hidden"]})
    logits_TE = router_logits(recipe, tensors["hidden"], tensors["matrix"])
    got = route(recipe, logits_TE, expert_bias_E=tensors.get("bias"))
    assert np.array_equal(found.routes.ids_TLK[:, 0], got.ids_TK.numpy())
    assert np.array_equal(found.margin_TL[:, 0], got.margin_T.numpy())


def test_every_row_was_held_against_its_engine():
    """No family of the table is without a case, and none is a family of transformers."""
    cases = {name.split(".")[0] for name in CASES}
    assert cases == {*ENGINE_FAMILIES} | HELD_BY_TRANSFORMERS
    assert not {*ENGINE_FAMILIES} & {*FAMILIES, *NOT_COVERED, *ALIASES}


def test_each_group_gives_its_share():
    """interns1_pro: top-1 of each of 4 groups; the margin is the smallest of the groups'."""
    recipe, tensors = recorded("interns1_pro")
    assert recipe.describe() == "softmax, top-1 of 8 in each of 4 groups, normalised"
    got = route(recipe, tensors["logits"])
    assert torch.equal(got.ids_TK.sort(-1).values // 8, torch.arange(4).expand(64, 4))
    ranked_TGS = got.scores_TE.unflatten(-1, (4, 8)).sort(-1, descending=True).values
    assert torch.equal(got.margin_T, (ranked_TGS[..., 0] - ranked_TGS[..., 1]).amin(-1))
    whole = {**CASES["interns1_pro"]["config"]["text_config"], "router_n_groups": -1}
    assert recipe_from_config(whole, "c").describe() == "softmax, top-4 of 32, normalised"


@pytest.mark.parametrize(
    ("name", "changed", "kind", "message"),
    [
        ("llada2_moe", {"expert_capacity": 8}, UnsupportedError,
         "c: llada2_moe with expert_capacity is not covered: the tokens of a block share"),
        ("bailing_moe_v2", {"multi_gate": True}, UnsupportedError,
         "c: bailing_moe_v2 with multi_gate is not covered: text, images and sounds"),
        ("bailing_moe_v2", {"router_dtype": "fp8"}, UnsupportedError,
         "c: unsupported router_dtype: got 'fp8', expected bf16, fp32"),
        ("mimo_v2", {"topk_method": "greedy"}, UnsupportedError,
         "c: unsupported topk_method: got 'greedy', expected noaux_tc"),
        ("interns1_pro", {"router_n_groups": 3}, FormatError,
         "c: bad router_n_groups: got 3, expected a divisor of 32 experts and of top-4"),
    ],
)  # fmt: skip
def test_what_a_recipe_does_not_follow_is_refused(name, changed, kind, message):
    """Keys that change the router, and words that are not known: one line."""
    config = CASES[name]["config"]
    config = {**config.get("text_config", config), **changed}
    with pytest.raises(kind) as caught:
        recipe_from_config(config, "c")
    assert str(caught.value).startswith(message)
