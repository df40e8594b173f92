"""record and replay in Megatron-Core 0.16.1's GPTModel on the CPU, beside its own RouterReplay."""

import contextlib
import warnings
from unittest import mock

import numpy as np
import pytest
import torch
import torch.distributed as dist

from routectl import Rank, Routes
from routectl.errors import MismatchError, UnsupportedError
from routectl.forward.live import record, replay
from routectl.forward.probe import Probe
from routectl.forward.routers import find_megatron_routers
from routectl.forward.tape import Tape
from routectl.routers.from_config import megatron_recipe
from routectl.routers.maths import route
from support import families
from support.mcore import UNFUSED, build, config_of, hidden, on_cpu

pytestmark = [
    pytest.mark.trainers,
    pytest.mark.filterwarnings("ignore:.*tp_group is None"),  # Megatron's own calls
]
TOKENS, BATCH, VOCAB = 8, 3, 64


@pytest.fixture(scope="module")
def core():
    """Megatron-Core in a process group of one, with what needs a device taken out."""
    with on_cpu() as found, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from megatron.core.tensor_parallel.random import CudaRNGStatesTracker

        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        found.state.initialize_model_parallel()
        with (
            mock.patch.object(CudaRNGStatesTracker, "fork", return_value=contextlib.nullcontext()),
            mock.patch.object(torch.Tensor, "cuda", lambda self, *_, **__: self),
        ):
            yield found
        found.state.destroy_model_parallel()
        dist.destroy_process_group()


def gpt(core, **options):
    """A GPTModel of three layers, the first dense."""
    from megatron.core.models.gpt import GPTModel

    core.Replay.clear_global_router_replay_instances()
    config = config_of(core, 3, **UNFUSED, **options)
    spec = core.specs(config, use_transformer_engine=False)
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of arguments that it leaves out itself
        return GPTModel(config, spec, vocab_size=VOCAB, max_sequence_length=TOKENS)


def run(model, seed=1):
    """Logits of a batch."""
    ids = torch.randint(0, VOCAB, (BATCH, TOKENS), generator=torch.Generator().manual_seed(seed))
    mask = torch.triu(torch.ones(TOKENS, TOKENS, dtype=torch.bool), 1)[None, None]
    return model(ids, torch.arange(TOKENS).expand(BATCH, TOKENS), mask)


GROUPS = {"moe_router_num_groups": 4, "moe_router_group_topk": 2}
SIGMOID = {"moe_router_score_function": "sigmoid"}
SCORES = {
    "post": {},
    "pre": {"moe_router_pre_softmax": True},
    "bias": {**SIGMOID, "moe_router_enable_expert_bias": True},
    "groups": {**SIGMOID, **GROUPS, "moe_router_topk_scaling_factor": 2.5},
    "groups-bias": {**SIGMOID, **GROUPS, "moe_router_enable_expert_bias": True},
    "groups-pre": {**GROUPS, "moe_router_pre_softmax": True},
    "groups-post": GROUPS,
}


@pytest.mark.parametrize("score", SCORES)
def test_recorded_is_what_router_replay_records(core, score):
    """Ids are those of Megatron's own RECORD, cut from s-major rows into sequences."""
    model = gpt(core, **SCORES[score])
    with record(model) as recorder, torch.no_grad():
        plain = run(model)
    core.Replay.set_global_router_replay_action(core.Action.RECORD)
    with torch.no_grad():
        assert torch.equal(run(model), plain)
    own = torch.stack(core.Replay.get_recorded_data()).numpy()
    core.Replay.clear_global_router_replay_action()
    own_LSBK = own.reshape(2, TOKENS, BATCH, -1)
    routes = recorder.routes()
    assert (len(routes), routes[0].layers_L) == (BATCH, (1, 2))
    for b, held in enumerate(routes):
        assert np.array_equal(held.ids_TLK, own_LSBK[:, :, b].transpose(1, 0, 2))


@pytest.mark.parametrize("score", SCORES)
def test_a_tape_that_wants_margins_has_those_of_groups(core, score):
    """record keeps ids alone; a tape has the boundary and group margins of the recipe."""
    model = gpt(core, **SCORES[score])
    routers, names = find_megatron_routers(model), [*SCORES[score], "moe_router_topk"]
    with torch.no_grad(), Probe(routers) as probe, probe.on(Tape(input_rows=99)) as tape:
        run(model)
        for at in routers:
            row, router = tape.rows[at.layer], at.module
            options = {name: getattr(router.config, name) for name in names}
            recipe = megatron_recipe({**options, "num_moe_experts": at.num_experts}, "here")
            got = route(recipe, router.gating(row.inputs_TD), expert_bias_E=router.expert_bias)
            assert torch.equal(row.margin_T, got.margin_T)
            assert (row.group_margin_T is not None) == recipe.grouped == ("groups" in score)
            if recipe.grouped:
                assert torch.equal(row.group_margin_T, got.group_margin_T)


@pytest.mark.parametrize("score", SCORES)
def test_replay_is_router_replay(core, score):
    """Logits and router gradients are those of REPLAY_FORWARD with the same random routes."""
    model = gpt(core, **SCORES[score])
    rng = np.random.default_rng(3)
    ids = np.array(
        [
            [[rng.permutation(32)[:4] for _ in range(2)] for _ in range(TOKENS)]
            for _ in range(BATCH)
        ],
        np.uint8,
    )
    with replay(model, [Routes(part, (1, 2), 32) for part in ids]):
        ours = run(model)
        ours.square().sum().backward()
    grads = [at.module.weight.grad.clone() for at in find_megatron_routers(model)]
    model.zero_grad()
    rows_LRK = ids.transpose(2, 1, 0, 3).reshape(2, TOKENS * BATCH, 4).astype(np.int64)
    core.Replay.set_replay_data([torch.from_numpy(rows) for rows in rows_LRK])
    core.Replay.set_global_router_replay_action(core.Action.REPLAY_FORWARD)
    theirs = run(model)
    theirs.square().sum().backward()
    core.Replay.clear_global_router_replay_action()
    assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-6)  # experts are summed in another order
    for one, at in zip(grads, find_megatron_routers(model), strict=True):
        assert one.any()
        assert torch.allclose(one, at.module.weight.grad, rtol=1e-4, atol=1e-5)


FULL = {"recompute_granularity": "full", "recompute_num_layers": 1}
RECOMPUTE = {
    "none": {},
    "moe": {"recompute_granularity": "selective", "recompute_modules": ["moe"]},
    "uniform": {**FULL, "recompute_method": "uniform"},
    "whole": {**FULL, "recompute_method": "uniform", "recompute_num_layers": 3},
    "block": {**FULL, "recompute_method": "block", "recompute_num_layers": 2},
}


@pytest.fixture
def no_cuda_seeds():
    """Megatron's recomputation keeps and sets the seeds of a CUDA device, which is not there."""
    from megatron.core.tensor_parallel import random as seeds

    with (
        mock.patch.object(seeds, "_get_cuda_rng_state", return_value=None),
        mock.patch.object(seeds, "_set_cuda_rng_state"),
    ):
        yield


def random_rows(seed):
    """Experts [B, T, L, K] of a batch."""
    rng = np.random.default_rng(seed)
    rows = [rng.permutation(32)[:4] for _ in range(BATCH * TOKENS * 2)]
    return np.array(rows, np.uint8).reshape(BATCH, TOKENS, 2, 4)


@pytest.mark.parametrize("order", ["apart", "backwards", "together", "one by one"])
@pytest.mark.parametrize("recompute", RECOMPUTE)
@pytest.mark.usefixtures("no_cuda_seeds")
def test_recomputation_has_the_routes_of_its_forward(core, recompute, order):
    """Under Megatron's own recomputation gradients are those of RouterReplay without any, a
    micro-batch after the other; record counts each forward once, with the ids that were forced."""
    given = [random_rows(seed) for seed in (3, 4)]
    oracle = gpt(core)
    for seed, ids in enumerate(given):
        rows_LRK = ids.transpose(2, 1, 0, 3).reshape(2, TOKENS * BATCH, 4).astype(np.int64)
        core.Replay.set_replay_data([torch.from_numpy(rows) for rows in rows_LRK])
        core.Replay.set_global_router_replay_action(core.Action.REPLAY_FORWARD)
        run(oracle, seed).square().mean().backward()
        core.Replay.clear_global_router_replay_action()
    model = gpt(core, **RECOMPUTE[recompute]).train()
    held = [Routes(part, (1, 2), 32) for ids in given for part in ids]
    with replay(model, held), record(model) as recorder:
        if order == "one by one":
            for seed in range(2):
                run(model, seed).square().mean().backward()
        else:
            losses = [run(model, seed).square().mean() for seed in range(2)]
            losses = [sum(losses)] if order == "together" else losses
            for loss in losses[:: -1 if order == "backwards" else 1]:
                loss.backward()
    for one, two in zip(recorder.routes(), held, strict=True):
        assert np.array_equal(np.sort(one.ids_TLK), np.sort(two.ids_TLK))
    for (name, one), two in zip(model.named_parameters(), oracle.parameters(), strict=True):
        if two.grad is None:
            assert one.grad is None
            continue
        assert (one.grad - two.grad).abs().max() <= 1e-5 * two.grad.abs().max(), name


def test_own_routes_change_nothing(core):
    """Logits are the same bits when the model is given its own routes."""
    model = gpt(core)
    with record(model) as recorder, torch.no_grad():
        plain = run(model)
    with replay(model, recorder.routes()), torch.no_grad():
        assert torch.equal(run(model), plain)
    with replay(model, recorder.routes()[::-1]), torch.no_grad():
        assert not torch.equal(run(model), plain)


def test_what_would_be_wrong_is_refused(core):
    """The fused router, and rows of a part of a batch are refused."""
    model = gpt(core)
    for at in find_megatron_routers(model):
        at.module.config.moe_router_fusion = True
    for block in (record(model), replay(model, [])):
        with pytest.raises(UnsupportedError, match="moe_router_fusion"), block:
            pass
    model = gpt(core)
    with record(model) as recorder:
        recorder.take(*_part(recorder))
    with pytest.raises(MismatchError, match="whole sequences"):
        recorder.routes()


@pytest.mark.parametrize(
    ("options", "rank", "said"),
    [
        ({"context_parallel_size": 2}, Rank(), "context_parallel_size 2: .*set_replay"),
        ({"sequence_parallel": True}, None, r"sequence_parallel over 2 .*rank=routectl\.Rank\(tp="),
        (
            {"sequence_parallel": True},
            Rank(),
            r"sequence_parallel over 2 .*rank=routectl\.Rank\(tp=",
        ),
        ({"sequence_parallel": True}, Rank(tp=2), "expected cp 0 and tp below 2"),
        ({"sequence_parallel": False}, Rank(tp=1), "expected cp 0 and tp below 1"),
        ({}, Rank(cp=1), "expected cp 0"),
    ],
)
def test_a_rank_that_does_not_fit_is_refused(core, options, rank, said):
    """Parts of sequences are refused by what the config calls them, before a forward."""
    model = gpt(core)
    for at in find_megatron_routers(model):
        at.module.config.tensor_model_parallel_size = 2
        for name, value in options.items():
            setattr(at.module.config, name, value)
    with pytest.raises(UnsupportedError, match=said):
        replay(model, [], rank=rank).__enter__()
    if options.get("sequence_parallel") or "context_parallel_size" in options:
        with pytest.raises(UnsupportedError, match="record on a rank that has whole sequences"):
            record(model).__enter__()


def test_what_is_no_rank_is_refused(core):
    """A number in place of a Rank, and a rank of a model that has whole sequences."""
    with pytest.raises(TypeError, match=r"rank: got int, expected a routectl\.Rank"):
        replay(gpt(core), [], rank=1).__enter__()
    with pytest.raises(UnsupportedError, match="rank is of a Megatron-Core model"):
        replay(families.tiny("qwen3_moe"), [], rank=Rank()).__enter__()


def test_a_stage_takes_its_layers(core):
    """With a rank, routes of more layers are of the whole model, and a model has its own of them;
    without one they do not fit."""
    model, ids = gpt(core), random_rows(3)
    wider = np.concatenate([random_rows(4)[:, :, :1], ids], axis=2)
    own = [Routes(part, (1, 2), 32) for part in ids]
    whole = [Routes(part, (0, 1, 2), 32) for part in wider]
    with torch.no_grad():
        with replay(model, own):
            expected = run(model)
        with replay(model, whole, rank=Rank(), prove=True) as proof:
            assert torch.equal(run(model), expected)
        with pytest.raises(MismatchError, match="got layers 0, 1, 2"), replay(model, whole):
            run(model)
    assert proof.other_L.tolist() == [0, 0]


def _part(recorder):
    """A batch of 24 tokens of which the routers saw half, as under sequence parallelism."""
    from routectl.forward.live.sequences import Batch
    from routectl.forward.tape import LayerRows, Tape

    tape = Tape(
        rows={
            at.layer: LayerRows(torch.zeros(12, 4, dtype=torch.int64), None)
            for at in recorder.routers
        }
    )
    return Batch(torch.zeros(3, 8, dtype=torch.int64), None, None, True), tape


def test_a_router_alone_is_found_by_layer(core):
    """A stage's routers have the 0-based layers of their 1-based layer numbers."""
    routers = torch.nn.ModuleList(
        build(
            core,
            config_of(
                core, 5, pp=2, **{"moe_layer_freq": 1, "num_layers_in_first_pipeline_stage": 2}
            ),
            1,
        )
    )
    assert [at.layer for at in find_megatron_routers(routers)] == [2, 3, 4]
    assert hidden(4).shape == (4, 1, 16)
