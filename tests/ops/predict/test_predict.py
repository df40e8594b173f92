"""Predictors of later routes: the fit against Newton's method, worlds with a known answer, rows.

Shape suffixes: T tokens, D hidden size, E experts, L layers, K top_k, S sequences.
"""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from routectl.errors import FormatError, MismatchError, RoutectlError
from routectl.ops.predict import predict as module
from routectl.ops.predict.predict import (
    RoutedVersion,
    extrapolated,
    fit_layer,
    fit_predictor,
    router_digest,
)
from routectl.ops.predict.replaced import replaced_slots
from routectl.ops.predict.replay_inputs import LayerRouter, replay_inputs
from routectl.ops.predict.rows import RowSplit, prefix_digests, split_rows, unseen_rows
from routectl.ops.predict.scores import (
    RATIOS,
    PredictionScores,
    Replaced,
    above,
    below,
    parse_gain,
    parse_replaced,
    predictor_scores,
)
from routectl.routers.from_config import recipe_from_config
from routectl.routers.recipe import Recipe
from support.families import config_of_family

RECIPE = Recipe("tiny", "a test", num_experts=16, top_k=4)
LENS = (20,) * 40  # a fifth of them, which are held out, are enough for an interval
TOKENS = np.arange(800, dtype=np.int32)


def version(name, weight_ED, hidden_TD):
    """A version of one layer."""
    return RoutedVersion(name, {3: LayerRouter(weight_ED)}, {3: hidden_TD})


def world(seed=0, width=12):
    """Router weights [16, D], hidden states [800, D], and the generator that made them."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(16, width, generator=rng), torch.randn(800, width, generator=rng), rng


def halves(tokens):
    """A split without held-out rows: even rows to fit on, odd ones to choose by."""
    even_T = np.arange(tokens) % 2 == 0
    return RowSplit(even_T, ~even_T, np.zeros(tokens, np.bool_))


def newton(states_TD, logits_TE, target_TE, ridge):
    """The penalised minimum by Newton's method with autograd's whole Hessian, in float64."""
    width, experts = states_TD.shape[1], logits_TE.shape[1]
    penalty = ridge * float(states_TD.pow(2).mean())

    def loss(flat):
        weight_DE = flat.reshape(width, experts)
        rho_TE = torch.softmax(logits_TE + states_TD @ weight_DE, dim=1)
        kl_TE = target_TE * (target_TE.log() - rho_TE.log())
        return kl_TE.sum() / len(states_TD) + penalty / 2 * (weight_DE**2).sum()

    flat = torch.zeros(width * experts, dtype=torch.float64)
    for _ in range(20):
        slope = torch.autograd.functional.jacobian(loss, flat)
        bend = torch.autograd.functional.hessian(loss, flat)
        flat = flat - torch.linalg.solve(bend, slope)
    assert torch.autograd.functional.jacobian(loss, flat).abs().max() < 1e-12
    return flat.reshape(width, experts), float(loss(flat))


@pytest.mark.parametrize("ridge", [1.0, 0.01, 1e-4])
def test_the_fit_is_newtons(ridge, monkeypatch):
    """The predictor is the minimum that Newton's method finds, in weights and in loss."""
    rng = torch.Generator().manual_seed(1)
    states_TD = torch.randn(60, 5, generator=rng) * torch.tensor([5, 1, 1, 0.2, 0.05])
    logits_TE = torch.randn(60, 4, generator=rng)
    target_TE = (logits_TE + states_TD @ torch.randn(5, 4, generator=rng)).double().softmax(-1)
    monkeypatch.setattr(module, "RIDGES", (ridge,))
    fit = fit_layer(states_TD, logits_TE, target_TE, halves(60))
    assert fit.ridge == ridge
    expected_DE, least = newton(states_TD.double(), logits_TE.double(), target_TE, ridge)
    assert torch.allclose(fit.weight_DE.double(), expected_DE, rtol=1e-3, atol=1e-4)
    penalty = ridge * float(states_TD.pow(2).mean()) / 2 * float(fit.weight_DE.pow(2).sum())
    assert fit.kl + penalty == pytest.approx(least, rel=1e-5)
    zero = torch.nn.functional.kl_div(logits_TE.log_softmax(1), target_TE, reduction="batchmean")
    assert fit.kl_frozen == pytest.approx(float(zero), rel=1e-5)


def scores_of(old, later, fits, split):
    """Frozen and predicted routes of an old version against a later one, on held-out rows."""
    (frozen,) = replay_inputs(RECIPE, old.routers, old.hidden)
    router = replace(old.routers[3], predictor_DE=fits[3].weight_DE)
    (predicted,) = replay_inputs(RECIPE, {3: router}, old.hidden)
    (true,) = replay_inputs(RECIPE, later.routers, later.hidden)
    kinds = {"frozen": frozen.routes.ids_TLK, "predicted": predicted.routes.ids_TLK}
    one = predictor_scores(kinds, true.routes.ids_TLK, ("v1", 1), (3,), (split.held_T, LENS))
    return PredictionScores("v0", None, (one,), (), int(split.held_T.sum()), 0)


def test_a_known_step_of_the_router_is_recovered():
    """Where the router moved by delta and hidden states did not, prediction is nearly perfect."""
    weight_ED, hidden_TD, rng = world()
    old = version("v0", weight_ED, hidden_TD)
    later = version("v1", weight_ED + 0.3 * torch.randn(16, 12, generator=rng), hidden_TD)
    split = split_rows(prefix_digests(TOKENS, LENS), LENS)
    fits = fit_predictor(RECIPE, old, [later], split)
    scores = scores_of(old, later, fits, split)
    (one,) = scores.comparisons
    assert one.accuracy("frozen").value < 0.9
    assert one.accuracy("predicted").value > 0.99
    assert one.removed("predicted").value > 0.9
    assert scores.beats == (one,)
    interval = one.gain("predicted").interval
    assert 0 < interval.low <= one.gain("predicted").value <= interval.high
    moved_TE = hidden_TD @ (later.routers[3].weight_ED - weight_ED).T
    shift_TE = hidden_TD @ fits[3].weight_DE
    off_TE = (shift_TE - shift_TE.mean(1, keepdim=True)) - (
        moved_TE - moved_TE.mean(1, keepdim=True)
    )
    assert off_TE.abs().mean() < 0.05 * moved_TE.abs().mean()  # softmax: up to a constant a row


def test_pure_noise_is_not_predicted():
    """Where later logits are noise of their own, the ridge is stiff and no gain is claimed."""
    weight_ED, hidden_TD, rng = world(1)
    old = version("v0", weight_ED, hidden_TD)
    moved_TD = hidden_TD + 0.2 * torch.randn(800, 12, generator=rng)
    split = split_rows(prefix_digests(TOKENS, LENS), LENS)
    later = version("v1", weight_ED, moved_TD)
    fits = fit_predictor(RECIPE, old, [later], split)
    scores = scores_of(old, later, fits, split)
    assert scores.beats == ()
    assert scores.comparisons[0].accuracy("frozen").value < 0.95


@pytest.mark.slow
def test_more_inputs_than_tokens_do_not_overfit():
    """With D over T the predictor does not harm rows that it was not fitted on."""
    weight_ED, hidden_TD, rng = world(2, width=1000)
    weight_ED = weight_ED / 30
    moved_TD = hidden_TD + 0.3 * torch.randn(800, 1000, generator=rng)
    old, later = version("v0", weight_ED, hidden_TD), version("v1", weight_ED, moved_TD)
    split = split_rows(prefix_digests(TOKENS, LENS), LENS)
    fits = fit_predictor(RECIPE, old, [later], split)
    assert fits[3].choose_kl <= fits[3].choose_kl_frozen
    (one,) = scores_of(old, later, fits, split).comparisons
    assert one.gain("predicted").value > -0.01


def test_several_later_versions_are_their_mean(monkeypatch):
    """The minimum over several later versions is that of the mean of their KLs."""
    monkeypatch.setattr(module, "RIDGES", (0.01,))
    weight_ED, hidden_TD, rng = world(3, width=4)
    old = version("v0", weight_ED, hidden_TD)
    later = [
        version(f"v{n}", weight_ED + 0.3 * torch.randn(16, 4, generator=rng), hidden_TD)
        for n in (1, 2)
    ]
    fit = fit_predictor(RECIPE, old, later, halves(800))[3]
    weight_DE = fit.weight_DE.double().requires_grad_()
    logits_TE = (hidden_TD @ weight_ED.T).double() + hidden_TD.double() @ weight_DE
    log_rho_TE = logits_TE.log_softmax(1)
    loss = 0.01 * hidden_TD.double().pow(2).mean() / 2 * weight_DE.pow(2).sum()
    for one in later:
        target_TE = (hidden_TD @ one.routers[3].weight_ED.T).double().softmax(1)
        loss = loss + torch.nn.functional.kl_div(log_rho_TE, target_TE, reduction="batchmean") / 2
    loss.backward()
    assert weight_DE.grad.abs().max() < 1e-5


@pytest.mark.models
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["qwen3_moe", "deepseek_v3", "gpt_oss", "phimoe"])
def test_zero_is_frozen(name, dtype):
    """A zero predictor gives the frozen routes and margins bit for bit, whatever the recipe."""
    recipe = recipe_from_config(config_of_family(name).to_dict(), name)
    rng = torch.Generator().manual_seed(0)
    columns = recipe.columns
    linear_E = torch.randn(columns, generator=rng).to(dtype) if recipe.linear_bias else None
    bias_E = torch.rand(columns, generator=rng) if recipe.expert_bias else None
    router = LayerRouter(torch.randn(columns, 32, generator=rng).to(dtype), linear_E, bias_E)
    hidden = {0: torch.randn(300, 32, generator=rng).to(dtype)}
    (frozen,) = replay_inputs(recipe, {0: router}, hidden)
    zero = replace(router, predictor_DE=torch.zeros(32, columns))
    (predicted,) = replay_inputs(recipe, {0: zero}, hidden)
    assert np.array_equal(frozen.routes.ids_TLK, predicted.routes.ids_TLK)
    assert np.array_equal(frozen.margin_TL, predicted.margin_TL)
    other = replace(router, predictor_DE=torch.randn(32, columns, generator=rng))
    (moved,) = replay_inputs(recipe, {0: other}, hidden)
    assert not np.array_equal(frozen.routes.ids_TLK, moved.routes.ids_TLK)


def test_predicted_routes_are_the_papers():
    """Predicted ids are the top-k of softmax(p_old + h W_p), as PR2 writes it."""
    weight_ED, hidden_TD, rng = world(4)
    shift_DE = torch.randn(12, 16, generator=rng)
    (found,) = replay_inputs(
        RECIPE, {3: LayerRouter(weight_ED, predictor_DE=shift_DE)}, {3: hidden_TD}
    )
    rho_TE = torch.softmax(hidden_TD @ weight_ED.T + hidden_TD @ shift_DE, dim=1)
    values_TK, ids_TK = rho_TE.topk(5, dim=1)
    assert np.array_equal(found.routes.ids_TLK[:, 0], ids_TK[:, :4].numpy())
    assert np.allclose(found.margin_TL[:, 0], values_TK[:, 3] - values_TK[:, 4], atol=1e-6)


@pytest.mark.models
def test_groups_and_bias_hold_for_predicted_routes():
    """Predicted ids of a grouped recipe stay in the groups that it keeps."""
    recipe = recipe_from_config(config_of_family("deepseek_v3").to_dict(), "deepseek_v3")
    assert recipe.grouped
    rng = torch.Generator().manual_seed(0)
    router = LayerRouter(
        torch.randn(recipe.columns, 32, generator=rng),
        None,
        torch.rand(recipe.columns),
        predictor_DE=torch.randn(32, recipe.columns, generator=rng),
    )
    (found,) = replay_inputs(recipe, {0: router}, {0: torch.randn(200, 32, generator=rng)})
    size = recipe.columns // recipe.n_group
    groups = [len(set(row)) for row in found.routes.ids_TLK[:, 0] // size]
    assert max(groups) <= recipe.topk_group


def test_extrapolation_goes_on_as_before():
    """W + k (W - W_prev), of weight and both biases, in the dtypes that they have."""
    before = {3: LayerRouter(torch.full((4, 2), 1.0), torch.zeros(4), torch.ones(4))}
    now = {3: LayerRouter(torch.full((4, 2), 1.5), torch.ones(4), torch.full((4,), 3.0))}
    ahead = extrapolated(before, now, 2)[3]
    assert ahead.weight_ED.tolist() == [[2.5, 2.5]] * 4
    assert ahead.linear_bias_E.tolist() == [3.0] * 4
    assert ahead.expert_bias_E.tolist() == [7.0] * 4
    assert extrapolated(now, now, 5)[3].weight_ED.equal(now[3].weight_ED)
    for wrong in ({}, {3: LayerRouter(torch.zeros(5, 2))}):
        with pytest.raises(MismatchError, match="layer 3"):
            extrapolated(wrong, now, 1)


def test_router_digests():
    """A digest follows weights and biases, and nothing else."""
    weight_ED = torch.zeros(4, 2)
    plain = router_digest({0: LayerRouter(weight_ED)})
    assert plain == router_digest({0: LayerRouter(weight_ED.clone(), predictor_DE=weight_ED)})
    others = [
        {0: LayerRouter(weight_ED + 1)},
        {1: LayerRouter(weight_ED)},
        {0: LayerRouter(weight_ED, torch.zeros(4))},
        {0: LayerRouter(weight_ED, None, torch.zeros(4))},
        {0: LayerRouter(weight_ED.bfloat16())},
    ]
    assert len({plain, *map(router_digest, others)}) == 6


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=3, max_size=12))
def test_no_row_is_on_two_sides(sequences):
    """Of each prefix one row is kept, on one side; every prefix is kept; it is so each time."""
    ids = np.array([token for one in sequences for token in one], np.int32)
    lens = [len(one) for one in sequences]
    prefixes_T = prefix_digests(ids, lens)
    every = [tuple(one[: n + 1]) for one in sequences for n in range(len(one))]
    assert len(set(prefixes_T.tolist())) == len(set(every))
    try:
        split = split_rows(prefixes_T, lens)
    except MismatchError:
        return
    kept = np.stack([split.fit_T, split.choose_T, split.held_T])
    assert kept.sum(axis=0).max() == 1
    rows = [every[row] for row in np.flatnonzero(kept.any(axis=0))]
    assert sorted(rows) == sorted(set(every))
    assert np.array_equal(split.held_T, split_rows(prefixes_T, lens).held_T)
    fitted = prefixes_T[split.fit_T | split.choose_T]
    assert np.array_equal(unseen_rows(prefixes_T, fitted).sum(), split.held_T.sum())


def test_a_fifth_is_held_out():
    """Of forty sequences eight are held out, eight choose the ridge; order has no part in it."""
    prefixes_T = prefix_digests(TOKENS, LENS)
    split = split_rows(prefixes_T, LENS)
    assert [int(part.sum()) // 20 for part in (split.fit_T, split.choose_T, split.held_T)] == [
        24,
        8,
        8,
    ]
    turned = TOKENS.reshape(40, 20)[::-1].reshape(-1)
    again = split_rows(prefix_digests(turned, LENS), LENS)
    held = set(TOKENS[split.held_T].tolist())
    assert held == set(turned[again.held_T].tolist())


def test_scores_are_counts():
    """Accuracy, gain, mismatch and staleness removed are those of plain loops over rows."""
    rng = np.random.default_rng(0)
    true, frozen, predicted = (
        np.stack([[rng.permutation(8)[:3] for _ in range(2)] for _ in range(30)]).astype(np.uint8)
        for _ in range(3)
    )
    rows_T = rng.random(30) < 0.7
    lens = (12, 1, 17)
    kinds = {"frozen": frozen, "predicted": predicted}
    one = predictor_scores(kinds, true, ("v2", 2), (0, 5), (rows_T, lens))
    for layer, columns in ((None, (0, 1)), (0, (0,)), (5, (1,))):
        found = {}
        for kind, ids in kinds.items():
            shared = [
                len(set(ids[t, c]) & set(true[t, c]))
                for t in range(30)
                if rows_T[t]
                for c in columns
            ]
            found[kind] = shared
            assert one.accuracy(kind, layer).value == pytest.approx(np.mean(shared) / 3)
            assert one.mismatch(kind, layer).value == pytest.approx(np.mean(np.array(shared) < 3))
        gain = (np.mean(found["predicted"]) - np.mean(found["frozen"])) / 3
        assert one.gain("predicted", layer).value == pytest.approx(gain)
        stale, left = (sum(n < 3 for n in found[kind]) for kind in ("frozen", "predicted"))
        assert one.removed("predicted", layer).value == pytest.approx(1 - left / stale)
    assert one.rows_S.tolist() == [rows_T[:12].sum(), rows_T[12:13].sum(), rows_T[13:].sum()]


def test_nothing_stale_leaves_nothing_to_remove():
    """Without a stale row the share removed is not defined, and a single sequence no interval."""
    ids = np.zeros((3, 1, 1), np.uint8)
    kinds = {"frozen": ids, "predicted": ids}
    one = predictor_scores(kinds, ids, ("v1", 1), (0,), (np.ones(3, np.bool_), (3,)))
    assert one.removed("predicted").value is None
    assert one.accuracy("predicted").value == 1
    assert one.accuracy("predicted").interval is None
    assert PredictionScores("v0", None, (one,), (), 3, 0).beats == ()


def test_versions_that_were_fitted_to_are_not_judged():
    """The verdict is about versions that the predictor has not seen, where there are any."""
    ids, rows_T = np.zeros((40, 1, 1), np.uint8), np.ones(40, np.bool_)
    frozen = ids + 1
    frozen[0] = 0
    kinds = {"frozen": frozen, "predicted": ids}
    lens = (2,) * 20
    one, two = (predictor_scores(kinds, ids, (f"v{n}", n), (0,), (rows_T, lens)) for n in (1, 2))
    scores = PredictionScores("v0", None, (one, two), ("v1",), 4, 0)
    assert scores.judged == scores.beats == (two,)
    assert replace(scores, fitted=("v1", "v2")).judged == (one, two)
    assert below(scores, parse_gain("gain:0.9")) == ()
    assert below(
        replace(scores, comparisons=(replace(two, shared_XLS=0 * two.shared_XLS),)),
        parse_gain("gain:0.5%"),
    ) == (("gain:0.5%", "v2", 0.0),)
    for wrong in ("loss:1%", "gain", "gain:x", "gain:200%", "gain:nan"):
        with pytest.raises(RoutectlError):
            parse_gain(wrong)


def test_replace_rates_are_gated():
    """replaced@RATIO:N is of every later version that has a rate; at the limit is not over."""
    ids, rows_T = np.zeros((4, 1, 1), np.uint8), np.ones(4, np.bool_)
    one, two, none = (
        predictor_scores({"frozen": ids, "predicted": ids}, ids, (name, 1), (0,), (rows_T, (4,)))
        for name in ("v1", "v2", "v3")
    )
    counts_RL = np.arange(len(RATIOS))[:, None]
    half = replace(one, replaced=Replaced(10, counts_RL))
    more = replace(two, replaced=Replaced(10, 2 * counts_RL))
    scores = PredictionScores("v0", None, (half, more, none), ("v1",), 4, 0)
    assert above(scores, parse_replaced("replaced@0.5:20%")) == (("replaced@0.5:20%", "v2", 0.4),)
    assert [new for _, new, _ in above(scores, parse_replaced("replaced@1:0.4"))] == ["v1", "v2"]
    assert above(scores, parse_replaced("replaced@0.1:0")) == ()
    wrong = "gain:1% replaced:1% replaced@0.3:1% replaced@0.5:x replaced@0.5:nan replaced@1:2"
    for text in wrong.split():
        with pytest.raises(RoutectlError):
            parse_replaced(text)


_KNOWN = "known: " + ", ".join(f"replaced@{ratio:g}" for ratio in RATIOS)


@pytest.mark.parametrize(
    ("parse", "text", "told", "hint"),
    [
        (parse_gain, "", "threshold '': expected gain:N[%], for example gain:0.1%", None),
        (parse_gain, "gain=2%", "expected gain:N[%], for example gain:2%", None),
        (
            parse_gain,
            "gian:2%",
            "metric 'gian' is not known: did you mean gain?",
            "known: gain; gain:N[%], for example gain:2%",
        ),
        (
            parse_gain,
            "gain:5",
            "gain is a rate: got 5, expected -1..1",
            "gain:5% if percent was meant",
        ),
        (parse_replaced, "replaced@0.5", "expected replaced@RATIO:N[%], for example ", _KNOWN),
        (
            parse_replaced,
            "replacd@0.5:2%",
            "is not known: did you mean replaced@0.5?",
            f"{_KNOWN}; replaced@RATIO:N[%], for example replaced@0.5:2%",
        ),
        (parse_replaced, "replaced@0.3:2%", "is not known: did you mean replaced@0.", _KNOWN),
        (parse_replaced, "replaced@0.5:x", "'x' is not a number", None),
    ],
)
def test_thresholds_that_cannot_be_read(parse, text, told, hint):
    """A mistyped one is answered as those of diff are: the nearest, and one that can be typed."""
    with pytest.raises(RoutectlError) as caught:
        parse(text)
    assert told in str(caught.value)
    assert (caught.value.hint or "").startswith(hint or "")
    assert (caught.value.hint is None) == (hint is None)
    for example in re.findall(r"for example (\S+)", f"{caught.value} {caught.value.hint}"):
        parse(example)


def test_refused():
    """Layers, sizes and numbers that do not fit are refused in one line."""
    weight_ED, hidden_TD, _ = world()
    old = version("v0", weight_ED, hidden_TD)
    split = halves(800)
    broken_TD = hidden_TD.clone()
    broken_TD[7, 2] = torch.nan
    hashed = replace(RECIPE, hash_layers=(3,))
    for recipe, first, later, kind, words in (
        (RECIPE, old, version("v1", weight_ED, broken_TD), FormatError, "of v1: layer 3: not fin"),
        (RECIPE, old, version("v1", weight_ED, hidden_TD[:9]), MismatchError, "800 tokens"),
        (RECIPE, old, version("v1", weight_ED[:, :5], hidden_TD), MismatchError, "expected .T, 5."),
        (RECIPE, old, RoutedVersion("v1", {}, {}), MismatchError, "version v1: no layer 3"),
        (hashed, old, old, MismatchError, "no layer selects by logits"),
    ):
        with pytest.raises(kind, match=words):
            fit_predictor(recipe, first, [later], split)
    router = LayerRouter(weight_ED, predictor_DE=torch.zeros(2, 16))
    with pytest.raises(MismatchError, match=r"predictor does not fit: got .2, 16., expected .12"):
        replay_inputs(RECIPE, {3: router}, {3: hidden_TD})
    prefixes_T = prefix_digests(TOKENS[:40], LENS[:2])
    with pytest.raises(MismatchError, match="got 2 sequences, expected three"):
        split_rows(prefixes_T, LENS[:2])
    with pytest.raises(MismatchError, match="fitted on every one"):
        unseen_rows(prefixes_T, prefixes_T)
    with pytest.raises(MismatchError, match="got 20 tokens in sequences, expected 40"):
        prefix_digests(TOKENS[:40], LENS[:1])


def test_replaced_slots_are_those_of_a_filter():
    """Slots whose score is under ratio times the weakest own expert's are replaced, by loops."""
    weight_ED, hidden_TD, rng = world()
    later = version("v1", weight_ED + 0.5 * torch.randn(16, 12, generator=rng), hidden_TD)
    (frozen,) = replay_inputs(RECIPE, version("v0", weight_ED, hidden_TD).routers, {3: hidden_TD})
    (true,) = replay_inputs(RECIPE, later.routers, {3: hidden_TD})
    routes = frozen.routes.ids_TLK, true.routes.ids_TLK
    rows_T = np.arange(len(hidden_TD)) % 3 > 0
    found = replaced_slots(RECIPE, later, routes, (3,), rows_T)
    scores = later.logits(RECIPE, 3).double().softmax(-1).tolist()
    for n, ratio in enumerate(RATIOS):
        expected = 0
        for t in np.flatnonzero(rows_T):
            weakest = min(scores[t][e] for e in routes[1][t, 0])
            expected += sum(scores[t][e] < ratio * weakest for e in routes[0][t, 0])
        assert found.replaced_RL[n].tolist() == [expected]
        assert found.rate(n) == found.rate(n, 0) == expected / (rows_T.sum() * RECIPE.top_k)
    assert found.rate(len(RATIOS) - 1) > found.rate(0)
    pairs = zip(*(ids[rows_T, 0].tolist() for ids in routes), strict=True)
    left = [len({*a} - {*b}) / len(a) for a, b in pairs]
    assert found.rate(len(RATIOS) - 1) == pytest.approx(np.mean(left))
