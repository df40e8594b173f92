"""Each step of a router against a slow one in plain Python, on numbers that make ties.

Logits and biases are multiples of 1/8 and small, so that sums are exact in float32 and bfloat16.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from routectl.errors import UnsupportedError
from routectl.routers.maths import gate_weights, route, router_logits, top_k
from routectl.routers.recipe import Recipe
from routectl.routers.top_k import top_k_rows
from support.families import tiny
from support.modules import call, hidden_states, tensors_of

INF = math.inf
BASE = Recipe("test", "tests", 8, 2)


def ordered(values, tie):
    """Positions by descending value; equal ones by position, lowest or highest first."""
    sign = 1 if tie == "lowest" else -1
    return sorted(range(len(values)), key=lambda i: (-values[i], sign * i))


def margin_of(values, k):
    """The k-th minus the next of the sorted values."""
    values = sorted(values, reverse=True)
    if k == len(values):
        return INF
    return 0.0 if values[k - 1] == values[k] else values[k - 1] - values[k]


def group_score(group, recipe):
    """A group's score: its best experts' sum, or SGLang's of distinct ones."""
    best = sorted(group, reverse=True)
    if recipe.group_distinct:
        return best[0] + max([v for v in best if v < best[0]], default=-INF)
    return sum(best[: recipe.group_best])


def slow_selection(recipe, row, bias):
    """(scores, ids, margin, group margin) of one token."""
    values = [a + b for a, b in zip(row, bias, strict=True)]
    size, between = len(values) // recipe.n_group, None
    if recipe.topk_group < recipe.n_group:
        groups = [values[g * size : (g + 1) * size] for g in range(recipe.n_group)]
        scores = [group_score(group, recipe) for group in groups]
        kept = ordered(scores, recipe.tie)[: recipe.topk_group]
        between = margin_of(scores, recipe.topk_group)
        filler = 0.0 if recipe.group_mask == "zero" else -INF
        values = [v if e // size in kept else filler for e, v in enumerate(values)]
    return (
        values,
        ordered(values, recipe.tie)[: recipe.top_k],
        margin_of(values, recipe.top_k),
        between,
    )


def slow_score(recipe, values):
    """A score function over some logits, in float64."""
    if recipe.score == "softmax":
        total = sum(math.exp(v) for v in values)
        return [math.exp(v) / total for v in values]
    if recipe.score == "sigmoid":
        return [1 / (1 + math.exp(-v)) for v in values]
    return [math.sqrt(math.log1p(math.exp(v))) for v in values]


def slow_weights(recipe, row, ids, scale):
    """The weights of one token's ids."""
    if recipe.select_on == "logits":
        weights = slow_score(recipe, [row[e] for e in ids])
    else:
        scores = slow_score(recipe, row)
        weights = [scores[e] for e in ids]
    if recipe.normalise:
        total = max(sum(weights) + recipe.norm_eps, recipe.norm_min)
        weights = [w / total for w in weights]
    if recipe.mean:
        weights = [w / recipe.top_k for w in weights]
    weights = [
        0.0 if recipe.skip_experts and e >= recipe.num_experts else w
        for e, w in zip(ids, weights, strict=True)
    ]
    factors = [scale[e] if recipe.expert_scale else 1.0 for e in ids]
    return [w * f * recipe.scale for w, f in zip(weights, factors, strict=True)]


eighths = st.integers(-6, 6).map(lambda n: n / 8)


@st.composite
def cases(draw):
    """A recipe and tokens for it; most rows have ties, some are all equal, some have K = E."""
    n_group = draw(st.sampled_from([1, 1, 2, 3, 4]))
    size = draw(st.integers(2, 4))
    topk_group = draw(st.integers(1, n_group))
    experts = n_group * size
    recipe = Recipe(
        "test",
        "tests",
        experts,
        draw(st.integers(1, topk_group * size)),
        select_on="logits",
        score=draw(st.sampled_from(["softmax", "sigmoid", "sqrtsoftplus"])),
        expert_bias=True,
        n_group=n_group,
        topk_group=topk_group,
        group_best=draw(st.integers(1, size)),
        group_distinct=draw(st.booleans()),
        group_mask=draw(st.sampled_from(["-inf", "zero"])),
        tie=draw(st.sampled_from(["lowest", "highest"])),
        normalise=draw(st.booleans()),
        norm_eps=draw(st.sampled_from([0.0, 1e-20, 1e-6])),
        norm_min=draw(st.sampled_from([0.0, 1e-12, 0.75])),
        mean=draw(st.booleans()),
        expert_scale=draw(st.booleans()),
        scale=draw(st.sampled_from([1.0, 2.5])),
    )
    row = st.one_of(
        st.lists(eighths, min_size=experts, max_size=experts), eighths.map(lambda v: [v] * experts)
    )
    return (
        recipe,
        draw(st.lists(row, min_size=1, max_size=5)),
        draw(
            st.one_of(
                st.just([0.0] * experts), st.lists(eighths, min_size=experts, max_size=experts)
            )
        ),
        draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float64])),
    )


@settings(max_examples=80, deadline=None)
@given(cases())
def test_selection(case):
    """Ids, their order, margins and group margins are those of the slow router, ties included."""
    recipe, rows, bias, dtype = case
    scale = [1 + e / 8 for e in range(recipe.columns)]
    logits = torch.tensor(rows, dtype=dtype)
    got = route(
        recipe,
        logits,
        expert_bias_E=torch.tensor(bias),
        expert_scale_E=torch.tensor(scale) if recipe.expert_scale else None,
    )
    for t, row in enumerate(rows):
        scores, ids, margin, between = slow_selection(recipe, row, bias)
        assert got.ids_TK[t].tolist() == ids
        assert got.scores_TE[t].tolist() == scores
        assert got.margin_T[t].item() == margin
        assert (None if got.group_margin_T is None else got.group_margin_T[t].item()) == between
        assert got.tie_T[t].item() == (margin == 0 or between == 0)
        expected = slow_weights(recipe, row, ids, scale)
        assert got.weights_TK[t].tolist() == pytest.approx(expected, rel=1e-5)


@settings(max_examples=40, deadline=None)
@given(cases())
def test_scores_first(case):
    """Selecting on scores gives descending scores, and weights of unbiased scores."""
    recipe, rows, bias, dtype = case
    recipe = replace(recipe, select_on="scores", n_group=1, topk_group=1, expert_scale=False)
    got = route(recipe, torch.tensor(rows, dtype=dtype), expert_bias_E=torch.tensor(bias))
    for t, row in enumerate(rows):
        scores = [s + b for s, b in zip(slow_score(recipe, row), bias, strict=True)]
        assert got.scores_TE[t].tolist() == pytest.approx(scores, abs=1e-6)
        assert (
            got.ids_TK[t].tolist() == ordered(got.scores_TE[t].tolist(), recipe.tie)[: recipe.top_k]
        )
        expected = slow_weights(recipe, row, got.ids_TK[t].tolist(), None)
        assert got.weights_TK[t].tolist() == pytest.approx(expected, rel=1e-5)


def test_all_scores_equal():
    """All scores equal: the lowest ids, margin 0, a tie; K = E has no margin and no tie."""
    logits = torch.zeros(3, 8)
    got = route(BASE, logits)
    assert got.ids_TK.tolist() == [[0, 1]] * 3
    assert got.margin_T.tolist() == [0.0] * 3
    assert got.tie_T.all()
    everything = route(replace(BASE, top_k=8), logits)
    assert everything.ids_TK.tolist() == [list(range(8))] * 3
    assert everything.margin_T.tolist() == [INF] * 3
    assert not everything.tie_T.any()


def test_a_tie_above_the_boundary_is_none():
    """Equal scores among the selected are ordered by id and are no tie of the selection."""
    got = route(replace(BASE, select_on="logits"), torch.tensor([[0.0, 1, 3, 0, 3, 0, 0, 0]]))
    assert got.ids_TK.tolist() == [[2, 4]]
    assert got.margin_T.item() == 2.0
    assert not got.tie_T.any()


def test_fewer_experts_than_k_survive():
    """Scores that are all 0 in kept groups tie with dropped ones masked at 0, not with -inf."""
    zero = replace(
        BASE, select_on="logits", n_group=4, topk_group=2, top_k=3, group_best=1, group_mask="zero"
    )
    logits = torch.tensor([[5.0, -1, 4, -2, 0, 0, 0, 0]])
    assert route(zero, logits).ids_TK.tolist() == [[0, 2, 4]]
    dropped = route(replace(zero, group_mask="-inf"), logits)
    assert dropped.ids_TK.tolist() == [[0, 2, 1]]
    assert dropped.margin_T.item() == 1.0


def test_nan_is_not_hidden():
    """A token with NaN logits has a NaN margin and is no tie; its neighbours are untouched."""
    logits = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    logits[0, 3] = torch.nan
    got = route(BASE, logits)
    assert got.margin_T.isnan().tolist() == [True, False]
    assert got.tie_T.tolist() == [False, False]


@given(st.lists(st.lists(eighths, min_size=6, max_size=6), min_size=1, max_size=4))
def test_top_k_is_a_stable_sort(rows):
    """top_k, and the kernel, are Python's stable sort, for every k."""
    for k in range(1, 7):
        ids, margin = top_k(torch.tensor(rows), k)
        assert ids.tolist() == [ordered(row, "lowest")[:k] for row in rows]
        assert margin.tolist() == [margin_of(row, k) for row in rows]
        fast, between = top_k_rows(np.array(rows, np.float32), k)
        assert fast.tolist() == ids.tolist()
        assert between.tolist() == margin.tolist()


def test_kernel_on_extremes():
    """The kernel equals top_k on infinities, -0.0 and subnormals; a NaN makes the margin NaN."""
    values = torch.tensor([-torch.inf, torch.inf, -0.0, 0.0, 1e-45, -1e-45, 3.4e38, 1.0])
    generator = torch.Generator().manual_seed(0)
    scores = values[torch.randint(0, 8, (500, 12), generator=generator)]
    for k in (1, 5, 12):
        ids, margin = top_k(scores, k)
        fast, between = top_k_rows(scores.numpy(), k)
        assert np.array_equal(fast, ids.numpy())
        assert np.array_equal(between, margin.numpy())
    scores[3, 4] = torch.nan
    assert np.flatnonzero(np.isnan(top_k_rows(scores.numpy(), 5)[1])).tolist() == [3]


@pytest.mark.models
@given(st.lists(st.lists(eighths, min_size=8, max_size=8), min_size=1, max_size=4))
def test_sparsemixer(rows):
    """sparsemixer takes the two best logits; its weights are transformers' function's."""
    from transformers.models.phimoe.modeling_phimoe import sparsemixer

    recipe = replace(
        BASE, select_on="logits", score="sparsemixer", score_dtype="logits", jitter=0.1
    )
    logits = torch.tensor(rows)
    weights, ids = sparsemixer(logits, jitter_eps=0.1, training=False)
    got = route(recipe, logits)
    assert torch.equal(got.scores_TE.gather(-1, ids), got.scores_TE.gather(-1, got.ids_TK))
    ours = gate_weights(recipe, logits, ids)
    assert torch.equal(ours.isnan(), weights.isnan())
    assert torch.equal(ours.nan_to_num(), weights.nan_to_num())


def test_hash_layer_takes_the_table():
    """A hash layer's ids are the table's rows, ordered by live score, far from any boundary."""
    recipe = replace(BASE, score="sqrtsoftplus", hash_layers=(0,), normalise=True).at(0)
    logits = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    table = torch.rand(20, 8, generator=torch.Generator().manual_seed(1)).argsort(-1)[:, :2].short()
    token_ids = torch.tensor([3, 3, 0, 19, 7])
    got = route(recipe, logits, token_ids_T=token_ids, table_VK=table)
    assert torch.equal(got.ids_TK.sort(-1).values, table[token_ids].long().sort(-1).values)
    assert (got.scores_TE.gather(-1, got.ids_TK).diff(dim=-1) <= 0).all()
    assert got.margin_T.tolist() == [INF] * 5
    assert torch.allclose(got.weights_TK.sum(-1), torch.ones(5))
    with pytest.raises(ValueError, match="token_ids_T"):
        route(recipe, logits)


@pytest.mark.models
def test_longcat_zero_experts_keep_their_ids():
    """LongCat's zero experts come out as ids of E and up, as its own router has them."""
    from routectl.routers.from_config import recipe_from_config
    from support.families import config_of_family

    recipe = recipe_from_config(config_of_family("longcat_flash").to_dict(), "longcat")
    model, hidden = tiny("longcat_flash"), hidden_states(64, torch.float32)
    seen = call(model, 0, hidden, recipe.columns)
    got = route(recipe, seen.logits, expert_bias_E=tensors_of(model, 0).expert_bias)
    assert (recipe.num_experts, recipe.columns) == (12, 16)
    assert (got.ids_TK >= 12).sum() == (seen.ids >= 12).sum() > 20


def test_misuse_is_a_value_error():
    """What does not fit the recipe is a ValueError that names it."""
    logits = torch.zeros(2, 8)
    with pytest.raises(ValueError, match=r"logits_TE must be \[T, 8\]"):
        route(BASE, torch.zeros(2, 9))
    with pytest.raises(ValueError, match="expert_bias_E: got True, expected False"):
        route(BASE, logits, expert_bias_E=torch.zeros(8))
    with pytest.raises(ValueError, match="expert_bias_E: got False"):
        route(replace(BASE, expert_bias=True), logits)
    with pytest.raises(ValueError, match=r"expert_bias_E must be \[8\]"):
        route(replace(BASE, expert_bias=True), logits, expert_bias_E=torch.zeros(1, 8))
    with pytest.raises(ValueError, match="linear bias"):
        router_logits(BASE, torch.zeros(2, 4), torch.zeros(8, 4), torch.zeros(8))
    with pytest.raises(UnsupportedError, match="no logits of test: why"):
        router_logits(replace(BASE, logits_gap="why"), torch.zeros(2, 4), torch.zeros(8, 4))
