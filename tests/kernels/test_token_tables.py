"""The loops of routes by token against plain loops. T rows, L MoE layers, K top_k, E experts."""

import itertools
import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from routectl.kernels.align import best_path
from routectl.kernels.token_tables import (
    assign_largest,
    count_rows,
    renumbering_gains,
    score_counts,
    score_layers,
    score_rows,
    score_sums,
    score_tokens,
    score_totals,
    slide,
    worst_runs,
)

UNIT = 16


@st.composite
def rows(draw):
    """ids, missing (or None), slots, folds, and random scores of 2 folds, 3 tokens."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    tokens, layers, top_k = (draw(st.integers(low, 4)) for low in (0, 1, 1))
    experts = top_k + draw(st.integers(0, 3))
    ids = rng.integers(0, experts, (tokens, layers, top_k)).astype(
        draw(st.sampled_from([np.uint8, np.uint16]))
    )
    missing = rng.random((tokens, layers)) < 0.3 if draw(st.booleans()) else None
    slots = rng.integers(-1, 3, tokens).astype(np.int32)
    folds = rng.integers(0, 2, tokens).astype(np.int32)
    scores = rng.integers(-127, 128, (2, 3, layers, experts)).astype(np.int8)
    return ids, missing, slots, folds, scores


def plain(ids, missing, slots, folds, scores, t, layer, slot=None):
    """The score of one row of one layer."""
    slot = slots[t] if slot is None else slot
    if slot < 0 or (missing is not None and missing[t, layer]):
        return 0
    return sum(int(scores[folds[t], slot, layer, e]) for e in ids[t, layer])


@settings(max_examples=30, deadline=None)
@given(rows())
def test_scores_are_plain_sums(case):
    """Scores of rows, of their sums, of other tokens and of other layers are sums over ids."""
    ids, missing, slots, folds, scores = case
    tokens, layers, _ = ids.shape
    found = score_rows(slots, folds, ids, missing, scores)
    truth = [[plain(*case, t, layer) for layer in range(layers)] for t in range(tokens)]
    assert found.tolist() == truth
    totals = np.ones(layers, np.int64)
    score_totals(slots, folds, ids, missing, scores, totals)
    assert totals.tolist() == [1 + sum(row[layer] for row in truth) for layer in range(layers)]
    columns = np.arange(0, layers, 2)
    part = [sum(row[layer] for layer in columns) for row in truth]
    assert score_sums(slots, folds, ids, missing, columns, scores).tolist() == part
    every = np.arange(3, dtype=np.int32)
    assert score_tokens(every, folds, ids, missing, columns, scores).tolist() == [
        [sum(plain(*case, t, layer, v) for layer in columns) for v in every] for t in range(tokens)
    ]
    whole = (ids[:, [0]].repeat(layers, axis=1), None, slots, folds, scores)
    assert score_layers(slots, folds, ids[:, 0], scores).tolist() == [
        sum(plain(*whole, t, layer) for t in range(tokens)) for layer in range(layers)
    ]


@settings(max_examples=25, deadline=None)
@given(rows())
def test_counts_are_plain_counts(case):
    """Each row that is there and has a token is counted once, in its fold."""
    ids, missing, slots, folds, scores = case
    counts, seen = np.zeros(scores.shape, np.uint32), np.zeros((2, 3), np.int64)
    count_rows(slots, folds, ids, missing, counts, seen)
    truth, truth_rows = np.zeros(scores.shape, int), np.zeros((2, 3), int)
    for t in range(len(ids)):
        if slots[t] < 0:
            continue
        truth_rows[folds[t], slots[t]] += 1
        for layer, row in enumerate(ids[t]):
            for e in row:
                if missing is None or not missing[t, layer]:
                    truth[folds[t], slots[t], layer, e] += 1
    assert counts.tolist() == truth.tolist()
    assert seen.tolist() == truth_rows.tolist()


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(0, 2**32), st.integers(1, 40))
def test_scores_of_counts_are_the_formula(folds, seed, weight):
    """A score is the rounded logarithm of a blended share over the layer's own, by other folds."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson(1.0, (folds, 3, 2, 4)).astype(np.uint32)
    found = score_counts(counts, weight, UNIT)
    for f, v, layer, e in np.ndindex(counts.shape):
        others = counts[0] if folds == 1 else counts.sum(axis=0) - counts[f]
        base = (others[:, layer, e].sum() + 0.5) / (others[:, layer].sum() + 0.5 * 4)
        share = (others[v, layer, e] + weight * base) / (others[v, layer].sum() + weight)
        exact = UNIT * math.log2(share / base)
        assert abs(float(found[f, v, layer, e]) - max(-127, min(127, exact))) <= 0.5 + 1e-6


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 6), st.integers(0, 2**32))
def test_best_path_is_the_best_of_all(states, size, seed):
    """No path over the states has a larger sum less what entering its stretches costs."""
    rng = np.random.default_rng(seed)
    gains = rng.integers(-9, 10, (states, size)).astype(np.int32)
    enter = rng.integers(0, 8, states)

    def worth(path):
        total = sum(int(gains[s, t]) for t, s in enumerate(path))
        entered = [s for t, s in enumerate(path) if t == 0 or path[t - 1] != s]
        return total - sum(int(enter[s]) for s in entered)

    found = best_path(gains, enter).tolist()
    assert worth(found) == max(worth(p) for p in itertools.product(range(states), repeat=size))


def test_best_path_of_no_rows():
    """No rows have no states."""
    assert best_path(np.zeros((2, 0), np.int32), np.zeros(2, np.int64)).tolist() == []


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(0, 2**32))
def test_the_assignment_is_the_largest(size, seed):
    """No permutation has a larger sum."""
    gains = np.random.default_rng(seed).normal(size=(size, size))
    found = assign_largest(gains)
    assert sorted(found.tolist()) == list(range(size))
    best = max(
        sum(gains[i, j] for i, j in enumerate(to)) for to in itertools.permutations(range(size))
    )
    assert math.isclose(gains[np.arange(size), found].sum(), best, abs_tol=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 6), st.integers(0, 2**32))
def test_windows_lie_at_every_place(size, tokens, places, seed):
    """A window's score at a place is the sum over its rows whose token is known."""
    rng = np.random.default_rng(seed)
    window = rng.integers(-9, 10, (size, tokens)).astype(np.int32)
    column = rng.integers(-1, tokens, places).astype(np.int32)
    truth = []
    for first in range(-size + 1, places):
        inside = [i for i in range(size) if 0 <= first + i < places and column[first + i] >= 0]
        truth.append(sum(int(window[i, column[first + i]]) for i in inside))
    assert slide(window, column).tolist() == truth


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 6), st.integers(1, 3), st.integers(0, 2**32))
def test_the_worst_run_is_the_worst_of_all(size, layers, seed):
    """No run of rows has a sum further below 0."""
    scores = np.random.default_rng(seed).integers(-9, 10, (size, layers)).astype(np.int32)
    runs = [(a, b) for a in range(size) for b in range(a, size + 1)]
    truth = [max([0, *(-int(scores[a:b, i].sum()) for a, b in runs)]) for i in range(layers)]
    assert worst_runs(scores).tolist() == truth


@settings(max_examples=20, deadline=None)
@given(rows())
def test_renumbering_gains_are_plain_sums(case):
    """What an id would score as an expert is the sum over the rows that have it."""
    ids, _, slots, folds, scores = case
    table = np.ascontiguousarray(scores[:, :, 0])
    truth = np.zeros((scores.shape[3], scores.shape[3]))
    for t in range(len(ids)):
        for e in ids[t, 0]:
            if slots[t] >= 0:
                truth[e] += table[folds[t], slots[t]]
    assert renumbering_gains(slots, folds, ids[:, 0].copy(), table).tolist() == truth.tolist()
