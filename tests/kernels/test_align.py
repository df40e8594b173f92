"""The loops that lay rows along others, against plain loops and against every path there is."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from routectl.kernels.align import OUTSIDE, best_path, log_odds, set_bits


@settings(max_examples=25)
@given(
    st.integers(1, 6), st.integers(1, 6), st.integers(1, 3), st.integers(1, 5), st.integers(0, 99)
)
def test_log_odds_are_plain_sums(tokens, others, layers, top_k, seed):
    """Each state's nats are the table's at the number of shared ids, over layers that are there."""
    rng = np.random.default_rng(seed)
    num_ids = 130
    sides = [
        np.stack(
            [[rng.permutation(num_ids)[:top_k] for _ in range(layers)] for _ in range(size)]
        ).astype(np.uint8)
        for size in (tokens, others)
    ]
    there = [rng.random((len(s), layers)) < 0.8 for s in sides]
    offsets = np.array([-2, -1, 0, 1, 3])
    table = rng.normal(size=(layers, top_k + 1)).astype(np.float32)
    found = log_odds(
        (set_bits(sides[0], num_ids), there[0]),
        (set_bits(sides[1], num_ids), there[1]),
        offsets,
        table,
    )
    for t, s in itertools.product(range(tokens), range(len(offsets))):
        source = t + int(offsets[s])
        if not 0 <= source < others:
            assert found[t, s] == OUTSIDE
            continue
        expected = sum(
            table[layer, len(set(sides[0][t, layer]) & set(sides[1][source, layer]))]
            for layer in range(layers)
            if there[0][t, layer] and there[1][source, layer]
        )
        assert abs(found[t, s] - expected) < 1e-4


@settings(max_examples=30)
@given(st.integers(1, 6), st.integers(1, 3), st.floats(0, 4), st.integers(0, 999))
def test_the_path_is_the_best_of_all(tokens, states, penalty, seed):
    """No sequence of states has greater log-odds less the price of its changes."""
    odds = np.random.default_rng(seed).normal(scale=2, size=(tokens, states)).astype(np.float32)

    def value(path):
        changes = sum(a != b for a, b in itertools.pairwise(path))
        return sum(float(odds[t, s]) for t, s in enumerate(path)) - penalty * changes

    best = max(map(value, itertools.product(range(states), repeat=tokens)))
    assert abs(value(best_path(odds.T.copy(), np.full(states, penalty)).tolist()) - best) < 1e-3


def test_no_rows_have_no_path():
    """A sample without rows has an empty path."""
    assert best_path(np.zeros((2, 0), np.float32), np.ones(2)).tolist() == []
