"""Who made the rows: counts against loops, verdicts on dumps whose makers are known."""

from itertools import pairwise, product

import numpy as np
import pytest

from routectl.dump import WeightSpan
from routectl.errors import MismatchError
from routectl.ops.check.candidates.counts import count_parts
from routectl.ops.check.candidates.made_by import CONFIDENCE, made_by
from support.dumps import make_dump, make_routes, make_sample

LAYERS, EXPERTS, TOP_K, TOKENS = (1, 2, 4), 16, 2, 90
NAMES = ("v0", "v1", "v2")


def drawn(draws, tokens=TOKENS):
    """Random sets, int [T, L, K]."""
    shape = tokens, len(LAYERS), EXPERTS
    return np.argsort(draws.random(shape), axis=2)[:, :, :TOP_K]


def changed(draws, ids_TLK, rate):
    """The same with an expert changed in about such a share of the rows."""
    found = ids_TLK.copy()
    hit_TL = draws.random(ids_TLK.shape[:2]) < rate
    found[hit_TL, 0] = (found[hit_TL, 0] + 1 + found[hit_TL, 1]) % EXPERTS
    twice = found[:, :, 0] == found[:, :, 1]
    found[twice, 0] = (found[twice, 0] + 1) % EXPERTS
    return found


def sample_of(ids_TLK, index, margins=None, **more):
    """A sample of tokens of its own."""
    routes = make_routes(ids_TLK.tolist(), LAYERS, EXPERTS, margins=margins)
    response = list(range(len(ids_TLK) - 1))
    return make_sample(routes, f"s{index}", [1000 + index], response, **more)


def dump_of(samples, **about):
    """A dump of them."""
    return make_dump(samples, LAYERS, EXPERTS, TOP_K, **about)


def chain(draws, count, step=0.08, names=NAMES):
    """Routes of versions that each change some rows of the one before: name -> [S][T, L, K]."""
    found = {names[0]: [drawn(draws) for _ in range(count)]}
    for old, new in pairwise(names):
        found[new] = [changed(draws, ids, step) for ids in found[old]]
    return found


def candidates(versions, names, margin=None):
    """Dumps of the routes of these versions, all rows with one margin where it is given."""
    flat = None if margin is None else np.full((TOKENS, len(LAYERS)), margin).tolist()
    return {
        name: dump_of([sample_of(ids, i, flat) for i, ids in enumerate(versions[name])])
        for name in names
    }


def judged(samples, routes, expected=None):
    """What is found of a dump of samples."""
    return made_by(tuple(routes), count_parts(dump_of(samples), routes), expected)


def test_counts_are_those_of_loops():
    """Mismatched rows, and who gets more layers wrong at a token, are what loops over rows say."""
    draws = np.random.default_rng(1)
    versions = chain(draws, 2)
    routes = candidates(versions, NAMES)
    engine = [changed(draws, ids, 0.05) for ids in versions["v1"]]
    for part, ids in zip(
        count_parts(dump_of([sample_of(e, i) for i, e in enumerate(engine)]), routes),
        engine,
        strict=True,
    ):
        wrong = {
            name: [
                [set(ids[t][n]) != set(versions[name][part.index][t][n]) for n in range(3)]
                for t in range(TOKENS)
            ]
            for name in NAMES
        }
        assert (part.rows, part.tokens, part.first) == (3 * TOKENS, TOKENS, TOKENS)
        assert part.wrong_C.tolist() == [sum(map(sum, wrong[name])) for name in NAMES]
        for a, b in product(range(3), repeat=2):
            d = [sum(wrong[NAMES[b]][t]) - sum(wrong[NAMES[a]][t]) for t in range(TOKENS)]
            assert part.lead_CC[a, b] == sum(d)
            assert part.spread_CC[a, b] == sum(x * x for x in d)
        assert part.margin_C.tolist() == part.clear_C.tolist() == [0, 0, 0]


def test_each_sample_has_its_maker():
    """Of samples of two versions, each with noise, every one is told, and by whom."""
    draws = np.random.default_rng(2)
    versions = chain(draws, 30, 0.2)
    makers = ["v0" if i % 5 == 0 else "v1" for i in range(30)]
    samples = [sample_of(changed(draws, versions[m][i], 0.02), i) for i, m in enumerate(makers)]
    found = judged(samples, candidates(versions, NAMES), "v1")
    assert [part.maker for part in found.parts] == makers
    assert [part.is_wrong for part in found.parts] == [m == "v0" for m in makers]
    assert found.samples == {"v0": 6, "v1": 24, "v2": 0, "none": 0, "undecided": 0, "several": 0}
    assert found.noise.of == "v1"
    assert found.noise.rate == pytest.approx(0.02, abs=0.01)


def test_a_version_that_is_no_candidate_is_none():
    """Samples of a version that is missing are of none of the others, as others show the noise."""
    draws = np.random.default_rng(3)
    versions = chain(draws, 30, 0.2)
    makers = ["v2" if i % 3 == 0 else "v0" for i in range(30)]
    samples = [sample_of(changed(draws, versions[m][i], 0.02), i) for i, m in enumerate(makers)]
    found = judged(samples, candidates(versions, ("v0", "v1")))
    assert [part.is_none for part in found.parts] == [m == "v2" for m in makers]
    assert [part.maker for part in found.parts] == [None if m == "v2" else m for m in makers]


@pytest.mark.parametrize("margin", [None, 0.2])
def test_rows_of_another_model_are_none(margin):
    """Rows that agree with no candidate in most rows are of none, with and without margins."""
    draws = np.random.default_rng(4)
    versions = chain(draws, 6)
    samples = [sample_of(drawn(draws), i) for i in range(6)]
    found = judged(samples, candidates(versions, NAMES, margin))
    assert all(part.is_none for part in found.parts)
    assert found.samples["none"] == 6


def test_clear_flips_everywhere_are_none():
    """Where most rows that differ are clear flips, the nearest candidate did not make them."""
    draws = np.random.default_rng(5)
    versions = chain(draws, 8, 0.2)
    samples = [sample_of(versions["v2"][i], i) for i in range(8)]
    far = judged(samples, candidates(versions, ("v0", "v1"), 0.1))
    assert far.samples["none"] == 8
    near = judged(samples, candidates(versions, ("v0", "v1"), 0.0001))
    assert near.samples["v1"] == 8  # near-ties might be rounding


def test_an_exact_candidate_is_no_yardstick_of_others_that_round():
    """One candidate has the dump's very rows; near-ties to another are its rounding, all sound."""
    draws = np.random.default_rng(11)
    versions = chain(draws, 16, step=0.3)
    routes = candidates(versions, NAMES, margin=1e-6)
    engine = versions["v0"][:9] + [changed(draws, ids, 0.06) for ids in versions["v1"][9:]]
    found = judged([sample_of(ids, i) for i, ids in enumerate(engine)], routes)
    assert [part.maker for part in found.parts] == ["v0"] * 9 + ["v1"] * 7


def test_candidates_that_are_alike_are_not_told():
    """Of two candidates with the same routes none is named; what excludes a third is."""
    draws = np.random.default_rng(6)
    versions = chain(draws, 6, 0.3)
    versions["copy"] = versions["v1"]
    samples = [sample_of(changed(draws, ids, 0.02), i) for i, ids in enumerate(versions["v1"])]
    found = judged(samples, candidates(versions, ("v0", "v1", "copy")), "v0")
    for part in found.parts:
        assert (part.maker, part.alike, part.z) == (None, ("v1", "copy"), 0.0)
        assert part.is_wrong  # v0 it was not


def test_confidence_is_kept_where_nobody_is_ahead():
    """Two candidates that are equally far from the rows are told apart about as often as said."""
    draws = np.random.default_rng(7)
    base = [drawn(draws) for _ in range(1500)]
    versions = {name: [changed(draws, ids, 0.08) for ids in base] for name in ("a", "b")}
    samples = [sample_of(ids, i) for i, ids in enumerate(base)]
    found = judged(samples, candidates(versions, ("a", "b")))
    told = sum(len(part.alike) == 1 for part in found.parts)
    assert told <= 8  # 2 (1 - CONFIDENCE) of 1,500 are 3
    assert CONFIDENCE == 0.999


def test_versions_within_a_sample_are_judged_apart():
    """Rows of each version that the dump names are held against it; boundary rows of neither."""
    draws = np.random.default_rng(8)
    versions = chain(draws, 6, 0.3)
    half = TOKENS // 2
    spans = (WeightSpan("v0", 0, half), WeightSpan("v1", half, TOKENS - 1))
    mixed = [np.concatenate([versions["v0"][i][:half], versions["v1"][i][half:]]) for i in range(6)]
    samples = [sample_of(ids, i, weight_spans=spans) for i, ids in enumerate(mixed)]
    samples[5] = sample_of(versions["v0"][5], 5, weight_spans=spans)
    found = judged(samples, candidates(versions, NAMES), "v1")
    assert [(p.index, p.said, p.maker) for p in found.parts] == [
        (i, said, "v0" if i == 5 else said) for i in range(6) for said in ("v0", "v1")
    ]
    assert [p.index for p in found.parts if p.is_wrong] == [5]
    assert (found.samples["several"], found.samples["v0"]) == (5, 1)


def test_what_cannot_be_laid_side_by_side_is_refused():
    """Routes of other layers than another candidate's, or of no sample, are refused by name."""
    draws = np.random.default_rng(9)
    versions = chain(draws, 1)
    routes = candidates(versions, ("v0", "v1"))
    foreign = dump_of([sample_of(versions["v0"][0], 77)])
    samples = dump_of([sample_of(versions["v0"][0], 0)])
    with pytest.raises(MismatchError, match="candidate x: nothing to compare: none of 1 samples"):
        list(count_parts(samples, {**routes, "x": foreign}))
    ids = versions["v0"][0][:, :2].tolist()
    routes_of_two = make_routes(ids, LAYERS[:2], EXPERTS)
    short = make_sample(routes_of_two, "s0", [1000], list(range(TOKENS - 1)))
    fewer = make_dump([short], LAYERS[:2], EXPERTS, TOP_K)
    with pytest.raises(MismatchError, match="candidate x has other MoE layers than v0"):
        list(count_parts(samples, {**routes, "x": fewer}))
