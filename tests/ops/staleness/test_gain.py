"""What replay gains: the recorded figures, an oracle, what is left out, the better mode."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routectl.dump import Dump, WeightSpan
from routectl.errors import MismatchError, RoutectlError
from routectl.formats import open_dump
from routectl.margins import EPS
from routectl.ops.adding.intervals import Bootstrap
from routectl.ops.staleness.advice import AdviceLimits
from routectl.ops.staleness.attribution import Attributor, Version, own_routes
from routectl.ops.staleness.gain import REPLAYS, TAUS
from routectl.ops.staleness.options import StalenessOptions
from routectl.ops.staleness.staleness import staleness
from routectl.ops.staleness.thresholds import judge_staleness, parse_staleness_threshold
from routectl.reports.staleness.advice import advise
from routectl.routes import Routes
from support.comparing import random_run
from support.recordings import FIXTURES
from support.replays import KEPT, kept_versions

# k3, F(2) in percent: computed by hooks of their own, on a float32 trainer
RECORDED = {
    ("v0", "none"): (1.555e-3, 0.087),
    ("v0", "R2"): (1.555e-3, 0.087),
    ("v0", "R3"): (1.174e-4, 0),
    ("v1", "none"): (0.01747, 0.98),
    ("v1", "R2"): (0.01331, 0.59),
    ("v1", "R3"): (0.01202, 0.43),
    ("v2", "none"): (0.03716, 2.76),
    ("v2", "R2"): (0.02895, 1.75),
    ("v2", "R3"): (0.02773, 1.58),
    ("v4", "none"): (0.06297, 5.69),
    ("v4", "R2"): (0.05407, 4.55),
    ("v4", "R3"): (0.05301, 4.49),
    ("v8", "none"): (0.09842, 9.14),
    ("v8", "R2"): (0.09084, 8.44),
    ("v8", "R3"): (0.09003, 8.37),
}
BEST = {"v0": "R3", "v1": "R3", "v2": "R3", "v4": "R3", "v8": "R2"}


@pytest.fixture(name="engine", scope="module")
def engine_():
    """What vLLM recorded at v0."""
    return open_dump(FIXTURES / "tiny_rl" / "vllm.bf16" / "samples.jsonl").held()


@pytest.fixture(name="tiny", scope="module")
def tiny_(engine):
    """The recording against all versions, with the log-probs of every mode."""
    return staleness(engine, kept_versions(engine), StalenessOptions(layers=(0,)))


def test_the_recorded_figures(tiny):
    """k3 and F(2) of every version and mode are the recorded ones, over 9,216 tokens each."""
    found = {
        (one.version, mode): f for one in tiny.gains.versions for mode, f in one.figures.items()
    }
    assert found.keys() == RECORDED.keys()
    assert {one.tokens for one in tiny.gains.versions} == {9_216}
    for key, (k3, f2) in RECORDED.items():
        decimals = 3 if key[0] == "v0" else 2
        assert found[key].k3 == pytest.approx(k3, rel=5e-4), key
        assert round(100 * found[key].over[TAUS.index(2.0)], decimals) == f2, key
    assert tiny.gains.unmeasured == ()
    assert [one.lag for one in tiny.gains.versions] == [0, 1, 2, 4, 8]


def test_the_better_mode(tiny):
    """R3 has the lower k3 beyond its interval up to lag 4; at lag 8 R2 and R3 are not apart."""
    assert {one.version: one.best for one in tiny.gains.versions} == BEST
    first, last = tiny.gains.versions[0], tiny.gains.versions[-1]
    assert first.fall("R3").ratio == pytest.approx(13.24, abs=0.01)
    assert first.fall("R3").interval.low > 8
    assert 1 - 1 / last.fall("R3").ratio == pytest.approx(0.085, abs=0.0005)
    assert not last.falls["R2", "R3"].is_sure


def test_advice_rests_on_the_measurement(tiny):
    """Where Qwen's rule and the measurement part both are said, with figures."""
    one = advise(tiny, mini_steps=1)
    mode = next(f for f in one.findings if f.about == "mode")
    assert one.mode == "R3"
    assert mode.text == (
        "replay R3: the lower k3 beyond its interval at mini-step 1; Qwen's rule (arXiv "
        "2512.01374) says no replay at 1"
    )
    assert mode.evidence[0].startswith(
        "1 mini-step (v0): k3 0.001555 without replay, 0.0001174 with R3 (13x, 95 %: "
    )
    assert mode.evidence[0].endswith(": replay R3; Qwen's rule says no replay")
    limits = AdviceLimits(staleness=0.02)
    (stale,) = (f for f in advise(tiny, limits=limits).findings if f.about == "staleness")
    assert stale.alarm
    assert stale.evidence[-1] == "replay R3 still lowers k3 at lag 8 by 8.5 %: 0.09842 to 0.09003"
    assert advise(tiny, mini_steps=4).mode == "R3"
    assert (
        "at mini-step 3, the last of 4 that was measured"
        in advise(tiny, mini_steps=4).findings[-1].text
    )
    assert advise(tiny, mini_steps=9).mode == "R2"
    several = advise(tiny)
    assert several.mode is None
    assert several.findings[-1].text.endswith("replay R3 at 1, 2, 3, 5, replay R2 at 9")


def test_thresholds(tiny):
    """gain_r3 and the like are held at lag 0, or at a lag; one that is not there is told."""

    def failed(text, over=False):
        return judge_staleness(tiny, [parse_staleness_threshold(text, over=over)], eps=EPS)

    assert not failed("gain_r3:2")
    assert not failed("gain_r2@lag1:1.3")
    (crossed,) = failed("gain_r3@lag1:2")
    assert (crossed.metric, round(crossed.value, 2), crossed.limit) == ("gain_r3@lag1", 1.45, 2)
    (crossed,) = failed("f2_r3@lag8:8%", over=True)
    assert round(crossed.value, 4) == 0.0837
    assert not failed("k3_r3:0.001", over=True)
    with pytest.raises(
        MismatchError, match=r"no gain_r3 at lag 3: it is known at lag 0, 1, 2, 4, 8"
    ):
        failed("gain_r3@lag3:2")
    with pytest.raises(RoutectlError, match="k3 has no value per layer"):
        failed("gain_r3@2:2")


def test_without_log_probs_it_costs_nothing(engine):
    """A dump without log-probs, and versions without, say what is missing."""
    engine = engine.select(samples=range(6))
    versions = kept_versions(engine)[:2]

    def silent(dump):
        return Dump(dump.meta, dump.keys, lambda n: replace(dump[n], logprobs=None)).held()

    def why(dump, given):
        return [(u.why, u.versions) for u in staleness(dump, given).gains.unmeasured]

    assert why(silent(engine), versions) == [("dump", ())]
    bare = [Version(v.name, silent(v.free)) for v in versions]
    assert why(engine, bare)[:2] == [("forced", ("v0", "v1")), ("free", ("v0", "v1"))]
    free = [Version(v.name, v.free) for v in versions]
    assert why(engine, free) == [("forced", ("v0", "v1")), ("R2", ("v1",))]
    assert staleness(engine, free).gains.versions == ()
    forced = [replace(v, replayed=None) for v in versions]
    assert why(engine, forced) == [("R2", ("v1",))]
    result = staleness(engine, forced)
    assert [list(g.figures) for g in result.gains.versions] == [
        ["none", "R2", "R3"],
        ["none", "R3"],
    ]
    prompt = staleness(engine, versions, StalenessOptions(tokens="prompt"))
    assert [u.why for u in prompt.gains.unmeasured] == ["prompt"]


def slow_gain(dump, versions, by, w):
    """The differences of each mode at a version, sample by sample, token by token."""
    version, own = versions[w], {}
    sides = {"none": version.free, "R3": version.forced, "R2": version.replayed}
    dumps = {m: {k.tokens: d[j] for j, k in enumerate(d.keys)} for m, d in sides.items() if d}
    found, unreplayed = {mode: [] for mode in REPLAYS}, 0
    for key, sample in zip(dump.keys, dump, strict=True):
        labels = by.labels(sample)
        if labels is None or sample.logprobs is None:
            continue
        made = {int(code) for code in labels.version_Q}
        rows = {int(code) for code in labels.version_Q[labels.start + 1 : labels.stop + 1]}
        if not rows or min(made) < 0 or max(made) >= len(versions) or max(rows) > w:
            continue
        wanted = dict(dumps)
        if rows == {w}:
            wanted["R2"] = dumps.get("none", {})
        own = {mode: of.get(key.tokens) for mode, of in wanted.items()}
        if "none" not in own or any(s is None or s.logprobs is None for s in own.values()):
            continue
        unreplayed += "R2" not in own
        for mode in REPLAYS:
            if mode in own:
                found[mode] += (own[mode].logprobs - sample.logprobs).tolist()
    return found, unreplayed


@settings(max_examples=20)
@given(st.integers(0, 100_000), st.sampled_from([None, "v0"]))
def test_figures_are_those_of_an_oracle(seed, own):
    """Random runs of mixed versions give what a loop over tokens gives, mode by mode."""
    dump, versions = random_run(np.random.default_rng(seed))
    options = StalenessOptions(match="tokens", own=own, bootstrap=Bootstrap(replicates=100))
    try:
        result = staleness(dump, versions, options)
    except MismatchError:
        return
    known = {one.version: one for one in result.gains.versions}
    exact = result.boundary.exact
    by = Attributor(tuple(v.name for v in versions), {}, own, exact)
    for w, version in enumerate(versions):
        found, unreplayed = slow_gain(dump, versions, by, w)
        if version.name not in known:
            assert not found["none"] or version.forced is None
            continue
        one = known[version.name]
        assert one.tokens == len(found["none"])
        assert ("R2" in one.figures) == (not unreplayed)
        assert ("R3" in one.figures) == (version.forced is not None)
        for mode, figures in one.figures.items():
            d = np.array(found[mode])
            assert figures.k1 == pytest.approx(-d.mean())
            assert figures.k3 == pytest.approx((np.exp(d) - 1 - d).mean())
            assert figures.mean_abs == pytest.approx(abs(d).mean())
            assert figures.max_abs == abs(d).max()
            over = [(np.maximum(np.exp(d), np.exp(-d)) > tau).mean() for tau in TAUS]
            assert figures.over == pytest.approx(over)


def test_tokens_of_one_side_cross_every_threshold(engine):
    """A token that one mode alone lacks is in no figure, and no threshold holds then."""
    engine = engine.select(samples=range(6))
    versions = kept_versions(engine)[:1]
    forced = versions[0].forced

    def load(n):
        logprobs = forced[n].logprobs.copy()
        logprobs[0] = np.nan if n == 3 else logprobs[0]
        return replace(forced[n], logprobs=logprobs)

    holed = replace(versions[0], forced=Dump(forced.meta, forced.keys, load))
    result = staleness(engine, [holed])
    (one,) = result.gains.versions
    assert (one.tokens, one.counts.one_sided) == (6 * 96 - 1, 1)
    limit = parse_staleness_threshold("gain_r3:2", over=False)
    assert len(judge_staleness(result, [limit], eps=EPS)) == 1


def test_routes_of_the_version_that_made_each_row():
    """R2's routes of a sample of two versions are each version's own rows; others are missing."""
    dump, _ = random_run(np.random.default_rng(5))
    layers, tokens = dump.meta.layers_L, 12
    routes = {
        code: Routes(np.full((tokens, 3, 2), code, np.uint8), layers, dump.meta.num_experts)
        for code in (0, 1)
    }
    sample = replace(
        next(s for s in dump if s.routes is not None),
        weight_spans=(WeightSpan("v0", 0, 4), WeightSpan("v1", 4, 8), WeightSpan("v2", 8, 9)),
        retractions=None,
        cached_tokens=None,
    )
    labels = Attributor(("v0", "v1"), {}, None, True).labels(sample)
    found = own_routes(labels, routes)
    # token q is made by the row at q - 1; the prompt is 3 tokens, of the first response token's
    assert found.ids_TLK[:10, 0, 0].tolist() == [0] * 6 + [1] * 4
    assert found.missing_TL[:, 0].tolist() == [False] * 10 + [True] * 2
    whole = replace(sample, weight_spans=(WeightSpan("v0", 0, 9),))
    labels = Attributor(("v0", "v1"), {}, None, True).labels(whole)
    assert own_routes(labels, {0: routes[0]}) is routes[0]


def test_what_is_kept_is_of_every_mode():
    """The kept log-probs are of the 9,216 response tokens, R2 of v0 being the free ones."""
    assert {len(found) for found in KEPT.values()} == {9_216}
    assert "v0.R2" not in KEPT
    assert len(KEPT) == 14
