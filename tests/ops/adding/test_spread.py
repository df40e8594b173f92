"""The spread of a rate: numpy over all rates is the truth."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routectl.ops.adding.spread import EXACT, QUANTILE_ERROR, Spread
from support.cuts import added_in_some_tree

RATES = st.lists(st.floats(0, 1) | st.sampled_from([0.0, 1.0, 0.5]), max_size=40)
QUANTILES = (0.0, 0.5, 0.9, 0.99, 1.0)


def spread_of(rates):
    """The spread of rates, added at once."""
    found = Spread()
    found.add(rates)
    return found


def figures(spread):
    """All that a spread says."""
    return (
        *(spread.count, spread.above_zero, spread.mean, spread.greatest, spread.error),
        *(spread.quantile(q) for q in QUANTILES),
    )


@given(RATES, st.data())
def test_few_rates_are_exact(rates, data):
    """Up to EXACT rates every figure is numpy's, and no cut or tree changes it."""
    whole = spread_of(rates)
    parts = [spread_of(rates[n::3]) for n in range(3)]
    assert figures(added_in_some_tree(parts, data)) == figures(whole)
    assert whole.error == 0
    assert (whole.count, whole.above_zero) == (len(rates), np.count_nonzero(rates))
    if rates:
        assert whole.mean == pytest.approx(np.mean(rates), rel=1e-12, abs=5e-324)
        assert whole.greatest == max(rates)
        assert [whole.quantile(q) for q in QUANTILES] == [np.quantile(rates, q) for q in QUANTILES]
    else:
        assert (whole.mean, whole.greatest, whole.quantile(0.5)) == (None, None, None)


@pytest.mark.parametrize("power", [0.3, 1, 4, 20])
def test_many_rates_are_within_the_error(power):
    """Beyond EXACT a quantile is within QUANTILE_ERROR of the true one; no cut changes it."""
    rng = np.random.default_rng(int(power * 10))
    rates = rng.random(5000) ** power
    rates[:500], rates[500:600] = 0, 1
    whole = spread_of(rates)
    assert whole.error == QUANTILE_ERROR == 1 / 256
    for q in QUANTILES:
        true = np.quantile(rates, q, method="inverted_cdf")
        assert whole.quantile(q) == pytest.approx(true, rel=QUANTILE_ERROR * (1 + 1e-9), abs=1e-12)
    assert whole.quantile(0.05) == 0
    assert whole.greatest == 1
    for order in (rng.permutation(5000), np.arange(5000)[::-1]):
        parts = np.array_split(rates[order], sorted(rng.integers(0, 5000, 6)))
        added = sum(map(spread_of, parts[1:]), spread_of(parts[0]))
        assert figures(added) == figures(whole)


def test_one_rate_more_than_is_kept_is_binned():
    """The step to bins depends on how many rates there are, and on no cut."""
    rates = np.linspace(0, 1, EXACT + 1)
    halves = spread_of(rates[: EXACT // 2]) + spread_of(rates[EXACT // 2 :])
    assert halves.error == spread_of(rates).error == QUANTILE_ERROR
    assert spread_of(rates[1:]).error == 0


def test_a_rate_is_within_its_bounds():
    """What is no rate is refused."""
    for wrong in (-0.1, 1.5, np.nan):
        with pytest.raises(ValueError, match=r"0\.\.1"):
            spread_of([0.5, wrong])
