"""Intervals: exact quantiles, the draws of whole clusters, and how often they cover the truth."""

from math import sqrt
from statistics import NormalDist

import numpy as np
import pytest

from routectl.ops.adding.fewest import FEWEST
from routectl.ops.adding.intervals import (
    Bootstrap,
    interval_of,
    rate_intervals,
    resample,
    tail_share,
)
from routectl.ops.diff.diff import diff_as
from routectl.ops.diff.options import DiffOptions
from routectl.ops.staleness.comparison import ClusterSums, intervals_of
from routectl.routes import Routes
from support.coverage import covering
from support.dumps import make_dump, make_sample

T_TABLE = {2: 12.706, 3: 4.303, 4: 3.182, 6: 2.571, 11: 2.228, 31: 2.042, 61: 2.000, 121: 1.980}


@pytest.mark.parametrize(("clusters", "t"), T_TABLE.items())
def test_tail_share_is_the_expanded_percentile(clusters, t):
    """The share cut off is Phi(-sqrt(n / (n - 1)) t), t of the printed table of Student's."""
    expected = NormalDist().cdf(-sqrt(clusters / (clusters - 1)) * t)
    assert tail_share(clusters, 0.95) == pytest.approx(expected, rel=5e-3)  # the table is rounded


def test_tail_share_of_many_clusters_is_the_plain_one():
    """With many clusters nothing is corrected: 2.5 % at each end, 5 % at a level of 90 %."""
    assert tail_share(20_000, 0.95) == pytest.approx(0.025, rel=1e-3)
    assert tail_share(20_000, 0.9) == pytest.approx(0.05, rel=1e-3)


def test_draws_are_whole_clusters():
    """Every replicate draws C clusters with replacement, the same ones for the same plan."""
    plan = Bootstrap(replicates=300, seed=5)
    sums = resample(np.eye(7), plan)
    assert sums.shape == (300, 7)
    assert (sums.sum(axis=1) == 7).all()
    assert abs(sums.mean() - 1) < 1e-12
    assert abs(sums.var(axis=0).mean() - 6 / 7) < 0.1  # binomial: C * 1/C * (1 - 1/C)
    assert (resample(np.eye(7), plan) == sums).all()
    assert (resample(np.eye(7), Bootstrap(replicates=300, seed=6)) != sums).any()


def test_no_interval_where_nothing_varies():
    """One cluster, no rows, or a rate that no cluster moves from 0 have no interval."""
    plan = Bootstrap()
    ones = np.ones((1, 2), np.int64)
    assert rate_intervals(ones, ones, plan) == [None, None]
    zeros = np.zeros((9, 1), np.int64)
    assert rate_intervals(zeros, np.full((9, 1), 9), plan) == [None]
    assert rate_intervals(zeros, zeros, plan) == [None]
    assert interval_of(np.array([np.nan, np.inf]), 9, 0.95) is None


def covered_of(sequences, runs=300):
    """In how many runs of sequences with effects of their own an interval covers the truth."""
    rng, covered = np.random.default_rng(1), 0
    for run in range(runs):
        rows = rng.integers(100, 400, sequences)
        wrong = rng.binomial(rows, rng.beta(6, 54, sequences))
        found = rate_intervals(wrong[:, None], rows[:, None], Bootstrap(replicates=1000, seed=run))
        covered += found[0].low <= 0.1 <= found[0].high
    return covered


def test_few_sequences_have_no_interval():
    """Seven have none, of rates, of a figure of replicates and of a bootstrap of one; of the least
    number that has one it covers the truth in nine of ten runs or more: 270 of 300, where 95 %
    are 285.
    """
    parts, plan = np.arange(1, 8)[:, None], Bootstrap()
    assert rate_intervals(parts, parts + 9, plan) == [None]
    assert interval_of(np.linspace(0, 1, 100), FEWEST - 1, 0.95) is None
    assert interval_of(np.linspace(0, 1, 100), FEWEST, 0.95) is not None
    assert covered_of(FEWEST) >= 270


@pytest.mark.parametrize("options", [{"level": 1.0}, {"level": 0.0}, {"replicates": 99}])
def test_plans_without_meaning_are_refused(options):
    """A level outside 0..1 and too few replicates are misuse."""
    with pytest.raises(ValueError, match="must be"):
        Bootstrap(**options)


LAYERS, RATES = (0, 1, 2), (0.05, 0.10, 0.15)


def clustered_dumps(rng, sequences):
    """Two dumps whose sequences mismatch at rates of their own: twice, half, ... of RATES."""
    old, new = [], []
    effects = rng.beta(6, 24, sequences) / 0.2  # mean 1, standard deviation 0.36
    for b, effect in enumerate(effects):
        tokens = int(rng.integers(30, 60))
        ids = rng.integers(0, 4, (tokens, len(LAYERS), 1)).astype(np.uint8)
        flips = rng.random(ids.shape[:2]) < effect * np.array(RATES)
        for samples, given in ((old, ids), (new, np.where(flips[..., None], ids ^ 4, ids))):
            routes = Routes(np.ascontiguousarray(given), LAYERS, 8)
            samples.append(make_sample(routes, f"s{b}", [b], list(range(tokens))))
    return (make_dump(samples, LAYERS, 8, 1) for samples in (old, new))


def compared(dumps):
    """The result of two dumps, what its intervals are made of, sequence n in bucket n, and each."""
    sums, each = ClusterSums.empty(len(LAYERS)), []

    def on_compared(found):
        sums.add([len(each)], [sums.row(found)])
        each.append(found.counts)

    return diff_as(*dumps, DiffOptions(examples=0), on_compared), sums, each


@pytest.mark.slow
def test_intervals_cover_the_truth_at_their_rate():
    """In 200 runs with sequence effects, 95 % intervals cover the truth in about 190.

    179 to 198 of 200 is what 99.9 % of Binomial(200, 0.95) counts lie in (exactly computed); an
    interval that takes rows for independent covers far less often.
    """
    rng = np.random.default_rng(2026)
    allowed = covering(200, 0.95)
    assert (allowed[0], allowed[-1]) == (179, 198)
    covered = np.zeros(1 + len(LAYERS), int)
    naive = 0
    truths = (float(np.mean(RATES)), *RATES)
    for run in range(200):
        result, sums, _ = compared(clustered_dumps(rng, 20))
        found = intervals_of(sums, 1, 20, Bootstrap(replicates=800, seed=run))
        for m, interval in enumerate((found.mismatch, *found.layers)):
            covered[m] += interval.low <= truths[m] <= interval.high
        rate = result.rows_mismatched / result.rows
        error = 1.96 * sqrt(rate * (1 - rate) / result.rows)
        naive += abs(rate - truths[0]) <= error
    assert all(count in allowed for count in covered), covered
    assert naive < 165


def test_figures_have_the_interval_of_their_own_ratio():
    """Overlap and token mismatch are resampled as the ratios that they are."""
    rng = np.random.default_rng(3)
    _, sums, each = compared(clustered_dumps(rng, 12))
    plan = Bootstrap(replicates=400)
    found = intervals_of(sums, 1, 12, plan)
    assert found.clusters == 12
    assert found.overlap.low == pytest.approx(1 - found.mismatch.high)  # K = 1: all or nothing
    parts = [[s.tokens_mismatched] for s in each]
    wholes = [[s.tokens] for s in each]
    assert [found.token_mismatch] == rate_intervals(np.array(parts), np.array(wholes), plan)
    assert found.k3 is None
    assert found.f2 is None
