"""Router shift: gamma from recomputes, against transformers' own router logits.

The oracle is transformers with output_router_logits, the payloads of the engine decoded by hand,
and ten lines of numpy. Shape suffixes: T tokens, L MoE layers, K top_k.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from routectl import MismatchError, router_shift
from routectl.dump import Dump
from routectl.gate_logprobs import GATE_STEP, GateLogprobs, digest_routes, gates_of
from routectl.ops.staleness.gamma import GAMMA_BINS, RouterShift
from support.dumps import make_dump, make_routes, make_sample, part_of
from support.forwards import quiet
from support.recordings import decode, read_lines
from support.tiny_rl import ENGINE

SOME = tuple(range(0, 96, 7))  # samples that the oracle runs


@pytest.fixture(scope="module")
def truth(tiny_checkpoints):
    """By version, float32 [T, L, K] of each of SOME: log p of the engine's experts."""
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    lines, found = read_lines(ENGINE), {}
    for version in ("v0", "v1"):
        with quiet():
            folder = tiny_checkpoints[version]
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        found[version] = []
        for line in (lines[i] for i in SOME):
            tokens = torch.tensor([line["prompt_token_ids"] + line["token_ids"]])
            ids_TLK = torch.from_numpy(decode(line["routed_experts_b64npy"]).astype(np.int64))
            with torch.no_grad():
                out = model(input_ids=tokens, output_router_logits=True, use_cache=False)
            logits_TLE = torch.stack(out.router_logits, dim=1)[: len(ids_TLK)]
            logprobs_TLK = logits_TLE.log_softmax(-1).gather(-1, ids_TLK)
            found[version].append(logprobs_TLK.numpy())
    return found


@pytest.mark.models
@pytest.mark.parametrize("version", ["v0", "v1"])
def test_gate_logprobs_are_those_of_transformers(version, tiny_dumps, truth):
    """Each is off by half a step of 1/4096 at most; the last token, which has no route, is NaN."""
    for i, theirs_TLK in zip(SOME, truth[version], strict=True):
        gates = tiny_dumps[version][i].gates
        ours_TLK = gates.logprobs_TLK
        assert np.abs(ours_TLK[:-1] - theirs_TLK).max() <= GATE_STEP / 2 + 1e-5
        assert np.isnan(ours_TLK[-1]).all()
        assert (ours_TLK[:-1] / GATE_STEP % 1 == 0).all()
        assert gates.of == tiny_dumps["v2"][i].gates.of


@pytest.mark.models
def test_gamma_is_that_of_the_paper(tiny_dumps, truth):
    """Mean, quantiles, share below 0.7 and each layer's shift: numpy's, to 1/4096."""
    sides = [part_of(tiny_dumps[version], SOME) for version in ("v0", "v1")]
    result = router_shift(*sides)
    gammas, shifts = [], []
    for old_TLK, new_TLK in zip(truth["v0"], truth["v1"], strict=True):
        shift_TL = np.abs(new_TLK.astype(np.float64) - old_TLK).mean(axis=2)
        shifts.append(shift_TL)
        gammas.append(np.exp(-shift_TL.mean(axis=1)))
    columns = result.buckets.sums_CM
    assert sorted(columns[:, 0]) == sorted(map(len, gammas))
    assert sorted(columns[:, 1]) == pytest.approx(sorted(g.sum() for g in gammas), abs=1e-2)
    gamma_T, shift_TL = np.concatenate(gammas), np.concatenate(shifts)
    assert result.tokens == len(gamma_T)
    assert result.mean_gamma == pytest.approx(gamma_T.mean(), abs=1e-5)
    np.testing.assert_allclose(result.mean_shift_L, shift_TL.mean(axis=0), atol=1e-5)
    for side, version in (("old", "v0"), ("new", "v1")):
        mass_TL = np.exp(np.concatenate(truth[version]).astype(np.float64)).sum(axis=2)
        np.testing.assert_allclose(result.confidence_L(side), mass_TL.mean(axis=0), atol=1e-4)
    for q in (0, 0.01, 0.5, 0.9, 1):
        least = np.quantile(gamma_T, q, method="inverted_cdf")
        assert result.quantile(q) == pytest.approx(least, abs=1.5 / GAMMA_BINS)
    assert 0.97 < result.mean_gamma < 0.99  # one GRPO step
    assert result.layers == (0, 1, 2, 3, 4, 5)


@pytest.mark.models
def test_gamma_of_two_steps(tiny_dumps):
    """All 16,936 tokens with a route count; two steps move the routers further than one, each."""
    one, more, both = (
        router_shift(tiny_dumps[a], tiny_dumps[b])
        for a, b in (("v0", "v1"), ("v1", "v2"), ("v0", "v2"))
    )
    assert {result.tokens for result in (one, more, both)} == {16_936}
    assert both.mean_gamma < min(one.mean_gamma, more.mean_gamma)
    assert (both.mean_shift_L > np.maximum(one.mean_shift_L, more.mean_shift_L)).all()
    assert (round(one.mean_gamma, 4), round(both.mean_gamma, 4)) == (0.9801, 0.9714)
    assert one.below == both.below == 0
    same = router_shift(tiny_dumps["v0"], tiny_dumps["v0"])
    assert (same.mean_gamma, same.quantile(0), same.below_rate) == (1, 1, 0)
    turned = router_shift(tiny_dumps["v1"], tiny_dumps["v0"])
    assert (turned.mean_gamma, turned.below) == (one.mean_gamma, one.below)


@pytest.mark.models
def test_parts_add_up(tiny_dumps):
    """Halves of the samples, and prompt and response, add up to the whole."""
    old, new = tiny_dumps["v0"], tiny_dumps["v2"]
    whole = router_shift(old, new)
    halves = [router_shift(part_of(old, h), part_of(new, h)) for h in (range(40), range(40, 96))]
    places = [router_shift(old, new, tokens=tokens) for tokens in ("prompt", "response")]
    for parts in (halves, places):
        total = parts[0] + parts[1]
        assert (total.tokens, total.below) == (whole.tokens, whole.below)
        assert total.mean_gamma == pytest.approx(whole.mean_gamma)
        np.testing.assert_array_equal(total.gammas_B, whole.gammas_B)
        np.testing.assert_allclose(total.sum_shift_L, whole.sum_shift_L)
    prompts = sum(sample.prompt_length for sample in old)
    assert places[0].tokens == prompts
    narrow = router_shift(old, new, layers=(4, 2))
    assert narrow.layers == (2, 4)
    np.testing.assert_allclose(narrow.sum_shift_L, whole.sum_shift_L[[2, 4]])
    with pytest.raises(ValueError, match="other layers"):
        _ = narrow + whole


def gated(values, names=None, missing=(), of=None, prompt=2):
    """A dump of one sample per [T, L, K] of log-probabilities, two layers, of one dump's routes."""
    made = []
    for index, logprobs in enumerate(values):
        logprobs_TLK = np.array(logprobs, np.float32)
        ids = [[[0, 1]] * logprobs_TLK.shape[1]] * len(logprobs_TLK)
        routes = make_routes(ids, layers=range(logprobs_TLK.shape[1]), missing=missing)
        gates = GateLogprobs(logprobs_TLK, of or "x")
        tokens = list(range(100 * index, 100 * index + len(ids)))
        name = str(index) if names is None else names[index]
        sample = make_sample(routes, name, tokens[:prompt], tokens[prompt:], gates=gates)
        made.append(sample)
    return make_dump(made, layers=(0, 1), gates=True)


NAN = float("nan")


def test_by_hand():
    """Two layers move by 0.5 and 0.25 on average: gamma is e^-0.375; a token of 0.6 is below."""
    old = gated([[[[-1, -2], [-1, -1]], [[-1, -1], [-1, -1]], [[-1, -1], [-1, -1]]]])
    new = gated([[[[-2, -2], [-1.5, -1]], [[-1, -1], [-1, -1]], [[-1, -2], [-1.5, -1.5]]]])
    result = router_shift(old, new)
    gammas = np.exp([-0.375, 0, -0.5])
    assert (result.tokens, result.below, result.partial) == (3, 2, 0)
    assert result.mean_gamma == pytest.approx(gammas.mean())
    assert result.below_rate == pytest.approx(2 / 3)
    np.testing.assert_allclose(result.mean_shift_L, [1 / 3, 0.25])
    assert result.quantile(0) == round(np.exp(-0.5) * GAMMA_BINS) / GAMMA_BINS
    assert result.quantile(1) == 1
    assert router_shift(old, new, tokens="response").mean_gamma == pytest.approx(gammas[2])
    assert router_shift(old, new, layers=(0,)).mean_gamma == pytest.approx(
        np.exp([-0.5, 0, -0.5]).mean()
    )


def test_rows_that_are_missing_are_left_out():
    """NaN, and rows missing in either recompute, leave a token out; one in part is counted."""
    rows = [[[-1, -1], [-1, -1]]] * 4
    holes = [[[-1, -1], [NAN, NAN]], [[NAN, NAN], [NAN, NAN]], *rows[:2]]
    result = router_shift(gated([rows]), gated([holes]))
    assert (result.tokens, result.partial) == (2, 1)
    signalling = np.array(rows, np.float32)
    signalling.view(np.uint32)[0] = 0x7FA00000  # of which numpy warns where it is cast
    assert router_shift(gated([rows]), gated([signalling])).tokens == 3
    result = router_shift(gated([rows], missing={(3, 0), (3, 1), (0, 1)}), gated([rows]))
    assert (result.tokens, result.partial) == (2, 1)
    with pytest.raises(MismatchError, match="no token to compare: 1 samples match, 0 tokens"):
        router_shift(gated([rows]), gated([[[[NAN, NAN]] * 2] * 4]))


def test_samples_without_a_partner_are_counted():
    """Samples of one side alone, and those without gates, are left out and counted."""
    rows = [[[-1, -1], [-1, -1]]] * 3
    three, two = gated([rows] * 3), gated([rows] * 2)
    bare = [two[0], replace(two[1], gates=None)]
    result = router_shift(three, Dump(two.meta, two.keys, bare.__getitem__))
    assert (result.buckets.samples_G.sum(), result.unjoined) == (1, 3)


def test_what_cannot_be_compared_is_refused():
    """Dumps without gates, of other routes, of other lengths or layers: one line each."""
    rows = [[[-1, -1], [-1, -1]]] * 3
    dump = gated([rows])
    plain = Dump(replace(dump.meta, gates=False), dump.keys, dump.__getitem__)
    with pytest.raises(MismatchError, match="no gate log-probabilities") as caught:
        router_shift(dump, plain)
    assert "--gate-logprobs" in caught.value.hint
    with pytest.raises(MismatchError, match=r"sample 0: .* of other routes"):
        router_shift(dump, gated([rows], of="y"))
    short = [replace(gated([rows[:2]])[0], gates=GateLogprobs(np.float32([[[-1, -1]] * 2]), "x"))]
    with pytest.raises(MismatchError, match="sample 0: got 3 and 1 rows"):
        router_shift(dump, Dump(dump.meta, dump.keys, short.__getitem__))
    with pytest.raises(MismatchError, match=r"layers \[7\] are not MoE layers of both"):
        router_shift(dump, dump, layers=(0, 7))
    with pytest.raises(MismatchError, match="no layer to compare"):
        router_shift(dump, dump, layers=())
    with pytest.raises(ValueError, match="tokens 'some' is not known: all"):
        router_shift(dump, dump, tokens="some")
    unknown = [replace(dump[0], prompt_length=None)]
    with pytest.raises(MismatchError, match="sample 0: the prompt length is not known"):
        router_shift(Dump(dump.meta, dump.keys, unknown.__getitem__), dump, tokens="prompt")


def test_nothing_has_no_rates():
    """Without tokens a result has no mean, no quantile and no share."""
    nothing = RouterShift.empty((0,))
    found = (nothing.mean_gamma, nothing.quantile(0.5), nothing.below_rate, nothing.mean_shift_L)
    assert found == (None,) * 4


def test_digests_tell_routes_apart():
    """Another expert, slot order, start, layer or missing row is another digest."""
    ids = [[[0, 1], [2, 3]], [[4, 5], [0, 2]]]
    routes = make_routes(ids, layers=(0, 1))
    turned = [[[1, 0], [2, 3]], ids[1]]
    others = [
        make_routes(turned, layers=(0, 1)),
        make_routes(ids, layers=(0, 2)),
        make_routes(ids, layers=(0, 1), start=1),
        make_routes(ids, layers=(0, 1), missing={(1, 0)}),
        make_routes(ids[:1], layers=(0, 1)),
    ]
    digests = {digest_routes(other) for other in (routes, *others)}
    assert len(digests) == 6
    nothing_missing = replace(routes, missing_TL=np.zeros((2, 2), np.bool_))
    assert digest_routes(nothing_missing) == digest_routes(routes)


def test_rounding_is_half_a_step_at_most():
    """Kept values are multiples of 1/4096, nearest; what is not finite is not known."""
    routes = make_routes([[[0, 1]]] * 3, layers=(0,))
    values = np.array([[[-1.00007, 1e-9]], [[-np.inf, np.inf]], [[np.nan, -25.3]]])
    found = gates_of(values, routes).logprobs_TLK
    assert found.dtype == np.float32
    assert (found[0, 0, 0], found[0, 0, 1]) == (-1, 0)
    assert np.isnan(found[[1, 1, 2], 0, [0, 1, 0]]).all()
    assert abs(found[2, 0, 1] + 25.3) <= GATE_STEP / 2
    with pytest.raises(ValueError, match="finite and at most 0"):
        GateLogprobs(np.ones((1, 1, 1), np.float32), "x")
    with pytest.raises(ValueError, match="must be float32"):
        GateLogprobs(np.zeros((1, 1, 1)), "x")
