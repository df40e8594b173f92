"""Measures: the figures that people compare, worked out by hand; undefined where nothing counts."""

import math

import numpy as np
import pytest

import oracles
from routectl.dump import Sample
from routectl.ops.diff.counts import Counts, bin_edges
from routectl.ops.diff.diff import diff
from routectl.ops.diff.measures import (
    dead_experts,
    entropy,
    layer_measures,
    load_js,
    load_shift,
    rate,
    vio,
)
from support.dumps import all_alike, make_dump, make_routes


@pytest.mark.parametrize(
    ("load", "expected", "share", "dead"),
    [
        ([2, 2, 2, 2], 0.0, 1.0, 0),
        ([8, 0, 0, 0], 3.0, 0.0, 3),
        ([4, 4, 0, 0], 1.0, 0.5, 2),
        ([0, 0, 0], None, None, 3),
        ([5], 0.0, None, 0),
    ],
)
def test_figures_of_a_load(load, expected, share, dead):
    """max_vio is how far the busiest is over the even share; entropy is a share of the uniform."""
    load_E = np.array(load, np.int64)
    assert (found := vio(load_E)) is None or found.max == expected
    assert (found is None) == (expected is None)
    assert entropy(load_E) == (None if share is None else pytest.approx(share))
    assert dead_experts(load_E) == dead


def test_entropy_of_one_expert_is_not_negative():
    """An entropy of 0 is 0.0, not -0.0."""
    assert math.copysign(1, entropy(np.array([3, 0]))) == 1


def test_shift_of_load():
    """The load shift is half the sum of the differences of shares; undefined without a load."""
    assert load_shift(np.array([4, 0]), np.array([0, 1])) == 1
    assert load_shift(np.array([1, 3]), np.array([2, 6])) == 0
    assert load_shift(np.array([3, 1]), np.array([1, 1])) == 0.25
    assert load_shift(np.array([0, 0]), np.array([1, 1])) is None


def test_violations_are_those_of_verl():
    """max, min and mean violation of a load, as verl's formula has them; none without rows."""
    load_E = np.array([5, 0, 3, 4])
    found = vio(load_E)
    off = load_E * 4 / 12 - 1
    assert (found.max, found.min) == pytest.approx((off.max(), off.min()))
    assert found.avg == pytest.approx(np.abs(off).mean())


def test_divergence_of_loads():
    """JS of two loads is 0 where shares are equal, ln 2 where no expert is in both."""
    assert load_js(np.array([1, 3]), np.array([2, 6])) == 0
    assert load_js(np.array([4, 0]), np.array([0, 1])) == pytest.approx(math.log(2))
    p, q, m = np.array([0.75, 0.25]), np.array([0.5, 0.5]), np.array([0.625, 0.375])
    expected = ((p * np.log(p / m)).sum() + (q * np.log(q / m)).sum()) / 2
    assert load_js(np.array([3, 1]), np.array([1, 1])) == pytest.approx(expected)
    assert load_js(np.array([0, 0]), np.array([1, 1])) is None


def test_rates_without_a_whole():
    """A rate of nothing is None, and so are the figures of a layer without rows."""
    assert rate(0, 0) is None
    assert rate(1, 4) == 0.25
    (empty,) = layer_measures(Counts.empty(1, 2, 4), (3,))
    assert (empty.layer, empty.rows, empty.swaps) == (3, 0, (0, 0, 0))
    for name in ("mismatch", "overlap", "order_mismatch", "zero_overlap"):
        assert getattr(empty, f"{name}_rate") is None
    assert empty.load_shift is empty.load_js is empty.vio_old is empty.vio_new is None


def test_bins_of_positions():
    """Bin 0 is position 0, bin n is [2^(n-1), 2^n); what lies beyond the last is in it."""
    assert [bin_edges(n) for n in (0, 1, 2, 3)] == [(0, 1), (1, 2), (2, 4), (4, 8)]
    for n in (1, 2, 5, 31):
        for position in (bin_edges(n)[0], bin_edges(n)[1] - 1):
            assert oracles.position_bin(position) == n
    far = make_dump([Sample(make_routes(all_alike(2), start=2**40), "a")])
    assert diff(far, far).counts.bins_B4[-1].tolist() == [2, 0, 6, 0]
