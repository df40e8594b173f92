"""Gate log-probabilities of given experts: every family against its real router modules.

The oracle: logits as the module itself returns them for the hidden states of the run, and numpy.
Shape suffixes: T tokens, L MoE layers, K top_k, E experts.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from routectl import MismatchError, UnsupportedError
from routectl.jobs.recompute.gates import open_gates
from routectl.routers.from_config import recipe_from_config
from routectl.routers.maths import gate_logprobs
from routectl.routes import Routes
from support import families
from support.forwards import checkpoint_of, forward, load, quiet, samples
from support.modules import call

pytestmark = pytest.mark.models

LENGTHS = (12, 7, 1)
GAPS = ("gemma4", "zaya")  # their logits are no product of the router's input and a matrix
NO_RECIPE = ("inkling",)
DENIED = ("solar_open",)  # a router in every layer, though its config here has a dense one
LEFT_OUT = (*GAPS, *NO_RECIPE, *DENIED)
COVERED = [name for name in families.FAMILIES if not name.startswith(LEFT_OUT)]


@pytest.fixture(autouse=True)
def one_thread():
    """Sums in one order."""
    torch.set_num_threads(1)


def with_routes(inputs, layers, columns, top_k, share=0.3):
    """The samples with random routes, later starts, a share of rows missing; the last has none."""
    rng = np.random.default_rng(3)
    made = []
    for start, sample in enumerate(inputs[:-1]):
        rows = len(sample.token_ids) - 1 - start
        ids = rng.random((rows, len(layers), columns)).argsort(axis=2)[:, :, :top_k]
        missing = rng.random((rows, len(layers))) < share
        ids[missing] = 0
        routes = Routes(ids.astype(np.uint8), tuple(layers), columns, start, missing)
        made.append(replace(sample, routes=routes))
    return [*made, inputs[-1]]


def shares(score, logits_TE):
    """float64 [T, E], the log of each score's share in the sum of all, by numpy."""
    logits_TE = logits_TE.double().numpy()
    if score == "sigmoid":
        scores_TE = 1 / (1 + np.exp(-logits_TE))
    elif score == "sqrtsoftplus":
        scores_TE = np.sqrt(np.log1p(np.exp(logits_TE)))
    else:
        scores_TE = np.exp(logits_TE - logits_TE.max(axis=1, keepdims=True))
    return np.log(scores_TE / scores_TE.sum(axis=1, keepdims=True))


def expected(model, score, sample, inputs, columns):
    """float64 [T, L, K], NaN where the sample has no route, from the modules' own logits."""
    routes, token_ids = sample.routes, torch.from_numpy(sample.token_ids.astype(np.int64))
    layers = sorted(inputs)
    found = np.full((len(token_ids), len(layers), routes.top_k), np.nan)
    for at, layer in enumerate(layers):
        with quiet():
            seen = call(model, layer, inputs[layer], columns, token_ids)
        logprobs_TE = shares(score, seen.logits.reshape(len(token_ids), -1))
        for row in range(routes.num_tokens):
            t, ids_K = routes.start + row, routes.ids_TLK[row, at].astype(int)
            if not routes.missing_TL[row, at]:
                found[t, at] = logprobs_TE[t, ids_K]
    return found


@pytest.mark.parametrize("name", COVERED)
def test_every_family_is_asked_as_its_module_answers(name, tmp_path):
    """The log-probabilities of given experts, slot by slot, are those of the module's logits."""
    folder = checkpoint_of(name, tmp_path)
    with quiet():
        gates = open_gates(folder, "cpu")
        model = load(folder, torch.float32, name)
    recipe = recipe_from_config(families.config_of_family(name).to_dict(), name)
    layers = families.FAMILIES[name].layers
    inputs = with_routes(samples(*LENGTHS), layers, recipe.columns, recipe.top_k)
    results, _ = forward(folder, inputs, dtype="float32", gates=gates, want_inputs=True)
    for sample, result in zip(inputs[:-1], results, strict=False):
        truth_TLK = expected(model, recipe.score, sample, result.inputs, recipe.columns)
        assert result.gate_logprobs_TLK.dtype == np.float32
        np.testing.assert_allclose(result.gate_logprobs_TLK, truth_TLK, rtol=0, atol=2e-6)
        assert np.isnan(truth_TLK).any()
        assert not np.isnan(truth_TLK).all()
    assert results[-1].gate_logprobs_TLK is None  # nothing was asked


@pytest.mark.parametrize("name", ["qwen3_moe", "deepseek_v3", "gpt_oss"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_plain_streamed_forced_and_padded_runs_agree(name, dtype, tmp_path):
    """Streaming changes no bit; forced, what is asked along the given path; padding, rounding."""
    folder = checkpoint_of(name, tmp_path)
    gates = open_gates(folder, "cpu")
    recipe = recipe_from_config(families.config_of_family(name).to_dict(), name)
    layers = families.FAMILIES[name].layers
    inputs = with_routes(samples(*LENGTHS), layers, recipe.columns, recipe.top_k, 0)[:-1]

    def run(**options):
        results, _ = forward(folder, inputs, dtype=dtype, gates=gates, **options)
        return results

    plain = run(mode="both")
    for streaming in ({"streaming": "stream"}, {"streaming": "stream", "max_tokens_per_pass": 8}):
        for one, two in zip(plain, run(mode="both", **streaming), strict=True):
            np.testing.assert_array_equal(one.gate_logprobs_TLK, two.gate_logprobs_TLK)
    free, forced = plain[0].gate_logprobs_TLK, plain[1].gate_logprobs_TLK
    np.testing.assert_array_equal(free[:, 0], forced[:, 0])  # nothing is forced before it
    assert not np.array_equal(free[:, 1:], forced[:, 1:], equal_nan=True)
    assert np.isnan(free[-1]).all()
    bound = 2e-5 if dtype == "float32" else 0.2
    for one, two in zip(plain, run(mode="both", batch=4), strict=True):
        np.testing.assert_allclose(one.gate_logprobs_TLK, two.gate_logprobs_TLK, atol=bound, rtol=0)
    for one, two in zip(plain[::2], run(), strict=True):
        np.testing.assert_array_equal(one.gate_logprobs_TLK, two.gate_logprobs_TLK)
    assert all(result.gate_logprobs_TLK is None for result in forward(folder, inputs)[0])


def test_a_layer_without_routes_is_unknown(tmp_path):
    """A dump that lacks a layer leaves it NaN; one of another model is refused."""
    folder = checkpoint_of("qwen3_moe", tmp_path)
    gates = open_gates(folder, "cpu")
    layers = families.FAMILIES["qwen3_moe"].layers
    inputs = with_routes(samples(6, 5), layers[1:], families.EXPERTS, families.TOP_K)[:1]
    (result,), _ = forward(folder, inputs, gates=gates)
    assert np.isnan(result.gate_logprobs_TLK[:, 0]).all()
    assert not np.isnan(result.gate_logprobs_TLK[:, 1:]).all()
    other = with_routes(samples(6, 5), layers, 2 * families.EXPERTS, families.TOP_K)[:1]
    with pytest.raises(MismatchError, match="wrong routes: got top-4 of 32, expected top-4 of 16"):
        forward(folder, other, gates=gates)


def test_a_padded_batch_asks_each_sample_about_its_own(tmp_path):
    """Missing rows, later starts and a sample without routes stay apart in one padded forward."""
    folder = checkpoint_of("qwen3_moe", tmp_path)
    gates = open_gates(folder, "cpu")
    layers = families.FAMILIES["qwen3_moe"].layers
    inputs = with_routes(samples(7, 12, 5), layers, families.EXPERTS, families.TOP_K)
    alone, _ = forward(folder, inputs, gates=gates)
    together, _ = forward(folder, inputs, gates=gates, batch=3)
    for one, two in zip(alone[:-1], together[:-1], strict=True):
        np.testing.assert_allclose(one.gate_logprobs_TLK, two.gate_logprobs_TLK, atol=2e-5, rtol=0)
    assert together[-1].gate_logprobs_TLK is None


def test_a_router_that_the_config_denies_is_named(tmp_path):
    """Routes of a layer whose router is not among those of the checkpoint are refused."""
    folder = checkpoint_of("solar_open", tmp_path)
    inputs = with_routes(samples(6, 5), (0, 1, 2), families.EXPERTS, families.TOP_K)[:1]
    with pytest.raises(MismatchError, match="sample 0: layer 0: routes, but no gate to ask"):
        forward(folder, inputs, gates=open_gates(folder, "cpu"))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("zaya", "no gate log-probabilities of zaya: the router is a network"),
        ("inkling", "inkling"),
    ],
)
def test_a_family_without_logits_is_refused_in_one_line(name, said, tmp_path):
    """A family without a recipe, or whose logits are no product, is refused with its reason."""
    folder = checkpoint_of(name, tmp_path)
    with pytest.raises(UnsupportedError, match=said) as caught:
        open_gates(folder, "cpu")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("score", ["softmax", "sigmoid", "sqrtsoftplus"])
def test_extreme_logits_have_log_probabilities(score):
    """Probabilities add up to 1, and none is lost to underflow, for logits from -200 to 200."""
    recipe = recipe_from_config(families.config_of_family("qwen3_moe").to_dict(), "qwen3_moe")
    recipe = replace(recipe, score=score)
    logits = torch.linspace(-200, 200, families.EXPERTS).repeat(3, 1)
    logits[1] /= 10
    logits[2] -= 200
    logprobs = gate_logprobs(recipe, logits).double()
    assert logprobs.isfinite().all()
    assert torch.allclose(logprobs.exp().sum(-1), torch.ones(3, dtype=torch.float64), atol=1e-5)
    assert (logprobs.diff(dim=-1) >= 0).all()
    truth = shares(score, logits[1:2])
    np.testing.assert_allclose(logprobs[1:2].numpy(), truth, atol=1e-5, rtol=0)
