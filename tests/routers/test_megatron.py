"""Router maths against Megatron-Core 0.16.1's own functions and its TopKRouter, on the CPU.

Sets, weights and the dtype of weights are equal bit for bit; where the top-k of equal scores is
open, rows with margin 0 are left to test_pieces.py.
"""

import itertools
import warnings
from types import SimpleNamespace

import pytest
import torch

from routectl.errors import FormatError, UnsupportedError
from routectl.routers.from_config import megatron_recipe
from routectl.routers.maths import gate_weights, route, router_logits
from support.mcore import HIDDEN, config_of, hidden, on_cpu

T, E = 96, 32
GROUPS = ((None, None), (4, 2), (8, 3), (4, 4))
SCORES = (
    ("softmax", True, False),
    ("softmax", False, False),
    ("sigmoid", False, False),
    ("sigmoid", False, True),
)
BRANCHES = list(
    itertools.product(SCORES, GROUPS, (1, 4, 6), (None, 2.5), ("float32", "bfloat16", "float64"))
)


@pytest.fixture(scope="module")
def core():
    """Megatron-Core on the CPU."""
    with on_cpu() as found:
        yield found


def options(branch):
    """A branch under Megatron's own names."""
    (score, pre, bias), (groups, kept), top_k, scale, _ = branch
    return {
        "num_moe_experts": E,
        "moe_router_topk": top_k,
        "moe_router_score_function": score,
        "moe_router_pre_softmax": pre,
        "moe_router_enable_expert_bias": bias,
        "moe_router_num_groups": groups,
        "moe_router_group_topk": kept,
        "moe_router_topk_scaling_factor": scale,
        "add_bias_linear": False,
    }


def fits(branch):
    """Megatron's topk // group_topk must be at least 1 for groups to mean anything."""
    (_, _, _), (_, kept), top_k, _, _ = branch
    return kept is None or top_k >= kept


@pytest.mark.trainers
@pytest.mark.parametrize(
    "branch", [branch for branch in BRANCHES if fits(branch)], ids=lambda b: "-".join(map(str, b))
)
def test_function(branch, core):
    """topk_routing_with_score_function gives the same map and the same bits, in every branch."""
    from megatron.core.transformer.moe.moe_utils import topk_routing_with_score_function

    (score, pre, with_bias), (groups, kept), top_k, scale, dtype = branch
    generator = torch.Generator().manual_seed(7)
    logits = (torch.randn(T, E, generator=generator) * 2).to(getattr(torch, dtype))
    bias = torch.randn(E, generator=generator) * 0.2 if with_bias else None
    probs, routing_map = topk_routing_with_score_function(
        logits,
        top_k,
        use_pre_softmax=pre,
        num_groups=groups,
        group_topk=kept,
        scaling_factor=scale,
        score_function=score,
        expert_bias=bias,
    )
    recipe = megatron_recipe(options(branch), "here", version=core.version)
    got = route(recipe, logits, expert_bias_E=bias)
    ours = torch.zeros(T, E, dtype=torch.bool).scatter(1, got.ids_TK, True)
    clear = ~got.tie_T
    assert dtype == "bfloat16" or clear.all()
    assert clear.sum() > T // 3
    assert torch.equal(ours[clear], routing_map[clear])
    assert got.weights_TK.dtype == probs.dtype
    assert torch.equal(got.weights_TK[clear], probs.gather(1, got.ids_TK)[clear])


@pytest.mark.trainers
@pytest.mark.parametrize("dtype", [None, "fp32", "fp64"])
@pytest.mark.parametrize("bias", [False, True])
def test_router(dtype, bias, core):
    """TopKRouter, hidden states in bf16, gives the same logits, sets and weights."""
    settings = {
        "moe_router_dtype": dtype,
        "moe_router_score_function": "sigmoid",
        "params_dtype": torch.bfloat16,
        "bf16": True,
        "moe_router_num_groups": 4,
        "moe_router_group_topk": 2,
        "moe_router_topk_scaling_factor": 2.5,
        "moe_router_enable_expert_bias": bias,
    }
    config = config_of(core, **settings)
    groups = SimpleNamespace(tp=None, cp=None, tp_cp=None, tp_dp_cp=None)
    torch.manual_seed(3)
    router = core.Router(config, groups).eval()
    router.weight.data = torch.randn(E, HIDDEN).mul(0.4).bfloat16()
    if bias:
        router.expert_bias.copy_(torch.randn(E) * 0.2)
    states = hidden(T).bfloat16()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logits = router.gating(states).view(T, E)
        probs, routing_map = router(states)
    names = [
        *settings,
        "num_moe_experts",
        "moe_router_topk",
        "add_bias_linear",
        "moe_router_pre_softmax",
    ]
    held = {name: getattr(config, name) for name in names}
    recipe = megatron_recipe(held, "config", version=core.version)
    ours = router_logits(recipe, states.view(T, HIDDEN), router.weight.detach())
    assert ours.dtype == logits.dtype
    assert torch.equal(ours, logits)
    got = route(recipe, ours, expert_bias_E=router.expert_bias if bias else None)
    clear = ~got.tie_T
    assert clear.sum() > T // 2
    table = torch.zeros(T, E, dtype=torch.bool).scatter(1, got.ids_TK, True)
    assert torch.equal(table[clear], routing_map[clear])
    assert torch.equal(got.weights_TK[clear], probs.gather(1, got.ids_TK)[clear])


@pytest.mark.trainers
@pytest.mark.parametrize("score", SCORES, ids=str)
def test_forced_weights(score, core):
    """gate_weights of forced ids equals what RouterReplay's forward replay gives, bit for bit."""
    from megatron.core.transformer.moe.moe_utils import topk_routing_with_score_function

    branch = (score, (4, 2), 4, 2.5, "float32")
    recipe = megatron_recipe(options(branch), "here", version=core.version)
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(T, E, generator=generator)
    forced = torch.rand(T, E, generator=generator).argsort(-1)[:, :4]
    replay = core.Replay()
    replay.set_target_indices(forced)
    replay.set_router_replay_action(core.Action.REPLAY_FORWARD)
    probs, _ = topk_routing_with_score_function(
        logits,
        4,
        use_pre_softmax=score[1],
        num_groups=4,
        group_topk=2,
        scaling_factor=2.5,
        score_function=score[0],
        expert_bias=torch.randn(E) if score[2] else None,
        router_replay=replay,
    )
    assert torch.equal(gate_weights(recipe, logits, forced), probs.gather(1, forced))


def test_since_018_scores_stay_float32():
    """From 0.18 on bf16 scores are not rounded before selection; weights still are, at the end."""
    branch = (SCORES[3], (None, None), 4, None, "bfloat16")
    old, new = (megatron_recipe(options(branch), "x", version=v) for v in ("0.17.1", "0.18.0"))
    assert (old.score_dtype, new.score_dtype) == ("rounded", "float32")
    logits = torch.randn(T, E, generator=torch.Generator().manual_seed(1)).bfloat16()
    bias = torch.zeros(E)
    assert (
        route(old, logits, expert_bias_E=bias).tie_T.sum()
        > route(new, logits, expert_bias_E=bias).tie_T.sum()
    )
    assert route(new, logits, expert_bias_E=bias).weights_TK.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"moe_router_load_balancing_type": "sinkhorn"}, UnsupportedError, "got 'sinkhorn'"),
        ({"moe_router_load_balancing_type": ["aux_loss", "sinkhorn"]}, UnsupportedError, "top-k"),
        ({"moe_router_force_load_balancing": True}, UnsupportedError, "random"),
        ({"moe_router_force_biased": 0.5}, UnsupportedError, "random"),
        ({"moe_input_jitter_eps": 0.1}, UnsupportedError, "random"),
        ({"moe_router_score_function": "exp"}, UnsupportedError, "got 'exp'"),
        ({"moe_router_score_function": 3}, FormatError, "expected a word"),
        ({"moe_router_topk": 64}, FormatError, "bad moe_router_topk: got 64, expected 1 to"),
        ({"num_moe_experts": None}, FormatError, "num_moe_experts"),
        ({"moe_router_dtype": "fp8"}, FormatError, "expected fp32, fp64 or none"),
        ({"moe_router_enable_expert_bias": True}, FormatError, "sigmoid"),
        ({"moe_router_num_groups": 5, "moe_router_group_topk": 2}, FormatError, "bad n_group"),
        ({"moe_router_num_groups": 8, "moe_router_group_topk": 6}, FormatError, "group_topk"),
    ],
)
def test_refused(change, kind, words):
    """Options that the recipe cannot follow are refused in one line."""
    given = {**options((SCORES[1], (None, None), 4, None, "float32")), **change}
    with pytest.raises(kind, match=words) as caught:
        megatron_recipe(given, "args")
    assert str(caught.value).startswith("args: ")
    assert "\n" not in str(caught.value)
