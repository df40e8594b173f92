"""The own version of every row: held against a slow walk, and the forms that dumps come in."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routectl.dump import WeightSpan
from routectl.ops.staleness.attribution import (
    GROUPS,
    Attributor,
    BoundaryRule,
    Version,
    only_rows,
    places_of,
)
from routectl.ops.staleness.census import census_of
from support.dumps import LAYERS, all_alike, make_dump, make_routes, make_sample

NAMES = ("v0", "v1")


@pytest.mark.parametrize(
    ("names", "places"),
    [
        (("v0", "v2", "v8"), (0, 2, 8)),
        (("step_100", "step_110"), (100, 110)),
        (("iter_0000007", "iter_0000009"), (7, 9)),
        (("v2", "v1"), (0, 1)),
        (("v1", "w1"), (0, 1)),
        (("base", "v1", "v2"), (0, 1, 2)),
        (("only",), (0,)),
    ],
)
def test_places_are_the_numbers_that_end_the_names(names, places):
    """Versions stand at the numbers of their names where all have one and they ascend."""
    assert places_of(names) == places


def test_a_version_has_a_name_of_its_own_and_routes():
    """Two versions of one name, and one without routes, are misuse."""
    with pytest.raises(ValueError, match="named twice"):
        places_of(["v0", "v0"])
    with pytest.raises(ValueError, match="has no routes"):
        Version("v0")


def sample_of(spans, *, rows=8, start=0, missing=(), prompt=3, response=5, **more):
    """A sample of ``prompt`` + ``response`` tokens with these spans, (version, start, end)."""
    routes = make_routes(all_alike(rows), start=start, missing=missing)
    spans = tuple(WeightSpan(*span) for span in spans)
    lists = [None if n is None else list(range(n)) for n in (prompt, response)]
    return make_sample(routes, "a", *lists, weight_spans=spans, **more)


def attributor(engine="vllm", version_map=None, own=None):
    """What labels the rows of an engine's samples."""
    return Attributor(NAMES, version_map or {}, own, BoundaryRule.of(engine).exact)


def there(routes):
    """Which rows are there, bool [T, L]."""
    if routes.missing_TL is None:
        return np.ones(routes.ids_TLK.shape[:2], bool)
    return ~routes.missing_TL


def labels(sample, own=None, version_map=None, engine="vllm"):
    """(version, group) of each token's rows, as the selected dumps show them."""
    owned = attributor(engine, version_map, own).labels(sample)
    found = [(None, "unlabelled")] * sample.routes.num_tokens
    for version, name in enumerate(NAMES):
        for group in GROUPS:
            kept = owned.rows_of(sample, version, [group]).routes
            for t in np.flatnonzero(there(kept).any(axis=1)):
                assert found[t][0] is None
                found[t] = (name, group)
    return found


def test_rows_have_the_version_of_the_token_they_made():
    """The row at p made token p + 1; prompt rows are the first token's, the last row the last's."""
    first, later = ("v0", "first"), ("v1", "switched")
    found = labels(sample_of([("v0", 0, 2), ("v1", 2, 5)]))
    assert found == [first, first, first, first, later, later, later, later]
    assert labels(sample_of([("v1", 0, 5)], start=2, rows=3)) == [("v1", "first")] * 3


def test_the_first_row_of_a_later_span_by_engine():
    """vLLM's spans are exact; SGLang's may begin a token early, as any other engine's may."""
    first, later, either = ("v0", "first"), ("v1", "switched"), ("v1", "boundary")
    sample = sample_of([("v0", 0, 2), ("v1", 2, 5)])
    assert labels(sample) == [first] * 4 + [later] * 4
    for engine in ("sglang", None, "another"):
        assert labels(sample, engine=engine) == [first] * 4 + [either] + [later] * 3
    assert labels(sample_of([("v1", 0, 5)]), engine="sglang") == [("v1", "first")] * 8
    same = {"a": "v1", "b": "v1"}
    found = labels(sample_of([("a", 0, 2), ("b", 2, 5)]), version_map=same, engine="sglang")
    assert found == [("v1", "first")] * 8
    gap = labels(sample_of([("v0", 0, 1), ("v1", 3, 5)]), engine="sglang")
    assert gap == [first] * 3 + [(None, "unlabelled")] * 2 + [either] + [later] * 2


def test_what_is_not_sure_is_set_apart():
    """Cached rows, rows of retracted samples of several versions, and unknown names are apart."""
    none, own = (None, "unlabelled"), ("v0", "first")
    found = labels(sample_of([("v0", 0, 5)], cached_tokens=2, retractions=1))
    assert found == [("v0", "cached")] * 2 + [own] * 6
    found = labels(sample_of([("v0", 0, 3), ("v1", 3, 5)], retractions=1))
    assert {group for _, group in found} == {"uncertain"}
    found = labels(sample_of([("old", 0, 2), ("v0", 2, 5)]))
    assert found == [none] * 4 + [("v0", "switched")] * 4
    assert labels(sample_of([("v0", 1, 5)])) == [none] * 3 + [own] * 5


def test_samples_without_spans_are_of_the_version_that_is_said():
    """A sample without spans has no version, or the one named as ``own``."""
    assert labels(sample_of([])) == [(None, "unlabelled")] * 8
    assert labels(sample_of([]), own="v1") == [("v1", "first")] * 8


def test_one_version_needs_no_lengths():
    """A lone version is all of the sample where prompt or response length are not known."""
    assert labels(sample_of([("v1", 0, 0)], response=None)) == [("v1", "first")] * 8
    assert labels(sample_of([("v1", 0, 5)], prompt=None)) == [("v1", "first")] * 8
    found = labels(sample_of([("v0", 0, 2), ("v1", 2, 5)], prompt=None))
    assert found == [(None, "unlabelled")] * 8


def test_names_are_mapped():
    """Names in the dump stand for versions; names of one version are no change of weights."""
    spans = [("default", 0, 2), ("7", 2, 5)]
    found = labels(sample_of(spans), version_map={"default": "v0", "7": "v1"})
    assert [group for _, group in found] == ["first"] * 4 + ["switched"] * 4
    found = labels(sample_of(spans), version_map={"default": "v1", "7": "v1"})
    assert found == [("v1", "first")] * 8


def test_counts_add_up():
    """Every row is in one group; unknown names, samples of each kind and versions are counted."""
    samples = [
        sample_of([("v0", 0, 2), ("v1", 2, 5)], missing=[(0, 0), (7, 1)]),
        sample_of([("v1", 0, 2), ("lost", 2, 5)], cached_tokens=1),
        sample_of([], rows=2),
        sample_of([("v0", 0, 1), ("v1", 1, 5)], retractions=2),
        make_sample(None, "e", [1], [2]),
    ]
    for index, name in enumerate("abcde"):
        object.__setattr__(samples[index], "sample_id", name)
    counts = census_of(make_dump(samples, engine="vllm"), attributor()).counts
    layers = len(LAYERS)
    assert counts.rows == {
        "first": 4 * layers - 1 + 3 * layers,
        "switched": 4 * layers - 1,
        "boundary": 0,
        "cached": layers,
        "uncertain": 8 * layers,
        "unlabelled": 4 * layers + 2 * layers,
    }
    assert counts.by_version == {"v0": 4 * layers - 1, "v1": 4 * layers - 1 + 3 * layers}
    assert counts.unknown == {"lost": 4 * layers}
    assert (counts.samples, counts.one_version, counts.several_versions) == (4, 0, 3)
    assert (counts.without_spans, counts.retracted) == (1, 1)


@st.composite
def spanned_samples(draw):
    """A sample with spans end to end, some of unknown names, and rows anywhere."""
    prompt, response = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    cuts = sorted(draw(st.sets(st.integers(0, response), min_size=2, max_size=4)))
    names = [draw(st.sampled_from(["v0", "v1", "x", "y"])) for _ in cuts[1:]]
    spans = [(name, a, b) for name, a, b in zip(names, cuts, cuts[1:], strict=False)]
    start = draw(st.integers(0, 2))
    rows = draw(st.integers(0, prompt + response - start)) if prompt + response > start else 0
    seed = random.Random(draw(st.integers(0, 99)))
    missing = [(t, i) for t in range(rows) for i in range(3) if seed.random() < 0.2]
    return sample_of(
        spans,
        rows=rows,
        start=start,
        missing=missing,
        prompt=prompt,
        response=response,
        cached_tokens=draw(st.integers(0, prompt)),
        retractions=draw(st.sampled_from([None, 1])),
        logprobs=-np.arange(1.0, response + 1),
    )


def slow_labels(sample, exact):
    """The same, token by token, in the plainest words; ``exact`` as of the engine's spans."""
    prompt, response = sample.prompt_length, sample.response_length
    made = [None] * response
    for span in sample.weight_spans:
        for g in range(span.start, span.end):
            made[g] = span.version
    named = [name for name in made if name is not None]
    several = len({span.version for span in sample.weight_spans}) > 1
    found = []
    for position in range(prompt + response):
        g = min(max(position + 1 - prompt, 0), response - 1)
        name, group = made[g], "first"
        if any(made[i] not in (None, named[0]) for i in range(g + 1)):
            group = "switched"
        if position < sample.cached_tokens:
            group = "cached"
        earlier = [made[i] for i in range(g) if made[i] is not None]
        is_first = position + 1 - prompt == g and earlier and earlier[-1] != name is not None
        if several and sample.retractions:
            group = "cached" if position < sample.cached_tokens else "uncertain"
        elif is_first and not exact:
            group = "boundary"
        found.append((name, group) if name in NAMES else (None, "unlabelled"))
    return found


@settings(max_examples=60)
@given(spanned_samples(), st.sampled_from(["vllm", "sglang", None]))
def test_selected_rows_are_the_oracle(sample, engine):
    """Each version and group has exactly the rows, and log-probs, that a slow walk gives it."""
    by = attributor(engine)
    owned, sizes = by.labels(sample), census_of(make_dump([sample]), by).sizes
    truth, routes = slow_labels(sample, engine == "vllm"), sample.routes
    made = set()
    for version, name in enumerate(NAMES):
        for number, group in enumerate(GROUPS[:-1]):
            kept = owned.rows_of(sample, version, [group])
            wanted = np.array([label == (name, group) for label in truth], bool)
            rows = wanted[routes.start : routes.stop, None] & there(routes)
            assert (there(kept.routes) == rows).all()
            assert sizes[version, number] == rows.sum()
            scored = wanted[sample.prompt_length - 1 :][: sample.response_length]
            assert ((True if kept.scored is None else kept.scored) == scored).all()
            assert kept.logprobs is sample.logprobs
            made |= {version} if wanted[routes.start : routes.stop].any() else set()
            said = group in owned.groups_of(len(NAMES)).get(version, ())
            assert said or not (rows.any() or scored.any())
    assert made <= owned.versions(len(NAMES))


def test_only_rows_keeps_margins_in_step():
    """Rows that are made missing lose their margins; what was missing stays so."""
    routes = make_routes(all_alike(3), missing=[(0, 0)], margins=[[None, 1, 1], [1] * 3, [1] * 3])
    sample = make_sample(routes, "a", [1], [2, 3])
    kept = only_rows(sample, np.array([True, False, True]), None).routes
    assert kept.missing_TL.tolist() == [[True, False, False], [True] * 3, [False] * 3]
    assert np.isnan(kept.margin_TL.astype(float)).tolist() == kept.missing_TL.tolist()
    assert only_rows(sample, np.ones(3, bool), None).routes is routes


def test_only_rows_keeps_group_margins_in_step():
    """Group margins of rows that are made missing go as the others do."""
    each = [[1] * 3] * 3
    routes = make_routes(all_alike(3), margins=each, group_margins=each)
    sample = make_sample(routes, "a", [1], [2, 3])
    kept = only_rows(sample, np.array([True, False, True]), None).routes
    for margin_TL in (kept.margin_TL, kept.group_margin_TL):
        assert np.isnan(margin_TL.astype(float)).tolist() == kept.missing_TL.tolist()


def test_covered_rows_are_those_of_both():
    """A longer recompute keeps the rows that the dump has, wherever its own rows begin."""
    sample = sample_of([("v0", 0, 5)], rows=4, start=2, missing=[(0, 1)])
    owned = attributor().labels(sample)
    keep = there(owned.covered(sample_of([], rows=8)).routes)
    assert keep.any(axis=1).tolist() == [False, False, True, True, True, True, False, False]
    assert keep[2].tolist() == [True, False, True]
    assert not there(owned.covered(sample_of([], rows=2, start=0)).routes).any()
