"""Parts of a comparison add up to the whole, byte for byte, whatever the cut, order and tree."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from routectl.ops.diff.diff import DiffOptions, diff_as
from routectl.ops.pairs.join import join_keys
from routectl.ops.pairs.parts import whole_join
from routectl.reports.diff.document import diff_document
from routectl.reports.document import to_json
from support.cuts import added_in_some_tree, cut_at
from support.dumps import all_alike, from_plain, make_dump, make_sample, margined_pairs, plain_of

A, B = (0, 1), (2, 3)
SURE = tuple(plain_of(all_alike(2, row), prompt=[1], response=[2, 3]) for row in (A, B))
LOGPROBS = st.sampled_from([-1e-9, -0.1, -0.7, -3.3, -1e9, -np.inf, np.nan])


@st.composite
def some_dumps(draw):
    """Two dumps of the same samples, some with log-probs, and some that one side alone has."""
    sides = [], []
    for n, pair in enumerate([SURE, *draw(st.lists(margined_pairs(), max_size=5))]):
        named = draw(st.booleans())
        for side, plain in zip(sides, pair, strict=True):
            more = {}
            if plain["response"] is not None and draw(st.booleans()):
                size = len(plain["response"])
                more["logprobs"] = np.array(draw(st.lists(LOGPROBS, min_size=size, max_size=size)))
            side.append(from_plain(plain, f"s{n}" if named or not n else None, **more))
        for side in sides:
            if not draw(st.integers(0, 3)):
                routes = from_plain(SURE[0]).routes
                side.append(make_sample(routes, f"alone{len(side)}{id(side)}", [n, 99], [98]))
    return make_dump(sides[0]), make_dump(sides[1])


@settings(max_examples=40)
@given(some_dumps(), st.lists(st.integers(0, 7)), st.booleans(), st.integers(0, 3), st.data())
def test_any_cut_order_and_tree_tells_the_same(dumps, cuts, detail, examples, data):
    """The document of any parts, added in any tree, is that of the whole to the byte."""
    options = DiffOptions(examples=examples, detail=detail)
    whole = diff_as(*dumps, options)
    parts = cut_at(*dumps, options, cuts)
    added = added_in_some_tree(parts, data)
    assert to_json(diff_document(added)) == to_json(diff_document(whole))


def test_parts_have_every_sample_once():
    """A join that is cut has each pair and each sample without a partner in one part, and rules
    and conflicts add up.
    """
    dump = make_dump([from_plain(SURE[0], name) for name in "abcdefg"])
    old, new = dump.select(samples=[0, 1, 2, 3, 5]), dump.select(samples=[1, 2, 4, 5, 6])
    join = join_keys(old.keys, new.keys)
    for runs in ([range(5)], [range(1), range(1, 5)], [range(2), range(2, 3), range(3, 5)]):
        parts = whole_join(join).cut(runs)
        pairs = [pair for part in parts for pair in part.pairs]
        assert pairs == list(join.pairs)
        for side in ("only_old", "only_new"):
            found = [i for part in parts for i in getattr(part, side).tolist()]
            assert found == list(getattr(join, side))
        rules = [rule for part in parts for rule, n in part.by.items() for _ in range(n)]
        assert {rule: rules.count(rule) for rule in rules} == join.by
        assert sum(part.conflicts for part in parts) == join.conflicts


def test_examples_are_the_first_of_the_whole():
    """However a later part comes first, its mismatched rows stand behind those of an earlier."""
    sides = [
        make_dump([from_plain(pair[side], f"z{9 - n}") for n, pair in enumerate([SURE] * 4)])
        for side in (0, 1)
    ]
    options = DiffOptions(match="id", examples=7)
    parts = cut_at(*sides, options, [1, 2, 3])
    backwards = parts[3] + parts[2] + parts[1] + parts[0]
    assert backwards.examples == diff_as(*sides, options).examples
    assert [e.sample for e in backwards.examples] == ["z9"] * 6 + ["z8"]
