"""Drift with known truth: lag, layers, half-life and experts are recovered from routes alone."""

from itertools import combinations

import numpy as np
import pytest

from routectl.dump import WeightSpan
from routectl.ops.adding.intervals import Bootstrap
from routectl.ops.staleness.attribution import Version
from routectl.ops.staleness.half_life import REACH, half_lives_of
from routectl.ops.staleness.options import StalenessOptions
from routectl.ops.staleness.staleness import staleness
from support.coverage import covering
from support.drifting import EXPERTS, TOP_K, dump_of, hidden_states, routers, top_k_of

QUICK = StalenessOptions(bootstrap=Bootstrap(replicates=400))
MOVED = [0.04, 0.0, 0.12, 0.0]  # the step of each layer's router per update


def run_of(weights, places, *, made_by=0, label=0, sequences=24, seed=1, noise=0.0, forced=False):
    """Staleness of a dump that version ``made_by`` made and that says version ``label``."""
    hidden = hidden_states(sequences, 30, seed=seed)
    routes = {n: top_k_of(hidden, weights[n]) for n in places}
    own = routes[made_by].copy()
    rng = np.random.default_rng(seed)
    flipped = rng.random(own.shape[:3]) < noise
    own[flipped] = (own[flipped] + 1) % EXPERTS  # the engine's own mismatch
    dump = dump_of(own, spans=[WeightSpan(f"v{label}", 0, 27)])
    mode = "forced" if forced else "free"
    return staleness(dump, [Version(f"v{n}", **{mode: dump_of(routes[n])}) for n in places], QUICK)


def test_layers_that_moved_are_recovered():
    """Layers are ranked by the step of their router; those at rest have a speed of exactly 0."""
    drift = run_of(routers(3, MOVED), [0, 1, 2, 3], forced=True).drift
    assert drift.mode == "forced"
    assert drift.fastest_layers == (2, 0)
    speeds = {speed.layer: speed for speed in drift.speeds}
    assert [speeds[layer].rate for layer in (1, 3)] == [0, 0]
    assert speeds[2].rate > 2 * speeds[0].rate > 0
    assert speeds[2].interval.low > speeds[0].interval.high
    assert speeds[None].rows == sum(speeds[layer].rows for layer in range(4))
    assert all(speed.lag == 1 and speed.per_update == speed.rate for speed in drift.speeds)
    assert {half.layer: half.updates for half in drift.half_lives}[1] is None


def test_the_lag_of_a_wrong_label_is_recovered():
    """Rows that say v0 and were made at v2 are nearest to v2, beyond chance; true ones are not."""
    weights = routers(4, [0.05] * 3)
    (wrong,) = run_of(weights, range(5), made_by=2, label=0, noise=0.05).drift.nearest
    assert (wrong.own, wrong.nearest, wrong.is_other) == ("v0", "v2", True)
    assert wrong.gap.low > 0
    assert wrong.rates["v2"] == min(wrong.rates.values()) == pytest.approx(0.05, abs=0.01)
    (right,) = run_of(weights, range(5), made_by=2, label=2, noise=0.05).drift.nearest
    assert (right.nearest, right.is_other, right.gap) == ("v2", False, None)


def test_a_nearer_version_by_chance_is_not_an_alarm():
    """Where two versions are equally near, neither is called the other's rows."""
    calls = []
    for seed in range(20):
        weights = routers(1, [0.01], seed=seed)
        hidden = hidden_states(8, 20, seed=seed)
        routes = [top_k_of(hidden, w) for w in weights]
        half = np.where((np.arange(20) % 2)[None, :, None, None], *routes)
        dump = dump_of(half, spans=[WeightSpan("v0", 0, 17)])
        versions = [Version(f"v{n}", dump_of(ids)) for n, ids in enumerate(routes)]
        calls += [near.is_wrong for near in staleness(dump, versions, QUICK).drift.nearest]
    assert sum(calls) <= 2


@pytest.mark.parametrize(("tau", "b"), [(4.0, 1.0), (9.0, 0.5), (30.0, 0.8)])
def test_half_lives_of_the_law_are_exact(tau, b):
    """Agreement that follows exp(-(lag / tau)^b) gives back tau ln(2)^(1/b), and b."""
    lags = [1, 2, 5, 8]
    agree = np.exp(-((np.array(lags) / tau) ** b))[None, :, None]
    updates, exponent = half_lives_of(lags, np.full_like(agree, 1000.0), 1000 * agree)
    assert updates[0, 0] == pytest.approx(tau * np.log(2) ** (1 / b))
    assert exponent[0, 0] == pytest.approx(b)


@pytest.mark.parametrize(
    ("lags", "agree"),
    [([1], [0.9]), ([1, 2], [1.0, 0.9]), ([1, 2], [0.9, 0.0]), ([1, 2], [0.8, 0.9])],
    ids=["one lag", "nothing changed", "everything changed", "agreement grows"],
)
def test_half_lives_that_cannot_be_known(lags, agree):
    """One lag, no change, nothing left, and agreement that grows give no half-life."""
    same = 1000 * np.array(agree)[None, :, None]
    updates, exponent = half_lives_of(lags, np.full_like(same, 1000.0), same)
    assert np.isnan(updates).all()
    assert np.isnan(exponent).all()


def truth_of(weights, hidden):
    """The half-life of one walk, on many fresh tokens: agreement at every lag, over all pairs."""
    routes = [np.sort(top_k_of(hidden, w), -1) for w in weights]
    before = 1.0
    for lag in range(1, len(routes)):
        pairs = zip(routes, routes[lag:], strict=False)
        agree = float(np.mean([(a == b).all(-1).mean() for a, b in pairs]))
        if agree <= 0.5:
            return lag - 1 + (before - 0.5) / (before - agree)
        before = agree
    raise AssertionError("half of the routes never change")


@pytest.mark.slow
def test_the_half_life_of_a_walk_is_recovered():
    """Its interval covers the truth, simulated on fresh tokens update by update.

    33 to 40 of 40 is what 99.9 % of Binomial(40, 0.95) counts lie in; the truth is of each run's
    own walk, about 5 updates. From lags up to 3 alone it is read off the law: 6 % short
    on average, and off by up to a third.
    """
    covered = 0
    seen, beyond = [], []
    for seed in range(40):
        weights = routers(8, [0.2, 0.2], seed=100 + seed)
        truth = truth_of(weights, hidden_states(200, 30, seed=7))
        half = run_of(weights, [0, 1, 2, 4, 8], seed=1000 + seed).drift.half_lives[0]
        far = run_of(weights, [0, 1, 3], seed=1000 + seed).drift.half_lives[0]
        assert (half.extrapolated, far.extrapolated) == (False, True)
        covered += half.interval.low <= truth <= half.interval.high
        seen.append(half.updates / truth)
        beyond.append(far.updates / truth)
    assert covered in covering(40, 0.95), covered
    assert abs(np.mean(seen) - 1) < 0.03
    assert 0.7 < np.mean(beyond) < 1.1


@pytest.mark.parametrize(("straight", "exponent"), [(True, 1.0), (False, 0.5)])
def test_the_kind_of_drift_is_told(straight, exponent):
    """The exponent is near 1 where updates point one way, near 1/2 where each is independent."""
    weights = routers(4, [0.03] * 2, straight=straight)
    half = run_of(weights, range(5), sequences=60).drift.half_lives[0]
    assert half.exponent == pytest.approx(exponent, abs=0.12)
    assert half.lags == (1, 2, 3, 4)


def test_far_half_lives_are_not_guessed():
    """Beyond REACH times the greatest lag there are bounds alone: straight drift and a walk."""
    half = run_of(routers(2, [0.01] * 2), [0, 1, 2], sequences=60).drift.half_lives[0]
    assert (half.updates, half.interval, half.extrapolated) == (None, None, True)
    straight, walk = half.bounds
    assert REACH * 2 < straight < walk
    one = run_of(routers(1, [0.05] * 2), [0, 1]).drift.half_lives[0]
    assert (one.updates, one.exponent) == (None, None)
    assert one.bounds[1] == pytest.approx(one.bounds[0] ** 2)


def test_experts_that_move_are_counted():
    """Entering and leaving are counted as a slow loop over rows does, most first."""
    weights = routers(2, MOVED)
    hidden = hidden_states(24, 30)
    old, new = (top_k_of(hidden, weights[n]) for n in (0, 2))
    run = run_of(weights, [0, 1, 2])
    drift = run.drift
    assert drift.experts_between == ("v0", "v2")
    truth = {}
    for layer in range(4):
        for a, b in zip(
            old[:, :, layer].reshape(-1, TOP_K), new[:, :, layer].reshape(-1, TOP_K), strict=True
        ):
            for expert in {*a.tolist()} ^ {*b.tolist()}:
                counts = truth.setdefault((layer, expert), [0, 0])
                counts[expert in a] += 1
    assert len(drift.experts) == 10
    for move in drift.experts:
        assert [move.entered, move.left] == truth[move.layer, move.expert]
        assert move.load_new - move.load_old == move.entered - move.left
        assert move.moved_rate == (move.entered + move.left) / (24 * 30)
    sizes = sorted((sum(counts) for counts in truth.values()), reverse=True)
    assert [move.entered + move.left for move in drift.experts] == sizes[:10]


def test_lags_come_from_the_names():
    """Versions v0, v2, v8 have the lags 2, 6 and 8, and a speed per update over the smallest."""
    drift = run_of(routers(8, [0.05] * 2), [0, 2, 8]).drift
    assert drift.half_lives[0].lags == tuple(sorted(b - a for a, b in combinations((0, 2, 8), 2)))
    assert drift.speeds[0].lag == 2
    assert drift.speeds[0].per_update == drift.speeds[0].rate / 2
