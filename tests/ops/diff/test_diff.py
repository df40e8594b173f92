"""diff: rows laid side by side by absolute position, and everything that is counted about them."""

from dataclasses import fields, is_dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracles
from routectl.dump import Sample
from routectl.errors import MismatchError
from routectl.ops.diff import counts, detail, flips, measures, thresholds
from routectl.ops.diff import options as options_of
from routectl.ops.diff import result as results
from routectl.ops.diff.counts import Counts
from routectl.ops.diff.diff import DiffOptions, diff, diff_as
from support.dumps import (
    EXPERTS,
    LAYERS,
    TOP_K,
    all_alike,
    from_plain,
    make_dump,
    make_routes,
    make_sample,
    part_of,
    plain_of,
    plain_pairs,
)

P3, R3 = [5, 6, 7], [8, 9, 8]
A, B = (0, 1), (2, 3)
SURE = tuple(plain_of(all_alike(2, row), prompt=[1], response=[2, 3]) for row in (A, B))


def as_plain(counts):
    """Counts as lists and ints, by name."""
    found = {f.name: getattr(counts, f.name) for f in fields(Counts)}
    return {name: v.tolist() if isinstance(v, np.ndarray) else v for name, v in found.items()}


def check(result, pairs, layers, **options):
    """Every tally, example and sequence of the result is the oracle's."""
    truth, examples, sequences = oracles.diff_pairs(pairs, layers, EXPERTS, TOP_K, **options)
    assert as_plain(result.counts) == truth
    found = [(e.sample, e.position, e.layer, e.old, e.new) for e in result.examples]
    assert found == [(f"s{e[0]}", *e[1:]) for e in examples[: result.first.limit]]
    found = [
        (s.sample, s.tokens, s.tokens_mismatched, s.rows, s.rows_mismatched)
        for s in (one.counts for one in result.each)
    ]
    assert found == [(f"s{s[0]}", *s[1:]) for s in sequences]
    assert result.samples.compared == len(sequences)
    assert result.rows == sum(map(sum, truth["swaps_LS"]))
    assert result.rows_mismatched == result.rows - sum(row[0] for row in truth["swaps_LS"])
    assert (result.num_tokens, result.tokens_mismatched) == (
        sum(truth["depth_N"]),
        sum(truth["depth_N"][1:]),
    )


def sides_of(pairs, old_layers=LAYERS, new_layers=LAYERS):
    """The old and the new dump of pairs of plain samples."""
    named = [
        [from_plain(p, f"s{i}") for i, p in enumerate(side)] for side in zip(*pairs, strict=True)
    ]
    return make_dump(named[0], old_layers), make_dump(named[1], new_layers)


def compared_rows(pairs, layers, **options):
    """How many rows the oracle compares."""
    truth, _, _ = oracles.diff_pairs(pairs, layers, EXPERTS, TOP_K, **options)
    return sum(map(sum, truth["swaps_LS"]))


some_pairs = st.lists(plain_pairs(), min_size=1, max_size=3)


@settings(max_examples=60)
@given(
    some_pairs,
    st.sampled_from(["all", "prompt", "response"]),
    st.integers(0, 6),
    st.sampled_from([None, [1], [4, 2], [1, 2, 4]]),
)
def test_diff_is_the_oracle(pairs, tokens, examples, layers):
    """Whatever the starts, gaps, layers and tokens: every count is what loops over sets count."""
    old, new = sides_of(pairs)
    compared = sorted(layers or LAYERS)
    if not compared_rows(pairs, compared, tokens=tokens):
        with pytest.raises(MismatchError, match="nothing to compare"):
            diff(old, new, tokens=tokens, layers=layers)
        return
    options = DiffOptions(tokens=tokens, layers=layers, examples=examples, each=True)
    result = diff_as(old, new, options)
    assert result.first.limit == examples
    check(result, pairs, compared, tokens=tokens)


@settings(max_examples=30)
@given(plain_pairs(parting=True))
def test_prefix_is_the_oracle(pair):
    """By prefix a pair is compared up to where its tokens are known to be the same."""
    old, new = sides_of([pair])
    if not compared_rows([pair], LAYERS, by_prompt=True):
        with pytest.raises(MismatchError, match="nothing to compare"):
            diff(old, new, match="prefix")
        return
    options = DiffOptions("prefix", examples=99, each=True)
    check(diff_as(old, new, options), [pair], LAYERS, by_prompt=True)


@settings(max_examples=30)
@given(plain_pairs(new_layers=(0, 2, 4, 7)))
def test_layers_of_one_side_are_left_out(pair):
    """Layers that one side alone has are named and not compared; columns go by layer number."""
    old, new = sides_of([pair], new_layers=(0, 2, 4, 7))
    if not compared_rows([pair], (2, 4)):
        with pytest.raises(MismatchError, match="nothing to compare"):
            diff(old, new)
        return
    result = diff_as(old, new, DiffOptions(examples=99, each=True))
    assert (result.layers, result.layers_only_old, result.layers_only_new) == ((2, 4), (1,), (0, 7))
    check(result, [pair], (2, 4))


@settings(max_examples=20)
@given(some_pairs)
def test_a_dump_against_itself(pairs):
    """A dump against itself has no mismatch, no order mismatch and every row covered."""
    old, _ = sides_of([*pairs, SURE])
    result = diff(old, old)
    assert result.rows == sum(s.routes.rows for s in old if s.routes is not None)
    assert result.rows_mismatched == result.counts.order_L.sum() == result.counts.only_old == 0
    assert result.examples == ()


def one(ids, name="a", **more):
    """A dump of one sample of 3 + 3 tokens."""
    start, missing = more.pop("start", 0), more.pop("missing", ())
    routes = make_routes(ids, start=start, missing=missing)
    return make_dump([make_sample(routes, name, P3, R3, **more)])


def test_rows_join_by_position():
    """Row 0 of a side that starts later is compared with the row of the same position."""
    ids = [[list(row) for row in token] for token in all_alike(5)]
    ids[3] = [list(B)] * 3
    result = diff(one(ids), one(ids[2:], start=2))
    assert (result.rows, result.rows_mismatched) == (9, 0)
    assert (result.counts.only_old, result.counts.only_new) == (6, 0)
    moved = diff(one(ids), one(ids[2:], start=1), examples=1)
    assert (moved.rows, moved.rows_mismatched) == (9, 6)
    assert [(e.position, e.layer, e.old, e.new) for e in moved.examples] == [(2, 1, A, B)]


@pytest.mark.parametrize(
    ("tokens", "rows", "wrong"), [("all", 15, 6), ("prompt", 9, 3), ("response", 6, 3)]
)
def test_tokens_choose_positions(tokens, rows, wrong):
    """The response begins at the first generated token as an input, position P."""
    ids = all_alike(5)
    ids[2] = ids[3] = [list(B)] * 3
    result = diff(one(all_alike(5)), one(ids), tokens=tokens)
    assert (result.rows, result.rows_mismatched, result.tokens) == (rows, wrong, tokens)
    assert result.counts.only_old == result.counts.only_new == 0


def test_places_need_a_prompt_length():
    """Without a prompt length rows have no place, and choosing tokens is refused."""
    dump = make_dump([Sample(make_routes(all_alike(3)), "a")])
    assert diff(dump, dump).counts.places_P4.sum() == 0
    with pytest.raises(MismatchError, match="sample a: --tokens response needs the prompt length"):
        diff(dump, dump, tokens="response")
    known = make_dump([Sample(make_routes(all_alike(3)), "a", prompt_length=1)])
    for sides in ((dump, known), (known, dump)):
        assert diff(*sides, tokens="response").rows == 6


def test_missing_rows_are_not_compared():
    """A row missing on a side is counted as missing and as one that the other side alone has."""
    wrong = all_alike(5, B)
    result = diff(one(all_alike(5), missing=[(0, 0), (0, 1), (0, 2)]), one(wrong, missing=[(1, 2)]))
    assert (result.rows, result.num_tokens, result.counts.missing_L.tolist()) == (11, 4, [1, 1, 2])
    assert (result.counts.only_old, result.counts.only_new) == (1, 3)
    assert result.examples[0].position == 1


def test_samples_without_routes_are_uncovered():
    """A pair that lacks routes on one side is counted, and its rows belong to one side alone."""
    two = [make_sample(make_routes(all_alike(5)), n, [ord(n)], [1] * 5) for n in "ab"]
    bare = make_sample(None, "b", [ord("b")], [1] * 5)
    result = diff(make_dump(two), make_dump([two[0], bare]), tokens="response")
    assert (result.samples.compared, result.samples.without_routes) == (1, 1)
    assert (result.rows, result.counts.only_old, result.counts.only_new) == (12, 12, 0)
    with pytest.raises(
        MismatchError, match=r"1 samples match, .*\(1 pairs lack routes on one side"
    ):
        diff(part_of(make_dump(two), [1]), make_dump([bare]))


def test_disjoint_ranges():
    """A pair with no common position is counted; when it is the only pair, that is an error."""
    late = one(all_alike(2), start=3)
    with pytest.raises(MismatchError, match="1 have no common position"):
        diff(one(all_alike(3)), late)
    more = make_sample(make_routes(all_alike(2)), "b", [1, 2], [3])
    sides = [make_dump([next(iter(dump)), more]) for dump in (one(all_alike(3)), late)]
    result = diff(*sides)
    assert (result.samples.compared, result.samples.nothing_in_common) == (1, 1)
    assert (result.rows, result.counts.only_old, result.counts.only_new) == (6, 9, 6)
    assert [s.sample for s in result.sequences.worst] == []
    assert result.sequences.rates.count == 1


def test_leftover_samples_are_counted():
    """Samples without a partner, id conflicts and inferred starts are counted."""
    names = "abc"
    old = [make_sample(make_routes(all_alike(2)), n, [i], [1, 2]) for i, n in enumerate(names)]
    new = [
        make_sample(make_routes(all_alike(2)), "a", [0], [1, 2], start_inferred=True),
        make_sample(make_routes(all_alike(2)), "b", [9], [1, 2]),
    ]
    found = diff(make_dump(old), make_dump(new)).samples
    assert (found.old, found.new, found.compared, found.only_old, found.only_new) == (3, 2, 1, 2, 1)
    assert (found.conflicts, found.starts_inferred) == (1, 1)


def test_samples_without_an_id_are_numbered():
    """A sample without an id is named by its place in the old dump."""
    old, new = (
        [make_sample(make_routes(all_alike(1, row)), None, [i], [1]) for i in (0, 1)]
        for row in (A, B)
    )
    result = diff(make_dump(old), make_dump(new), examples=4)
    assert result.match == {"tokens": 2}
    assert [e.sample for e in result.examples] == ["#0", "#0", "#0", "#1"]
    assert [s.mismatch_rate for s in result.sequences.worst] == [1, 1]


@pytest.mark.parametrize(
    "module", [counts, detail, flips, measures, options_of, results, thresholds]
)
def test_results_are_frozen(module):
    """No value that diff counts, keeps or judges by can be changed once it is made."""
    made = [c for c in vars(module).values() if isinstance(c, type)]
    made = [c for c in made if is_dataclass(c) and c.__module__ == module.__name__]
    assert made
    assert all(c.__dataclass_params__.frozen for c in made)
