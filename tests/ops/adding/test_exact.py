"""Exact sums: Fractions are the truth, and no cut, order or tree changes a bit."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routectl.ops.adding.exact import ExactSums
from support.cuts import added_in_some_tree

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.lists(FLOATS | st.sampled_from([1e300, -1e300, 5e-324, 1.0, -1.0, 0.1]), max_size=30)


def rounded(total):
    """A fraction as the nearest float64."""
    try:
        return total.numerator / total.denominator
    except OverflowError:
        return math.inf if total > 0 else -math.inf


def sum_of(values):
    """One sum of values, added at once."""
    found = ExactSums.zeros(1)
    found.add(values, np.zeros(len(values), np.int64))
    return found


@given(VALUES)
def test_a_sum_is_the_exact_one_rounded_once(values):
    """The value is the sum of Fractions, rounded to the nearest float64."""
    assert sum_of(values)[0] == rounded(sum(map(Fraction, values), Fraction(0)))


@given(VALUES, st.data())
def test_no_cut_order_or_tree_changes_a_sum(values, data):
    """Parts of any cut, in any order, added in any tree, give the value of the whole."""
    parts = data.draw(st.lists(st.integers(0, 5), min_size=len(values), max_size=len(values)))
    cut = [sum_of([v for v, p in zip(values, parts, strict=True) if p == n]) for n in range(6)]
    assert added_in_some_tree(cut, data)[0] == sum_of(values)[0]


@given(st.lists(st.tuples(st.integers(0, 4), FLOATS), max_size=40))
def test_sums_are_apart(pairs):
    """A value counts in the sum of its row, and in no other."""
    found = ExactSums.zeros(5)
    found.add([v for _, v in pairs], [n for n, _ in pairs])
    for n in range(5):
        assert found[n] == rounded(sum((Fraction(v) for m, v in pairs if m == n), Fraction(0)))


@pytest.mark.parametrize(
    ("values", "total"),
    [
        ([math.inf, 1.0], math.inf),
        ([-math.inf, 1e308], -math.inf),
        ([math.inf, -math.inf], math.nan),
        ([math.nan, 1.0], math.nan),
        ([1.7e308, 1.7e308], math.inf),
        ([1.7e308, 1.7e308, -1.7e308], 1.7e308),
        ([1e16, 1.0, -1e16], 1.0),
    ],
)
def test_what_is_not_finite_is_kept(values, total):
    """Infinities and nan are as in IEEE sums; what overflows on the way only, does not."""
    apart = [sum_of([v]) for v in values]
    assert math.isclose(sum(apart[1:], apart[0])[0], total) or math.isnan(total)
    assert np.array_equal(sum_of(values).values_N, [total], equal_nan=True)


def test_adding_leaves_both_alone():
    """a + b is a new value."""
    a, b = sum_of([0.1]), sum_of([0.2, 1e9])
    assert (a + b)[0] == rounded(Fraction(0.1) + Fraction(0.2) + Fraction(1e9))
    assert (a[0], b[0]) == (0.1, rounded(Fraction(0.2) + Fraction(1e9)))
    with pytest.raises(ValueError, match="do not add up"):
        a + ExactSums.zeros(2)
