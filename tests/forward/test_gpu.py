"""On a CUDA device what the CPU does: ids, margins, forced runs, record, replay, in float32.

Rows whose margin is below 1e-5 on the CPU are near-ties, which another order of sums may turn over,
and are left out. The same tests run with the CPU in the device's place, so that they run anywhere.
"""

import warnings
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch

from routectl import Routes
from routectl.forward.live import record, replay
from routectl.ops.predict.replay_inputs import LayerRouter, replay_inputs
from routectl.routers.from_config import recipe_from_config
from support import families
from support.forwards import checkpoint_of, checkpointing, forward, quiet, samples

NO_DEVICE = not torch.cuda.is_available()
DEVICES = [
    pytest.param(
        "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(NO_DEVICE, reason="no CUDA device")]
    ),
    pytest.param("cpu", marks=pytest.mark.slow),
]
pytestmark = [pytest.mark.models, pytest.mark.parametrize("device", DEVICES)]
NAMES = ["qwen3_moe", "deepseek_v3", "gpt_oss", "mixtral"]
NEAR = 1e-5


@pytest.fixture(autouse=True)
def exact():
    """No TF32, one thread."""
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("highest")


def same_ids(one_TLK, two_TLK, margins_TL):
    """The sets of rows that are no near-tie are the same, and those are most of them."""
    clear_TL = margins_TL > NEAR
    assert clear_TL.mean() > 0.95
    assert np.array_equal(np.sort(one_TLK)[clear_TL], np.sort(two_TLK)[clear_TL])


def random_routes(rows, layers, seed=0):
    """Distinct random experts, top-4 of 16."""
    rng = np.random.default_rng(seed)
    ids = [[rng.permutation(16)[:4] for _ in layers] for _ in range(rows)]
    return Routes(np.array(ids, np.uint8), layers, 16)


@pytest.mark.parametrize("streaming", ["plain", "stream"])
@pytest.mark.parametrize("name", NAMES)
def test_ids_and_margins(device, name, streaming, tmp_path):
    """recompute gives the CPU's ids, margins and log-probabilities."""
    folder, inputs = checkpoint_of(name, tmp_path), samples(40, 23)
    options = {"dtype": "float32", "want_logprobs": True, "streaming": streaming}
    expected, _ = forward(folder, inputs, **options)
    found, _ = forward(folder, inputs, **options, device=device)
    for one, two in zip(found, expected, strict=True):
        same_ids(one.ids_TLK, two.ids_TLK, two.margins_TL)
        assert np.allclose(one.margins_TL, two.margins_TL, rtol=1e-4, atol=1e-5)
        grouped = [
            each.group_margins_TL for each in (one, two) if each.group_margins_TL is not None
        ]
        assert len(grouped) == (2 if name == "deepseek_v3" else 0)
        assert not grouped or np.allclose(*grouped, rtol=1e-4, atol=1e-5)
        assert np.allclose(one.logprobs_G, two.logprobs_G, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_forced_runs(device, name, tmp_path):
    """Along given routes the router's own choices, margins and inputs are the CPU's."""
    folder, inputs = checkpoint_of(name, tmp_path), samples(40, 23)
    _, prepared = forward(folder, inputs)
    given = [
        replace(sample, routes=random_routes(len(sample.token_ids) - 1, prepared.layers, seed))
        for seed, sample in enumerate(inputs)
    ]
    options = {"dtype": "float32", "mode": "forced", "want_inputs": True}
    expected, _ = forward(folder, given, **options)
    found, _ = forward(folder, given, **options, device=device)
    for one, two, sample in zip(found, expected, given, strict=True):
        assert np.array_equal(np.sort(one.ids_TLK[:-1]), np.sort(sample.routes.ids_TLK))
        same_ids(one.live_TLK, two.live_TLK, two.margins_TL)
        assert np.allclose(one.margins_TL, two.margins_TL, rtol=1e-4, atol=1e-5)
        for layer in prepared.layers:
            assert torch.allclose(one.inputs[layer].cpu(), two.inputs[layer], rtol=1e-4, atol=1e-5)


def tokens(seed, rows=2, length=33):
    """Token ids [B, S]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, 100, (rows, length), generator=generator)


def loss_of(model, ids):
    """A loss on the model's device."""
    device = next(model.parameters()).device
    return model(input_ids=ids.to(device), use_cache=False).logits.float().square().mean()


@pytest.mark.parametrize("name", NAMES)
def test_record(device, name, tmp_path):
    """A live model's recorded routes are the CPU's, and those that recompute finds."""
    folder = checkpoint_of(name, tmp_path)
    inputs = samples(40, 40)
    expected, _ = forward(folder, inputs, dtype="float32")
    model = families.tiny(name).to(device)
    ids = torch.from_numpy(np.stack([sample.token_ids for sample in inputs])).long()
    with record(model) as recorder, torch.no_grad():
        loss_of(model, ids)
    for held, found in zip(recorder.routes(), expected, strict=True):
        same_ids(held.ids_TLK, found.ids_TLK, found.margins_TL)


@pytest.mark.parametrize("way", [None, False, True], ids=["plain", "checkpoint", "reentrant"])
@pytest.mark.parametrize("name", NAMES)
def test_replay_gradients(device, name, way):
    """Two forwards in one backward pass have the gradients that the CPU has without checkpoints:
    the device's thread finds the forward of each recomputation."""
    grads = {}
    for place, checkpointed in (("cpu", None), (device, way)):
        model = families.tiny(name).train().to(place)
        layers = tuple(sorted(families.routers(model)))
        if checkpointed is not None:
            checkpointing(model, {"use_reentrant": checkpointed})
            model.enable_input_require_grads()
        held = [random_routes(33, layers, seed) for seed in range(4)]
        with replay(model, held), record(model) as recorder:
            (loss_of(model, tokens(1)) + loss_of(model, tokens(2))).backward()
        for one, two in zip(recorder.routes(), held, strict=True):
            assert np.array_equal(np.sort(one.ids_TLK), np.sort(two.ids_TLK))
        grads[place, checkpointed] = {
            name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None
        }
    expected, found = grads["cpu", None], grads[device, way]
    assert expected.keys() == found.keys()
    for key, grad in expected.items():
        assert (found[key] - grad).abs().max() <= 1e-4 * grad.abs().max(), key


@pytest.mark.parametrize("name", ["qwen3_moe", "gpt_oss"])
def test_generate(device, name):
    """The steps of generate join to what a forward on the finished sequences has."""
    model = families.tiny(name).to(device)
    torch.manual_seed(0)
    options = {"do_sample": True, "max_new_tokens": 12, "eos_token_id": list(range(3, 12))}
    with record(model) as recorder, quiet():
        model.generate(tokens(3, 4, 9).to(device), pad_token_id=0, **options)
    found = list(recorder.samples())
    assert len(found) == 4
    for sample in found:
        assert len(sample.routes.ids_TLK) == len(sample.token_ids) - 1
        with record(model) as alone, torch.no_grad():
            loss_of(model, torch.from_numpy(sample.token_ids).long()[None])
        (whole,) = alone.routes()
        wrong = np.sort(whole.ids_TLK[:-1]) != np.sort(sample.routes.ids_TLK)
        assert wrong.any(2).mean() < 0.02  # near-ties


def test_nothing_waits_for_the_device(device):
    """A forward under record synchronises as often as one without."""
    model, ids = families.tiny("qwen3_moe").to(device), tokens(1).to(device)
    counts = []
    for block in (nullcontext(), nullcontext(), record(model)):
        with block, torch.no_grad(), warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            if device == "cuda":
                torch.cuda.set_sync_debug_mode("warn")
            try:
                model(input_ids=ids, use_cache=False)
            finally:
                if device == "cuda":
                    torch.cuda.set_sync_debug_mode("default")
            counts.append(sum("synchronizing" in str(each.message) for each in said))
    assert counts[1] == counts[2]


def test_router_inputs(device):
    """Routers replayed on their inputs on the device select what the CPU selects."""
    config = {
        "model_type": "deepseek_v3",
        "num_hidden_layers": 4,
        "n_routed_experts": 64,
        "num_experts_per_tok": 8,
        "n_group": 8,
        "topk_group": 4,
    }
    recipe = recipe_from_config(config, "here")
    generator = torch.Generator().manual_seed(0)
    weight, states = (torch.randn(n, 96, generator=generator) for n in (64, 500))
    bias = torch.randn(64, generator=generator) * 0.1
    results = []
    for place in ("cpu", device):
        router = LayerRouter(weight.to(place), None, bias.to(place))
        (found,) = replay_inputs(recipe, {3: router}, {3: states.to(place)})
        results.append(found)
    expected, found = results
    margin_TL = np.minimum(expected.margin_TL, expected.group_margin_TL)
    same_ids(found.routes.ids_TLK, expected.routes.ids_TLK, margin_TL)
    assert np.allclose(found.margin_TL, expected.margin_TL, rtol=1e-4, atol=1e-5)
