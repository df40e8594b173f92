"""The four comparisons: the recorded truth to the last row, the forms of runs, clear refusals."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from routectl import diff, open_dump
from routectl.dump import Dump, WeightSpan
from routectl.errors import MismatchError
from routectl.ops.adding.intervals import Bootstrap
from routectl.ops.diff.thresholds import Unmatched
from routectl.ops.staleness.attribution import Version
from routectl.ops.staleness.options import Noise, StalenessOptions
from routectl.ops.staleness.staleness import staleness
from support.drifting import TOP_K, dump_of, hidden_states, routers, top_k_of
from support.dumps import make_dump, make_routes, make_sample, part_of

TINY = Path(__file__).parent.parent.parent.parent / "fixtures" / "tiny_rl"
TRUTH = json.loads((TINY / "truth.json").read_text("utf-8"))
QUICK = Bootstrap(replicates=200)


@pytest.fixture(name="engine", scope="module")
def engine_():
    """What vLLM recorded at v0 in bf16."""
    return open_dump(TINY / "vllm.bf16" / "samples.jsonl").held()


def trainer(name):
    """transformers' float32 routes of the same tokens at a version."""
    return Version(name, open_dump(TINY / f"routes_{name}.fp32.npz").held())


@pytest.fixture(name="tiny", scope="module")
def tiny_(engine):
    """The run that truth.json is about."""
    return staleness(engine, [trainer(v) for v in ("v0", "v1", "v2")])


def agrees(result, truth):
    """A result has the recorded figures, row for row."""
    swaps = result.counts.swaps_LS
    assert result.rows == truth["rows"]
    assert result.rows_mismatched == truth["rows_mismatched"]
    assert swaps[:, 1:].sum(axis=1).tolist() == truth["per_layer_mismatched"]
    assert (result.num_tokens, result.tokens_mismatched) == (
        truth["tokens"],
        truth["tokens_mismatched"],
    )
    found = {str(n): count for n, count in enumerate(swaps.sum(axis=0).tolist()) if count}
    assert found == truth["swaps"]
    return True


def test_the_recorded_truth_to_the_last_row(tiny):
    """Mismatch, staleness and total of a real run are the numbers computed independently."""
    names = {
        ("mismatch", "own version"): "mismatch: engine bf16 at v0 / transformers fp32 at v0",
        ("staleness", "v1"): "staleness fp32: v0 / v1",
        ("staleness", "v2"): "staleness fp32: v0 / v2",
        ("total", "v2"): "total fp32: engine at v0 / v2",
    }
    found = {(c.kind, c.new): c.result for c in tiny.comparisons if c.old in ("dump", "v0")}
    assert found.keys() == names.keys()
    assert all(agrees(found[key], TRUTH[name]) for key, name in names.items())
    cells = {c.version: c.result for c in tiny.cells}
    assert agrees(cells["v0"], TRUTH[names["mismatch", "own version"]])
    assert agrees(cells["v1"], TRUTH["total fp32: engine at v0 / v1"])
    assert agrees(cells["v2"], TRUTH["total fp32: engine at v0 / v2"])


def test_total_of_the_version_in_between(engine):
    """With v0 and v1 alone, v1 is the current version of the total."""
    run = staleness(engine, [trainer("v0"), trainer("v1")], StalenessOptions(bootstrap=QUICK))
    total = run.find("total", "free")
    assert (total.new, total.lag) == ("v1", 1)
    assert agrees(total.result, TRUTH["total fp32: engine at v0 / v1"])


def test_log_probs_stand_beside_the_rows(engine):
    """k3 and F(2) of the dump against v0 and v1 are the recorded ones, each with an interval."""
    versions = [
        Version(v, open_dump(TINY / f"transformers_{v}.fp32.npz").held()) for v in ("v0", "v1")
    ]
    run = staleness(engine, versions, StalenessOptions(bootstrap=QUICK))
    for kind, name in (("mismatch", "logprob fp32 v0"), ("total", "logprob fp32 v1")):
        comparison, truth = run.find(kind, "free"), TRUTH[name]
        sums = comparison.result.logprobs
        assert sums.tokens == truth["tokens"]
        assert sums.sum_of("k3") / sums.tokens == pytest.approx(truth["k3"], rel=1e-3)
        assert sums.over_tau / sums.tokens == pytest.approx(truth["F2"], abs=1e-12)
        assert comparison.intervals.k3.low < truth["k3"] < comparison.intervals.k3.high
        assert comparison.intervals.f2.low < truth["F2"] < comparison.intervals.f2.high
    assert run.find("staleness", "free", 1).result.logprobs.tokens == 9216


def test_lags_add_up_over_pairs(tiny):
    """Lag 1 is both pairs one update apart; its clusters are sequences, not pairs of them."""
    assert [c.lag for c in tiny.by_lag] == [1, 2]
    one = tiny.find("staleness", "free", 1)
    parts = [c.result for c in tiny.comparisons if c.kind == "staleness" and c.lag == 1]
    assert one.pairs == (("v0", "v1"), ("v1", "v2"))
    assert one.result.rows_mismatched == sum(part.rows_mismatched for part in parts)
    assert one.intervals.clusters == 96
    assert one.intervals.mismatch.low < one.result.rows_mismatched / one.result.rows
    assert tiny.find("staleness", "free", 3) is None
    assert tiny.modes == ("free",)


def test_cached_rows_are_counted_and_compared_apart(engine, tiny):
    """A reused prefix is shown by itself, and left out of the mismatch on demand."""
    assert not tiny.cached_apart
    assert tiny.spans.rows["cached"] == 6144 * 6
    (cached,) = tiny.apart["cached"]
    assert cached.result.rows == 6144 * 6
    run = staleness(engine, [trainer("v0")], StalenessOptions(cached="apart", bootstrap=QUICK))
    mismatch = run.find("mismatch", "free").result
    assert mismatch.rows + cached.result.rows == 101616
    assert mismatch.rows_mismatched + cached.result.rows_mismatched == 2055


def test_one_version_has_a_mismatch_and_no_staleness(engine):
    """With one version the mismatch stands, and everything about movement is empty."""
    run = staleness(engine, [trainer("v0")], StalenessOptions(noise=(Noise("again", 9, 1),)))
    assert [c.kind for c in run.comparisons] == ["mismatch", "total"]
    assert (run.by_lag, run.drift.mode, run.drift.half_lives, run.drift.nearest) == (
        (),
        None,
        (),
        (),
    )
    assert run.noise == (Noise("again", 9, 1),)


def test_results_are_the_same_every_time(engine, tiny):
    """Intervals are seeded: the same run gives the same numbers, another seed others."""
    again = staleness(engine, [trainer(v) for v in ("v0", "v1", "v2")])
    assert [c.intervals for c in again.comparisons] == [c.intervals for c in tiny.comparisons]
    seeded = StalenessOptions(bootstrap=Bootstrap(seed=1))
    other = staleness(engine, [trainer("v0")], seeded)
    assert other.find("mismatch", "free").intervals != tiny.find("mismatch", "free").intervals


def test_prompts_as_clusters_are_fewer(engine, tiny):
    """Drawing whole prompts with their samples gives 12 clusters in place of 96."""
    options = StalenessOptions(clusters="prompt")
    run = staleness(engine, [trainer("v0"), trainer("v1")], options)
    found = run.find("staleness", "free", 1).intervals
    whole = next(c for c in tiny.comparisons if (c.old, c.new) == ("v0", "v1")).intervals
    assert (found.clusters, whole.clusters) == (12, 96)
    widths = [i.mismatch.high - i.mismatch.low for i in (found, whole)]
    assert widths[0] > widths[1]


WEIGHTS = routers(2, [0.05, 0.05, 0.05])
HIDDEN = hidden_states(6, 10)
IDS = [top_k_of(HIDDEN, weights) for weights in WEIGHTS]
VERSIONS = [Version(f"v{n}", dump_of(ids)) for n, ids in enumerate(IDS)]


def spanned(*spans, ids=None, rows=9, engine="vllm", **more):
    """What an engine at these versions wrote: 9 of 10 rows, 7 response tokens after 3."""
    dump = dump_of(IDS[0] if ids is None else ids)
    labels = tuple(WeightSpan(*span) for span in spans)
    samples = [
        replace(
            s,
            routes=replace(s.routes, ids_TLK=s.routes.ids_TLK[:rows]),
            weight_spans=labels,
            **more,
        )
        for s in dump
    ]
    meta = dump.meta
    return make_dump(samples, meta.layers_L, meta.num_experts, TOP_K, engine=engine)


def mixed(switch):
    """Routes of v0 before row ``switch`` and of v1 from there."""
    return np.concatenate([IDS[0][:, :switch], IDS[1][:, switch:]], axis=1)


def test_every_row_is_held_against_its_own_version():
    """A dump that switched weights within its samples has no mismatch, row by row."""
    dump = spanned(("v0", 0, 4), ("v1", 4, 7), ids=mixed(6))
    run = staleness(dump, VERSIONS)
    mismatch = run.find("mismatch", "free")
    assert mismatch.result.rows == 6 * 9 * 3
    assert mismatch.result.rows_mismatched == 0
    assert mismatch.pairs == (("dump", "v0"), ("dump", "v1"))
    assert run.apart["switched"][0].result.rows == 6 * 3 * 3
    assert run.spans.by_version == {"v0": 6 * 6 * 3, "v1": 6 * 3 * 3, "v2": 0}
    assert run.find("total", "free").lag is None
    shifted = staleness(spanned(("v0", 0, 3), ("v1", 3, 7), ids=mixed(6)), VERSIONS)
    assert shifted.find("mismatch", "free").result.rows_mismatched > 0


@pytest.mark.parametrize(("engine", "known"), [("sglang", True), (None, False), ("else", False)])
@pytest.mark.parametrize("early", [False, True])
def test_a_row_at_a_boundary_is_of_neither_version(engine, known, early):
    """Where spans may begin one token early, the first row of a later span counts for no version;
    by itself it is held against both, and one of them made it.
    """
    moved, switch = (IDS[0] + 1) % 12, 7 if early else 6  # every set differs
    ids = np.concatenate([IDS[0][:, :switch], moved[:, switch:]], axis=1)
    dump = spanned(("v0", 0, 4), ("v1", 4, 7), ids=ids, engine=engine)
    run = staleness(dump, [VERSIONS[0], Version("v1", dump_of(moved))])
    mismatch = run.find("mismatch", "free").result
    assert (mismatch.rows, mismatch.rows_mismatched) == (6 * 8 * 3, 0)
    assert run.spans.rows["boundary"] == 6 * 3
    assert run.spans.by_version == {"v0": 6 * 6 * 3, "v1": 6 * 2 * 3}
    assert (run.boundary.exact, run.boundary.known, run.spans.boundaries) == (False, known, 6)
    label, before = (run.apart[g][0].result for g in ("boundary", "boundary_before"))
    assert label.rows == before.rows == 6 * 3
    mismatched = label.rows_mismatched, before.rows_mismatched
    assert mismatched == ((6 * 3, 0) if early else (0, 6 * 3))
    assert run.unmatched == Unmatched()


def test_samples_that_a_version_does_not_cover_are_counted():
    """A sample is uncovered where its own version's recompute, or every one, lacks it; a row where
    its own version's recompute lost it. Rows of other versions are nobody's loss."""
    dump = spanned(("v0", 0, 7))
    fewer = Version("v0", part_of(VERSIONS[0].free, range(2)))
    assert staleness(dump, [fewer, VERSIONS[1]]).unmatched == Unmatched(samples=4)
    assert not staleness(dump, VERSIONS).unmatched
    later = Version("v1", part_of(VERSIONS[1].free, range(2)))
    assert not staleness(dump, [VERSIONS[0], later]).unmatched  # v1 made none of the rows
    cut = [replace(s, routes=s.routes.between(0, 7)) for s in VERSIONS[0].free]
    lost = Version("v0", make_dump(cut, range(3), 12, TOP_K))
    assert staleness(dump, [lost, VERSIONS[1]]).unmatched == Unmatched(rows=6 * 2 * 3)
    switched = spanned(("v0", 0, 4), ("v1", 4, 7), ids=mixed(6))
    assert not staleness(switched, VERSIONS).unmatched
    coverage = staleness(switched, VERSIONS).find("mismatch", "free").result.rows_left_over
    assert coverage == 0


@pytest.mark.parametrize(
    ("names", "spans", "version_map", "found"),
    [
        (("v0", "v1"), [("v0", 0, 4), ("v1", 4, 7)], {}, []),
        (("v1", "v0"), [("v0", 0, 7)], {}, [("v1", "v0", "names")]),
        (("v9", "v10"), [("v9", 0, 7)], {}, []),
        (("v9", "v10"), [("v10", 0, 7)], {}, []),
        (("base", "new"), [("base", 0, 7)], {}, []),
        (("new", "base"), [("base", 0, 7)], {}, [("new", "base", "made")]),
        (("new", "old"), [("old", 0, 4), ("new", 4, 7)], {}, [("new", "old", "spans")]),
        (("old", "new"), [("old", 0, 4), ("new", 4, 7)], {}, []),
        (
            ("a", "b"),
            [("step7", 0, 4), ("step5", 4, 4)],
            {"step7": "a", "step5": "b"},
            [("a", "b", "said")],
        ),
    ],
)
def test_versions_out_of_order_are_named(names, spans, version_map, found):
    """Two versions whose names, spans or names in the dump say that the newer is given first."""
    given = [Version(name, v.free) for name, v in zip(names, VERSIONS, strict=False)]
    run = staleness(spanned(*spans), given, StalenessOptions(version_map=version_map))
    assert [(d.first, d.second, d.why) for d in run.disorders] == found


def test_retracted_and_cached_rows_are_set_apart():
    """Uncertain rows are out of the mismatch; cached ones too where there are several versions."""
    spans = [("v0", 0, 4), ("v1", 4, 7)]
    run = staleness(spanned(*spans, ids=mixed(6), cached_tokens=2), VERSIONS)
    assert run.cached_apart
    assert run.find("mismatch", "free").result.rows == 6 * 7 * 3
    assert run.apart["cached"][0].result.rows == 6 * 2 * 3
    run = staleness(spanned(*spans, ids=mixed(6), retractions=1), VERSIONS)
    assert run.find("mismatch", "free") is None
    assert run.apart["uncertain"][0].result.rows == 6 * 9 * 3
    assert run.find("total", "free").result.rows == 6 * 9 * 3


def test_unknown_versions_are_counted_and_left_out():
    """Rows of a version that nobody gave are named, and in the total alone."""
    run = staleness(spanned(("v0", 0, 4), ("lost", 4, 7)), VERSIONS)
    assert run.spans.unknown == {"lost": 6 * 3 * 3}
    assert run.find("mismatch", "free").result.rows == 6 * 6 * 3
    assert run.find("total", "free").result.rows == 6 * 9 * 3


def test_staleness_counts_rows_of_the_dump_or_all():
    """The last token's row, which no engine has, counts in staleness only where asked for."""
    dump = spanned(("v0", 0, 7))
    rows = [
        staleness(dump, VERSIONS, StalenessOptions(rows=rows)).find("staleness", "free", 2).result
        for rows in ("dump", "all")
    ]
    assert [result.rows for result in rows] == [6 * 9 * 3, 6 * 10 * 3]
    plain = diff(VERSIONS[0].free, VERSIONS[2].free)
    assert rows[1].rows_mismatched == plain.rows_mismatched


def test_forced_recomputes_stand_beside_free_ones():
    """Forced routes are compared with the dump and with each other, never with free ones."""
    versions = [
        Version("v0", dump_of(IDS[0]), dump_of(IDS[0])),
        Version("v1", dump_of(IDS[2]), dump_of(IDS[1])),
        Version("v2", dump_of(IDS[2])),
    ]
    run = staleness(spanned(("v0", 0, 7)), versions)
    found = [(c.kind, c.new, c.mode) for c in run.comparisons]
    assert found == [
        ("mismatch", "own version", "free"),
        ("mismatch", "own version", "forced"),
        ("staleness", "v1", "free"),
        ("staleness", "v2", "free"),
        ("staleness", "v2", "free"),
        ("staleness", "v1", "forced"),
        ("total", "v2", "free"),
    ]
    forced = run.find("staleness", "forced", 1).result.rows_mismatched
    cut = [dump_of(ids[:, :9]) for ids in IDS]
    assert forced == diff(cut[0], cut[1], match="id").rows_mismatched
    assert (run.drift.mode, run.modes) == ("free", ("free", "forced"))
    assert staleness(spanned(("v0", 0, 7)), versions[:2]).drift.mode == "forced"


def test_versions_may_hold_more_samples_in_another_order():
    """Samples join by their tokens; what the dump does not have is left out."""
    dump = spanned(("v0", 0, 7))
    turned = [Version(v.name, part_of(v.free, [5, 3, 4, 0, 1])) for v in VERSIONS]
    run = staleness(part_of(dump, [0, 2, 3, 5]), turned, StalenessOptions(match="id"))
    assert run.find("mismatch", "free").result.rows == 3 * 9 * 3
    assert run.find("mismatch", "free").result.rows_mismatched == 0


def test_samples_of_one_id_stay_apart():
    """Samples that share an id, as attempts do, are still samples of their own."""
    dump = spanned(("v0", 0, 7))
    twins = [replace(sample, sample_id="x") for sample in dump]
    twins = make_dump(twins, dump.meta.layers_L, dump.meta.num_experts, TOP_K)
    run = staleness(twins, VERSIONS, StalenessOptions(match="order"))
    assert run.find("mismatch", "free").result.rows_mismatched == 0
    assert run.find("mismatch", "free").intervals.clusters == 6


def refused(dump, versions, **options):
    """The error and its hint."""
    with pytest.raises(MismatchError) as caught:
        staleness(dump, versions, StalenessOptions(**options))
    assert "\n" not in str(caught.value)
    return f"{caught.value} | {caught.value.hint}"


def test_a_dump_must_say_its_version():
    """Without spans and with several versions, someone must say which one made the dump."""
    assert "no sample says which weight version" in refused(spanned(), VERSIONS)
    assert "--version-map =v0" in refused(spanned(), VERSIONS)
    run = staleness(spanned(), VERSIONS, StalenessOptions(own="v0"))
    assert run.find("mismatch", "free").result.rows_mismatched == 0
    alone = staleness(spanned(), VERSIONS[:1])
    assert alone.find("mismatch", "free").result.rows_mismatched == 0


def test_names_must_meet():
    """A dump whose names are of no version, and options that name none, are refused."""
    dump = spanned(("default", 0, 7))
    assert "the dump says default, given are v0, v1, v2" in refused(dump, VERSIONS)
    assert "--version-map default=v0" in refused(dump, VERSIONS)
    mapped = staleness(dump, VERSIONS, StalenessOptions(version_map={"default": "v0"}))
    assert mapped.find("mismatch", "free").result.rows_mismatched == 0
    assert "version 'v9' is not given" in refused(dump, VERSIONS, own="v9")
    assert "version 'v9' is not given" in refused(dump, VERSIONS, version_map={"default": "v9"})


def test_degenerate_runs_are_refused():
    """All rows missing, no common token, and another shape have one clear line each."""
    dump = spanned(("v0", 0, 7))
    places = [(t, i) for t in range(9) for i in range(3)]
    routes = make_routes(IDS[0][0, :9].tolist(), range(3), 12, missing=places)
    empty = make_dump([replace(dump[0], routes=routes)], range(3), 12)
    assert "no row has a route" in refused(empty, VERSIONS)
    assert "no row has a route" in refused(
        make_dump([replace(dump[0], routes=None)], range(3), 12), VERSIONS
    )
    other = [make_sample(s.routes, f"t{i}", [90, i], [1, 2]) for i, s in enumerate(dump)]
    foreign = Version("v1", make_dump(other, range(3), 12))
    assert "version v1 (memory): OLD is the dump, NEW the version: nothing to compare" in refused(
        dump, [VERSIONS[0], foreign]
    )
    more = Version("v1", dump_of(IDS[1], experts=16))
    assert "num_experts: got 16, expected 12" in refused(dump, [VERSIONS[0], more])
    fewer = Version("v1", dump_of(IDS[1][..., :1]))
    assert "top_k: got 1, expected 2" in refused(dump, [VERSIONS[0], fewer])
    shallow = Version("v1", VERSIONS[1].free.select(layers=(0, 2)))
    assert "layers: got (0, 2), expected (0, 1, 2)" in refused(dump, [VERSIONS[0], shallow])
    assert "--layers" in refused(dump, [VERSIONS[0], shallow])
    some = staleness(dump, [VERSIONS[0], shallow], StalenessOptions(layers=(0, 2)))
    assert some.find("total", "free").result.layers == (0, 2)
    beyond = Version(
        "v1",
        Dump(
            VERSIONS[1].free.meta,
            VERSIONS[1].free.keys,
            lambda i: replace(
                VERSIONS[1].free[i], routes=replace(VERSIONS[1].free[i].routes, start=40)
            ),
        ),
    )
    assert "the dump against version v1 (free): nothing" in refused(dump, [VERSIONS[0], beyond])
    assert "the dump's rows of version v1 against version v1 (free): nothing" in refused(
        spanned(("v1", 0, 7)), [VERSIONS[0], beyond]
    )


def test_one_token_is_enough_and_has_no_interval():
    """One token of one sample is compared; nothing is said of other sequences."""
    dump = part_of(spanned(("v0", 0, 7), rows=1), [0])
    run = staleness(dump, VERSIONS)
    mismatch = run.find("mismatch", "free")
    assert (mismatch.result.num_tokens, mismatch.intervals.clusters) == (1, 1)
    assert mismatch.intervals.mismatch is None
    assert mismatch.intervals.layers == (None, None, None)
    assert all(half.interval is None for half in run.drift.half_lives)


@pytest.mark.parametrize(
    "options", [{"rows": "some"}, {"cached": "no"}, {"clusters": "row"}, {"match": "prefix"}]
)
def test_options_are_words_that_are_known(options):
    """An unknown word, and joining by prefix, are misuse."""
    with pytest.raises(ValueError, match=r"is not known: |cannot be prefix"):
        StalenessOptions(**options)


def test_no_version_is_misuse():
    """Nothing to compare with is misuse."""
    with pytest.raises(ValueError, match="no version"):
        staleness(spanned(), [])
