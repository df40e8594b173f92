"""The log-prob figures of a diff: which tokens they are of, and what they add up to."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracles
from routectl.ops.diff.diff import diff
from routectl.ops.diff.logprobs import LOGPROB_METRICS, TAUS, LogprobCounts, LogprobSums
from routectl.ops.diff.measures import rate
from routectl.ops.diff.thresholds import judge, parse_threshold
from routectl.reports.diff.document import diff_document
from support.dumps import all_alike, make_dump, make_routes, make_sample

NUMBERS = st.one_of(st.none(), st.floats(-20, 0))


def side(logprobs, response=(7, 8, 9), **more):
    """A dump of one sample of two prompt tokens with these log-probs; None for nan."""
    values = None if logprobs is None else np.array([np.nan if x is None else x for x in logprobs])
    more = {"prompt": [1, 2], **more}
    prompt = more.pop("prompt")
    routes = make_routes(all_alike(3))
    response = None if response is None else list(response)
    return make_dump([make_sample(routes, "a", prompt, response, logprobs=values, **more)])


def of_differences(d):
    """The counts of tokens whose log-probs differ by d, from 0."""
    return LogprobCounts.of_tokens(np.zeros(len(d)), np.array(d))


def counted(*sides, **options):
    """The log-prob counts of a comparison."""
    return diff(*sides, **options).logprobs


@settings(max_examples=40)
@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=6))
def test_figures_are_the_oracle(pairs):
    """k1, k3, F(2), mean and greatest |d| are the formulas over tokens that both sides scored."""
    old, new = ([p[i] for p in pairs] for i in (0, 1))
    sums = counted(*(side(x, range(len(pairs))) for x in (old, new)))
    if all(a is None or b is None for a, b in pairs):
        assert sums == LogprobCounts(one_sided=sum((a is None) != (b is None) for a, b in pairs))
        return
    truth = oracles.logprob_figures(old, new)
    found = (
        sums.tokens,
        rate(-sums.sum_of("d"), sums.tokens),
        rate(sums.sum_of("k3"), sums.tokens),
    )
    assert found == pytest.approx((truth["tokens"], truth["k1"], truth["k3"]), rel=1e-9, abs=1e-9)
    found = (rate(sums.sum_of("abs"), sums.tokens), sums.max_abs, rate(sums.over_tau, sums.tokens))
    assert found == pytest.approx((truth["abs"], truth["max"], truth["f"]), rel=1e-9, abs=1e-12)


@settings(max_examples=40)
@given(st.lists(st.tuples(*[st.integers(-960, 0).map(lambda n: n / 64)] * 2), min_size=2))
def test_what_trainers_log_is_the_oracle(pairs):
    """chi2, token_mult_prob_error, JS, stable k3, correlations, equal log-probs and F(tau) are
    their formulas, whichever is computed in another form.
    """
    old, new = ([p[i] for p in pairs] for i in (0, 1))
    sums = counted(*(side(x, range(len(pairs))) for x in (old, new)))
    truth = oracles.logged_figures(old, new, TAUS)
    for metric in LOGPROB_METRICS:
        if metric.name not in truth:
            continue
        found, expected = metric.of(sums), truth[metric.name]
        assert (found is None) == (expected is None), metric.name
        assert found is None or found == pytest.approx(expected, rel=1e-9, abs=1e-9), metric.name


def test_what_trainers_log_by_hand():
    """Two tokens, ratios 2 and 1: E[e^|d|] 1.5, chi2 1.5, F(1.5) a half, one equal log-prob."""
    sums = LogprobCounts.of_tokens(np.log([0.25, 0.5]), np.log([0.5, 0.5]))
    figures = {m.name: m.of(sums) for m in LOGPROB_METRICS}
    assert figures["token_mult_prob_error"] == pytest.approx(1.5)
    assert figures["chi2"] == pytest.approx(1.5)
    assert (figures["f1.5"], figures["f2"], figures["equal_logprobs"]) == (0.5, 0, 0.5)
    assert figures["js"] == pytest.approx(math.log(1.5 / math.sqrt(2)) / 2)
    assert figures["pearson"] is figures["pearson_probs"] is None  # NEW is constant
    assert LogprobCounts().pearson("log") is None


def test_correlation_is_a_sign_and_a_size():
    """Log-probs on a line correlate by 1 or -1, whatever their scale."""
    x = np.linspace(-5, -1, 9)
    assert LogprobCounts.of_tokens(x, 3 * x - 2).pearson("log") == pytest.approx(1)
    assert LogprobCounts.of_tokens(x, -6 - x).pearson("log") == pytest.approx(-1)
    assert math.isnan(LogprobCounts.of_tokens(x, np.where(x == -5, -np.inf, x)).pearson("log"))


def test_stable_k3_is_finite_where_k3_is_not():
    """A log-prob of -inf on a side leaves stable k3 a number: at most 10 a token."""
    for old, new in ((-np.inf, -1.0), (-1.0, -np.inf)):
        sums = LogprobCounts.of_tokens(np.array([old, -1.0]), np.array([new, -1.0]))
        assert sums.mean_of("k3_stable") == 5.0
        assert not math.isfinite(sums.mean_of("k3"))


def test_k3_of_small_differences_is_exact():
    """k3 of a tiny difference is d²/2, not lost in rounding."""
    sums = of_differences([1e-8])
    assert sums.sum_of("k3") == pytest.approx(5e-17, rel=1e-5, abs=0)


def test_tau_is_a_ratio_of_two():
    """F(2) counts ratios over 2 and under 1/2; a ratio of exactly 2 is not over."""
    edge = math.log(2)
    sums = of_differences([edge, -edge, edge + 1e-9, -edge - 1e-9, 0.1])
    assert (sums.tokens, sums.over_tau) == (5, 2)


@pytest.mark.parametrize(
    ("old", "new", "options"),
    [
        (side([-1, -2, -3]), side(None), {}),
        (side([-1, -2, -3]), side([-1, -2, -3]), {"tokens": "prompt"}),
        (side([-1, -2, -3]), side([-1, -2, -3], prompt_length=3), {}),
        (side([None] * 3), side([None] * 3), {}),
        (side([-1, -2, -3], None), side([-1, -2, -3], None), {"match": "prefix"}),
    ],
    ids=[
        "one side",
        "prompt only",
        "other split",
        "no common token",
        "prefix unknown",
    ],
)
def test_no_figures(old, new, options):
    """Where no response token is known to be scored on both sides there are no figures."""
    assert counted(old, new, **options) == LogprobCounts()


@pytest.mark.parametrize(
    ("old", "new", "d"),
    [
        (-1, -math.inf, -math.inf),
        (-math.inf, -1, math.inf),
        (-1, math.inf, math.inf),
        (-math.inf, -math.inf, math.nan),
        (math.inf, math.inf, math.nan),
        (-1e308, 1e308, math.inf),
        (0.0, 1e308, 1e308),
        (0.0, -1e308, -1e308),
    ],
)
@pytest.mark.filterwarnings("error")
def test_what_is_not_finite_stays_so(old, new, d):
    """One infinite log-prob, or a difference beyond float64, is in every sum and beyond tau."""
    sums = counted(side([old, -1, None]), side([new, -1, -1]))
    parts = [diff(side([a], [7]), side([b], [7])) for a, b in ((-1, -1), (old, new))]
    for found in (sums, (parts[0] + parts[1]).logprobs):
        assert (found.tokens, found.over_tau) == (2, 1)
        np.testing.assert_equal(found.sum_of("d"), d)
        np.testing.assert_equal([found.sum_of("abs"), found.max_abs], [abs(d)] * 2)
        assert not math.isfinite(found.sum_of("k3")) or d == -1e308


def test_small_numbers_are_numbers():
    """Zeros of either sign and denormals are log-probs like others."""
    sums = counted(side([-0.0, 0.0, -5e-324]), side([0.0, -0.0, 0.0]))
    assert (sums.tokens, sums.sum_of("d"), sums.sum_of("k3"), sums.over_tau) == (3, 5e-324, 0, 0)


@pytest.mark.parametrize("flip", [False, True])
def test_tokens_of_one_side(flip):
    """A token that one side alone scored is counted apart, unless a loss mask of a side, or who
    made the dump, leaves it out; it makes every gate on log-probs over, and no figure.
    """

    def apart(old, new):
        return counted(*((new, old) if flip else (old, new)))

    whole, holed = side([-1, -2, -3]), side([-1, None, -3])
    sums = apart(whole, holed)
    assert (sums.tokens, sums.sum_of("d"), sums.one_sided) == (2, 0, 1)
    both = LogprobSums.of_samples([sums, sums])
    assert (both + both).counts.one_sided == 4
    assert apart(holed, holed).one_sided == 0
    assert apart(whole, side([None] * 3)) == LogprobCounts(one_sided=3)
    masked = np.array([False, False, True, False, True])
    for mask in (masked, masked[:4]):
        assert apart(whole, side([-1, None, -3], loss_mask=mask)).one_sided == 0
        assert apart(side([-1, -2, -3], loss_mask=mask), holed).one_sided == 0
        tool = apart(side([-1, 0, -3], loss_mask=mask), side([-1, -9, -4]))  # rollouts have 0 there
        assert (tool.tokens, tool.sum_of("abs"), tool.max_abs, tool.one_sided) == (2, 1, 1, 0)
    left = side([-1, None, -30], scored=np.array([True, False, False]))
    assert (alone := apart(whole, left)).tokens == alone.equal == 1
    assert (alone.sum_of("abs"), alone.one_sided) == (0, 0)
    result = diff(whole, holed)
    for metric in ("k1", "k3", "abs_d", "max_d", "f2"):
        limits = [parse_threshold(f"{metric}:1", over=over) for over in (True, False)]
        (over, under) = judge(result, limits).failed
        assert [math.isnan(one.value) for one in (over, under)] == [True, True]
    figures = diff_document(result)["logprobs"]
    assert (figures["k3"], figures["tokens"], figures["tokens_of_one_side"]) == (0, 2, 1)


def test_tokens_that_parted_are_left_out():
    """By prefix, only the response tokens before the sides part are compared."""
    old, new = side([-1, -2, -3]), side([-2, -2, -9], (7, 8, 1))
    sums = counted(old, new, match="prefix")
    assert (sums.tokens, sums.sum_of("d"), sums.max_abs) == (2, -1, 1)
    assert counted(side([-1]), side([-2], (3, 8)), match="prefix").tokens == 0


CUTS = (slice(2), slice(2, None))


def test_sums_add_up():
    """Counts of two parts add up to those of the whole; the greatest is the greater."""
    d = np.array([0.1, -2.0, 0.0, 3.5, -0.2])
    whole = of_differences(d)
    parts = [LogprobSums.of_samples([of_differences(d[cut])]) for cut in CUTS]
    total = (parts[0] + parts[1]).counts
    assert total.tokens == whole.tokens == 5
    assert (total.max_abs, total.over_tau) == (whole.max_abs, whole.over_tau) == (3.5, 2)
    assert total.over == whole.over == (4, 2, 2, 2, 2, 1)
    assert total.equal == whole.equal == 1
    assert total.sums == pytest.approx(whole.sums)
