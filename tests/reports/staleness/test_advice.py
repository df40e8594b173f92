"""The advice and the thresholds: each finding has its numbers, and is there when it should be."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from routectl import open_dump
from routectl.dump import Dump, WeightSpan
from routectl.errors import MismatchError, RoutectlError
from routectl.ops.adding.intervals import Bootstrap
from routectl.ops.diff.metrics import METRICS
from routectl.ops.staleness.advice import AdviceLimits
from routectl.ops.staleness.attribution import Version
from routectl.ops.staleness.options import Noise, StalenessOptions
from routectl.ops.staleness.staleness import staleness
from routectl.ops.staleness.thresholds import (
    STALENESS_METRICS,
    judge_staleness,
    parse_staleness_threshold,
)
from routectl.reports.staleness.advice import advise
from routectl.reports.staleness.document import staleness_document
from routectl.reports.staleness.text import staleness_headline
from support.drifting import EXPERTS, dump_of, hidden_states, routers, top_k_of
from support.dumps import make_dump

TINY = Path(__file__).parent.parent.parent.parent / "fixtures" / "tiny_rl"
QUICK = StalenessOptions(bootstrap=Bootstrap(replicates=200))


def engine():
    """What vLLM recorded at v0."""
    return open_dump(TINY / "vllm.bf16" / "samples.jsonl").held()


@pytest.fixture(name="tiny", scope="module")
def tiny_():
    """The recording against v0, v1 and v2; v0 with margins."""
    names = ("routes_v0.margins.parquet", "routes_v1.fp32.npz", "routes_v2.fp32.npz")
    versions = [Version(f"v{n}", open_dump(TINY / name).held()) for n, name in enumerate(names)]
    return staleness(engine(), versions, QUICK)


@pytest.fixture(name="scored", scope="module")
def scored_():
    """The recording against v0 and v1, with log-probs on all sides."""
    names = ("transformers_v0.fp32.npz", "transformers_v1.fp32.npz")
    versions = [Version(f"v{n}", open_dump(TINY / name).held()) for n, name in enumerate(names)]
    return staleness(engine(), versions, QUICK)


def about(advice, what):
    """The finding about something; None when there is none."""
    return next((finding for finding in advice.findings if finding.about == what), None)


@pytest.mark.parametrize(
    ("mini_steps", "mode"), [(1, "none"), (2, "R2"), (3, "R3"), (4, "R3"), (8, "R3"), (None, None)]
)
def test_the_mode_is_qwens_rule(tiny, mini_steps, mode):
    """One mini-step needs no replay, two R2, four and more R3; three count as four, and say so."""
    advice = advise(tiny, mini_steps=mini_steps)
    assert advice.mode == mode
    finding = about(advice, "mode")
    assert any("3 mini-steps" in line for line in finding.evidence) == (mini_steps == 3)
    assert finding.evidence[0].startswith("mismatch 2.02 % (95 %: 1.8")
    assert finding.evidence[0].endswith("2,055 of 101,616 rows")
    assert any(line.startswith("staleness at lag 2 12.37 %") for line in finding.evidence)


def test_mini_steps_below_one_are_misuse(tiny):
    """A run has at least one mini-step."""
    with pytest.raises(ValueError, match="at least 1"):
        advise(tiny, mini_steps=0)


def test_a_healthy_run_has_no_alarm(tiny):
    """The recorded run: rounding can explain its mismatch, and nothing is over a limit."""
    advice = advise(tiny, mini_steps=2)
    assert [finding for finding in advice.findings if finding.alarm] == []
    finding = about(advice, "mismatch")
    assert finding.evidence[1].startswith("1,644 of 2,055 flips are ties or near-ties")


def test_limits_are_the_callers(tiny):
    """A staleness limit of 10 % is passed at lag 2 first; alarms come first."""
    advice = advise(tiny, limits=AdviceLimits(staleness=0.1))
    assert advice.findings[0].text == "routes are stale from lag 2 on: over 10.00 %"
    assert advice.findings[0].alarm


def shifted(every):
    """The recording with the routes of each so-manieth sample off by one row."""
    dump = engine()

    def load(index):
        sample = dump[index]
        if index % every:
            return sample
        ids = np.ascontiguousarray(np.roll(sample.routes.ids_TLK, 1, axis=0))
        return replace(sample, routes=replace(sample.routes, ids_TLK=ids))

    return Dump(dump.meta, dump.keys, load)


@pytest.mark.parametrize(
    ("every", "said"), [(1, "layer 0 mismatches in 97"), (12, "8 of 96 samples mismatch in more")]
)
def test_a_broken_capture_sends_to_check(every, said):
    """Routes off by one row, in all samples or in a few, are more than rounding explains."""
    version = Version("v0", open_dump(TINY / "routes_v0.margins.parquet"))
    finding = about(advise(staleness(shifted(every), [version], QUICK)), "mismatch")
    assert finding.alarm
    assert "routectl check --against" in finding.text
    assert any(said in line for line in finding.evidence)
    assert any(
        "layer 0, the first, flip at a margin above 0.001" in line for line in finding.evidence
    )


def test_without_margins_the_noise_floor_judges():
    """A mismatch of many noise floors is an alarm; without a floor the advice says so."""
    version = [Version("v0", open_dump(TINY / "routes_v0.fp32.npz").held())]
    unknown = about(advise(staleness(engine(), version, QUICK)), "mismatch")
    assert (unknown.alarm, "not known" in unknown.text) == (False, True)
    noise = (Noise("again", 101_616, 0), Noise("eager", 101_616, 100))
    loud = about(advise(staleness(engine(), version, replace(QUICK, noise=noise))), "mismatch")
    assert loud.alarm
    assert loud.evidence[1] == "the mismatch is 21 times the noise floor, 0.10 %"


def test_a_mismatch_within_the_floor_says_that_r2_is_enough():
    """Where the engine differs no more than the trainer from itself, R3 adds nothing to R2."""
    noise = (Noise("eager", 1000, 50),)
    version = [Version("v0", open_dump(TINY / "routes_v0.fp32.npz"))]
    run = staleness(engine(), version, replace(QUICK, noise=noise))
    evidence = about(advise(run, mini_steps=4), "mode").evidence
    assert "the mismatch is within the noise floor: R2 freezes the same routes" in evidence
    assert "staleness is not known: one version was given" in evidence


def test_f2_over_the_marker_asks_for_r3(scored):
    """F(2) over its limit is an alarm; only that of the mismatch changes the mode."""
    low = advise(scored, mini_steps=1, limits=AdviceLimits(f2=0.005))
    assert (low.mode, about(low, "f2").alarm) == ("none", True)
    assert "F(2) 0.98 %" in about(low, "f2").evidence[0]
    both = advise(scored, mini_steps=1, limits=AdviceLimits(f2=0.0005))
    assert (both.mode, sum(f.about == "f2" for f in both.findings)) == ("R3", 2)


WEIGHTS = routers(2, [0.05] * 3)
IDS = [top_k_of(hidden_states(20, 20), weights) for weights in WEIGHTS]
VERSIONS = [Version(f"v{n}", dump_of(ids)) for n, ids in enumerate(IDS)]


def labelled(ids, *spans, cached=0, every=1):
    """A dump of such routes with spans, (version, start, end); each so-manieth one has a cache."""
    dump = dump_of(ids, spans=[WeightSpan(*span) for span in spans])
    samples = [
        replace(sample, cached_tokens=0 if index % every else cached)
        for index, sample in enumerate(dump)
    ]
    return make_dump(samples, dump.meta.layers_L, EXPERTS, dump.meta.top_k)


def test_old_weights_are_named():
    """Rows that say v1 and are v0's are an alarm that names both."""
    advice = advise(staleness(labelled(IDS[0], ("v1", 0, 17)), VERSIONS, QUICK))
    finding = about(advice, "nearest")
    assert finding.alarm
    assert finding.text.startswith("rows of v1 are closest to v0")
    assert "with v0 0.00 %" in finding.evidence[0]
    right = advise(staleness(labelled(IDS[1], ("v1", 0, 17)), VERSIONS, QUICK))
    assert about(right, "nearest") is None
    assert about(right, "mismatch").text == "the engine and the trainer agree in every row"


def flipped(share_T):
    """Routes of v1 with this share of the rows of each token another."""
    ids = IDS[1].copy()
    wrong = np.random.default_rng(0).random(ids.shape[:3]) < np.asarray(share_T)[:, None]
    ids[wrong] = (ids[wrong] + 1) % EXPERTS
    return ids


@pytest.mark.parametrize("cached", [6, 12])
@pytest.mark.parametrize("how", ["auto", "own", "apart"])
def test_stale_prefixes_are_named(cached, how):
    """Cached rows of older weights are named, and whose they are: the other rows are what their
    label says, though most of all be cached. Whether rounding explains a mismatch that has them is
    not said, and no replay is advised."""
    mixed = flipped(np.full(IDS[1].shape[1], 0.01))
    mixed[:, :cached] = IDS[0][:, :cached]
    dump = labelled(mixed, ("v1", 0, 17), cached=cached)
    advice = advise(staleness(dump, VERSIONS, replace(QUICK, cached=how)), mini_steps=2)
    (finding,) = (one for one in advice.findings if one.alarm)
    assert finding.about == "cached"
    assert "of older weights, closest to v0; flush the engine's cache" in finding.text
    assert finding.evidence[-1].endswith("with v0 0.00 % (free)")
    assert advice.mode is None
    assert (about(advice, "mismatch") is None) == (how != "apart")


def test_prefixes_that_mismatch_by_their_position_are_not_stale():
    """Cached rows that mismatch as rows at these positions do everywhere are no finding."""
    share_T = np.where(np.arange(IDS[1].shape[1]) < 6, 0.1, 0.01)
    run = staleness(labelled(flipped(share_T), ("v1", 0, 17), cached=6, every=2), VERSIONS, QUICK)
    cached, others = run.apart["cached"][0], run.apart["first"][0]
    assert cached.mismatch_rate > 2 * others.mismatch_rate
    assert cached.intervals.mismatch.low > others.intervals.mismatch.high
    assert run.prefixes is None


def with_routes_of(name, every=1):
    """The recording with the routes of another dump in each so-manieth sample."""
    dump, other = engine(), open_dump(TINY / name).held()

    def load(index):
        sample, rows = dump[index], other[index].routes.ids_TLK
        assert sample.routes.ids_TLK.shape == rows.shape
        if index % every:
            return sample
        return replace(sample, routes=replace(sample.routes, ids_TLK=rows.copy()))

    return Dump(dump.meta, dump.keys, load)


def test_a_wrong_label_is_one_alarm():
    """Rows of v2 that say v0: one alarm, and nothing that soothes or sends elsewhere beside it:
    rounding explains nothing, no cache is stale (12.98 % against 12.02 %), no replay is advised."""
    names = {"v0": "routes_v0.margins.parquet", "v2": "routes_v2.fp32.npz"}
    versions = [Version(name, open_dump(TINY / file).held()) for name, file in names.items()]
    run = staleness(with_routes_of("routes_v2.fp32.npz"), versions, QUICK)
    advice = advise(run, mini_steps=2)
    assert [one.about for one in advice.findings] == ["nearest", "mode"]
    assert advice.findings[0].text.startswith("rows of v0 are closest to v2")
    assert advice.findings[1].text.startswith("no replay is advised: rows are of other weights")
    headline = staleness_headline(staleness_document(run, advice))
    assert headline.startswith(
        "mismatch 12.37 %, staleness 12.37 % at lag 2, total 0.00 %; 1 alarm"
    )


@pytest.mark.parametrize(("other", "every", "number"), [(2, 2, 48), (1, 3, 32), (2, 24, 4)])
def test_some_wrong_labels_are_an_alarm(other, every, number):
    """Each so-manieth sequence of v0 is another version's: so many are told, however near to v0
    all rows together be (7.25 % against 6.26 %, 2.9 % against 12.1 %), and no replay is advised."""
    names = ("routes_v0.margins.parquet", "routes_v1.fp32.npz", "routes_v2.fp32.npz")
    versions = [Version(f"v{n}", open_dump(TINY / name).held()) for n, name in enumerate(names)]
    run = staleness(with_routes_of(f"routes_v{other}.fp32.npz", every), versions, QUICK)
    advice = advise(run, mini_steps=4)
    assert [(one.about, one.alarm) for one in advice.findings] == [
        ("nearest", True),
        ("mode", False),
    ]
    said = f"at least {number} of 96 sequences of v0 are closer to v{other}: their label is wrong"
    assert advice.findings[0].text.startswith(said)
    assert advice.findings[0].evidence[0] == f"by sequence: {number} to v{other} (free)"
    assert advice.mode is None
    assert advice.findings[1].text.startswith("no replay is advised: rows are of other weights")


def test_rows_left_out_are_told():
    """Rows of versions that nobody gave are in the evidence, by name."""
    advice = advise(staleness(labelled(IDS[0], ("v0", 0, 10), ("lost", 10, 17)), VERSIONS, QUICK))
    finding = about(advice, "spans")
    assert finding.text.startswith("40.00 % of the dump's rows")  # token 10 is made by row 12
    assert finding.evidence[1] == "no version is named lost (480 rows)"


def held(result, *texts):
    """The thresholds that are crossed."""
    return judge_staleness(result, [parse_staleness_threshold(text) for text in texts])


def test_thresholds_are_of_the_four_comparisons(tiny, scored):
    """Each metric is held against its own comparison; the failure names lag or layer."""
    assert held(tiny, "mismatch:2.1%", "staleness@lag2:12.4%", "total:12.6%", "clear:0.5%") == ()
    mismatch, two, total = held(tiny, "mismatch:2%", "staleness@lag2:12.3%", "total:0.12")
    assert (mismatch.metric, mismatch.value) == ("mismatch", 2055 / 101616)
    assert (two.threshold, two.metric, two.value) == (
        "staleness@lag2:12.3%",
        "staleness@lag2",
        12565 / 101616,
    )
    assert (total.metric, total.value, total.limit) == ("total", 12780 / 101616, 0.12)
    every = held(tiny, "staleness:5%", "staleness@*:10%", "mismatch@5:3%")
    assert [(f.metric, f.layer) for f in every[:2]] == [
        ("staleness@lag1", None),
        ("staleness@lag2", None),
    ]
    assert every[-1].layer == 5
    assert {f.layer for f in every[2:-1]} == {3, 4, 5}
    assert held(scored, "f2:0.1%", "total_f2:1%") == ()
    found = held(scored, "f2:0.05%", "total_f2:0.5%", "total_k3:0.01")
    assert [f.metric for f in found] == ["f2", "total_f2", "total_k3"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("drift:1%", "metric 'drift' is not known: staleness, total, mismatch, overlap"),
        ("mismatch", "expected METRIC[@lagN][@LAYER]:N[%]"),
        ("staleness@lag2", "expected METRIC"),
        ("mismatch@lag2:1%", "mismatch has no lag: staleness, router shift and what replay gains"),
        ("staleness@lag2:150%", "threshold 'staleness@lag2:150%': mismatch is a rate"),
        ("total:x", "'x' is not a number"),
        ("total_k3:1%", "k3 is no rate"),
    ],
)
def test_thresholds_without_meaning_are_refused(text, said):
    """A threshold that cannot be read is one line with what was given."""
    with pytest.raises(RoutectlError) as caught:
        parse_staleness_threshold(text)
    assert said in str(caught.value)


def test_gated_figures_must_exist(tiny):
    """A lag that no two versions have, and log-probs that are not there, are errors."""
    for text, said in (
        ("staleness@lag3:1%", "the lags are 1, 2"),
        ("total_f2:1%", "a side has no log-probs"),
        ("total_clear:1%", "no compared row has a margin"),
    ):
        with pytest.raises(MismatchError, match=said):
            held(tiny, text)
    one = staleness(engine(), [Version("v0", open_dump(TINY / "routes_v0.fp32.npz"))], QUICK)
    with pytest.raises(MismatchError, match="one version has no lag"):
        held(one, "staleness@lag1:1%")
    lost = staleness(labelled(IDS[0], ("v0", 0, 1), ("v1", 1, 17)), VERSIONS, QUICK)
    assert held(lost, "mismatch:99%") == ()


def test_metrics_are_listed_once():
    """Known are staleness, total, gamma, confidence, and metrics of diff, the total, replay."""
    known = 4 + 2 * len(METRICS) - 1 + 6  # gain, k3 and F(2) of R2 and R3
    assert len(set(STALENESS_METRICS)) == len(STALENESS_METRICS) == known
