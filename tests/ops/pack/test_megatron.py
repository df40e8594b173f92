"""Packed routes in Megatron-Core 0.16.1's own routers, on the CPU.

Routers are built chunk by chunk as Megatron's block specs say, and replay what routectl packed out
of a recorded rollout. Shape suffixes: R rows of a rank, K top_k, E experts, H hidden size.
"""

import json
import random

import numpy as np
import pytest
import torch

from routectl import Packed, Packing, Pipeline, Rank, open_dump, pack, unpack
from support.mcore import HIDDEN, build, config_of, experts_of, hidden, on_cpu, replay
from support.packs import Batch, check_rows, routes_like
from support.recordings import DEEPSEEK, FIXTURES

pytestmark = pytest.mark.trainers

SLOTS = json.loads((FIXTURES / "megatron_layouts.json").read_text("utf-8"))["slots"]
CUTS = {
    "pp1": {},
    "pp5": {"pp": 5},
    "pp3-first1": {"pp": 3, "first": 1},
    "pp3-vpp2-embedding": {"pp": 3, "vpp": 2, "embedding": True},
    "pp2-vpp2-layout": {"pp": 2, "vpp": 2, "layout": "Et|t|t|ttL"},
}
SCORES = {
    "sigmoid": {"moe_router_score_function": "sigmoid"},
    "sigmoid-scaled": {
        "moe_router_score_function": "sigmoid",
        "moe_router_topk_scaling_factor": 2.5,
        "moe_router_enable_expert_bias": True,
    },
    "softmax-pre": {"moe_router_pre_softmax": True},
    "softmax-post": {"moe_router_pre_softmax": False},
}


@pytest.fixture
def core():
    """Megatron-Core on the CPU, its registry of routers cleared before and after."""
    with on_cpu() as found:
        yield found


def rollout(count=7):
    """Every seventh or so recorded sample of the model with one dense layer, and its lengths."""
    dump = open_dump(DEEPSEEK)
    dump = dump.select(samples=range(0, len(dump), len(dump) // count)).held()
    return dump, [sample.num_tokens for sample in dump]


def by_hand(score, logits, ids_RK):
    """Probabilities [R, E] of the replayed experts, out of the logits."""
    picked = logits.detach().double().gather(1, ids_RK)
    if score == "softmax-pre":
        probs = torch.softmax(logits.detach().double(), 1).gather(1, ids_RK)
    elif score == "softmax-post":
        probs = torch.softmax(picked, 1)
    else:
        probs = torch.sigmoid(picked)
        probs = probs / probs.sum(1, keepdim=True) * (2.5 if score == "sigmoid-scaled" else 1)
    return torch.zeros_like(logits, dtype=torch.float64).scatter(1, ids_RK, probs)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("cut", CUTS)
def test_real_routers_replay_what_was_packed(core, cut, score):
    """Every router's map is its tensor row by row, K experts in each, weighted by live logits."""
    dump, lens = rollout()
    sizes = CUTS[cut]
    packing = Packing(lens, "megatron", tp=2, cp=2, pipeline=Pipeline(5, **sizes))
    batch = Batch(packing, [sample.routes for sample in dump], (1, 2, 3, 4), 32, 4, None)
    names = {
        "first": "num_layers_in_first_pipeline_stage",
        "embedding": "account_for_embedding_in_pipeline_split",
    }
    options = {names.get(name, name): size for name, size in sizes.items()}
    config = config_of(core, **SCORES[score], **options)
    seen, filler = [], 0
    for pp_rank in range(packing.pipeline.pp):
        routers = build(core, config, pp_rank)
        layers = [router.layer_number - 1 for router in routers]
        for rank in (Rank(0, 1, pp_rank), Rank(1, 0, pp_rank), Rank(1, None, pp_rank)):
            out = torch.empty(len(layers), packing.num_rows(rank.tp), 4, dtype=torch.int64)
            packed = pack(dump, packing, rank, out=out)
            assert list(packed.layers_L) == layers
            check_rows(packed, batch, rank)
            filler += packed.filler_rows
            replay(core, packed.ids_LRK)
            for router, ids_RK in zip(routers, packed.ids_LRK, strict=True):
                states = hidden(len(ids_RK))
                probs, routing_map = router(states)
                assert experts_of(routing_map) == [sorted(row) for row in ids_RK.tolist()]
                assert routing_map.sum(1).unique().tolist() == [4]
                logits = states.view(-1, HIDDEN) @ router.weight.T
                expected = by_hand(score, logits, ids_RK)
                assert torch.allclose(probs.double(), expected, rtol=1e-4, atol=1e-7)
        seen += layers
    assert sorted(seen) == [1, 2, 3, 4]
    assert filler


def test_live_states_and_gradients(core):
    """Other hidden states weigh the same experts otherwise; gradients reach their router rows."""
    dump, lens = rollout()
    packing = Packing(lens, "megatron", cp=2)
    packed = pack(dump, packing, Rank(1))
    routers = build(core, config_of(core, **SCORES["sigmoid"]))
    replay(core, map(torch.from_numpy, packed.ids_LRK))
    for router in routers:
        (one, map_one), (other, map_other) = (
            router(hidden(packing.num_rows(), seed)) for seed in (1, 2)
        )
        assert torch.equal(map_one, map_other)
        assert not torch.allclose(one, other)
        (one * torch.rand(one.shape, generator=torch.Generator().manual_seed(3))).sum().backward()
        assert torch.equal(router.weight.grad.abs().sum(1) > 0, map_one.any(0))


def test_recomputation_takes_the_same_tensors(core):
    """REPLAY_BACKWARD, which recomputation uses, takes the tensors once more and in turn."""
    dump, lens = rollout(3)
    packing = Packing(lens, "megatron")
    packed = pack(dump, packing)
    routers = build(core, config_of(core))
    replay(core, map(torch.from_numpy, packed.ids_LRK))
    states = hidden(packing.num_rows())
    forward = [router(states) for router in routers]
    core.Replay.set_global_router_replay_action(core.Action.REPLAY_BACKWARD)
    for router, (probs, routing_map) in zip(routers, forward, strict=True):
        again, same = router(states)
        assert torch.equal(routing_map, same)
        assert torch.equal(probs, again)


@pytest.mark.parametrize(("form", "right"), [("bshd", True), ("bshd-b-major", False)])
def test_rows_of_a_padded_batch(core, form, right):
    """Router row s x B + b is token s of sample b: S-major rows replay it, B-major ones do not."""
    dump, lens = rollout(3)
    packing = Packing(lens, "megatron", form=form)
    packed = pack(dump, packing)
    router = build(core, config_of(core))[0]
    router.router_replay.set_target_indices(torch.from_numpy(packed.ids_LRK[0]))
    router.router_replay.set_router_replay_action(core.Action.REPLAY_FORWARD)
    _, routing_map = router(hidden(packing.num_rows(), batch=len(lens)))
    by_token = routing_map.view(-1, len(lens), 32)
    equal = [
        experts_of(by_token[s : s + 1, b])[0] == sorted(held.ids_TLK[s, 0].tolist())
        for b, held in enumerate(sample.routes for sample in dump)
        for s in range(held.num_tokens)
    ]
    assert all(equal) is right
    assert right or sum(equal) < len(equal) / 2


def test_what_a_router_recorded(core):
    """Routes that RECORD wrote down, unpacked and packed again, are what RECORD wrote down."""
    packing = Packing([9, 5], "verl", cp=2)
    layers = (1, 2, 3, 4)
    parts = []
    for cp in range(2):
        routers = build(core, config_of(core))
        core.Replay.set_global_router_replay_action(core.Action.RECORD)
        for router in routers:
            router(hidden(packing.num_rows(), seed=cp))
        ids = np.stack([tensor.numpy() for tensor in core.Replay.get_recorded_data()])
        parts.append((Rank(cp), Packed(ids, packing.local_rows(cp)[:, 0] >= 0, layers)))
    found = unpack(parts, packing, layers, 32)
    for rank, recorded in parts:
        again = pack(found, packing, rank)
        assert np.array_equal(again.mask, recorded.mask)
        assert np.array_equal(again.ids_LRK[:, again.mask], recorded.ids_LRK[:, recorded.mask])


@pytest.mark.parametrize("case", SLOTS, ids=lambda c: f"pp{c['pp']}-vp{c['vp']}-{c['pp_rank']}")
def test_tensors_are_in_the_order_of_the_instances(core, case):
    """The i-th tensor is for the i-th router that a real model of several chunks registered."""
    options = {n: v for n, v in case["config"].items() if n not in ("num_layers", "mtp_num_layers")}
    count, frequency = case["config"]["num_layers"], options.get("moe_layer_freq", 1)
    flags = frequency if isinstance(frequency, list) else [not i % frequency for i in range(count)]
    moe = tuple(i for i, flag in enumerate(flags) if flag)
    pipeline = Pipeline(
        count,
        case["pp"],
        case["vp"] or 1,
        options.get("num_layers_in_first_pipeline_stage"),
        None,
        options.get("account_for_embedding_in_pipeline_split", False),
        options.get("account_for_loss_in_pipeline_split", False),
        case["layout"],
    )
    held = routes_like(random.Random(1), 8, moe, (4, 32, None))
    packing = Packing([9], "megatron", pipeline=pipeline)
    packed = pack([held], packing, Rank(pp=case["pp_rank"]))
    assert list(packed.layers_L) == [n for kind, n in case["slots"] if kind == "decoder"]
    options["moe_layer_freq"] = frequency
    config = config_of(core, count, case["pp"], case["vp"] or 1, case["layout"], **options)
    routers = build(core, config, case["pp_rank"])
    replay(core, map(torch.from_numpy, packed.ids_LRK))
    for router in routers:
        layer = router.layer_number - 1
        _, routing_map = router(hidden(9))
        wanted = np.sort(held.ids_TLK[:, moe.index(layer)], axis=1).tolist()
        assert experts_of(routing_map)[:8] == wanted
