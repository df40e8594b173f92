"""Which samples of two dumps belong together."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import oracles
from routectl.dump import SampleKey
from routectl.errors import MismatchError
from routectl.ops.pairs import join
from routectl.ops.pairs.join import MATCHES, join_keys
from support.stored import stored


def key(name=None, tokens=None, prompt=None):
    """A key whose digests are the texts themselves, filled up."""
    digests = [None if part is None else part.encode().ljust(16) for part in (tokens, prompt)]
    return SampleKey(name, *digests)


def keys(text):
    """One key a word, ``id/tokens/prompt``, an empty part for what is not known."""
    return [key(*(part or None for part in word.split("/"))) for word in text.split()]


# rule, old, new, pairs, counts per rule, conflicts
JOINS = [
    ("auto", "a/x/ b/y/", "b/y/ a/x/", ((0, 1), (1, 0)), {"id": 2}, 0),
    ("auto", "a/x/ b/y/", "p/y/ q/x/", ((0, 1), (1, 0)), {"tokens": 2}, 0),
    ("auto", "a/x/ b/y/", "a/x/ q/y/", ((0, 0), (1, 1)), {"id": 1, "tokens": 1}, 0),
    ("auto", "a/x/ b//", "a// b/y/", ((0, 0), (1, 1)), {"id": 2}, 0),
    ("auto", "a/x/ b/y/", "a/z/ b/y/", ((1, 1),), {"id": 1}, 1),
    ("auto", "a/x/ b/y/", "a/y/ b/x/", ((0, 1), (1, 0)), {"tokens": 2}, 0),
    ("auto", "a/x/ b/y/", "a/y/ c/w/", ((1, 0),), {"tokens": 1}, 1),
    ("auto", "a/x/ a/y/", "a/y/ a/x/", ((0, 1), (1, 0)), {"tokens": 2}, 0),
    ("auto", "a/x/ a/x/ b/x/", "a/x/ c/x/", ((0, 0), (1, 1)), {"tokens": 2}, 0),
    ("id", "a/x/ b/y/", "b// a// c//", ((0, 1), (1, 0)), {"id": 2}, 0),
    ("id", "a/x/ b/y/ b/z/", "a/x/ b/y/", ((0, 0),), {"id": 1}, 0),
    ("tokens", "a/x/ b/x/ c/y/", "c/x/ d/x/ a/w/", ((0, 0), (1, 1)), {"tokens": 2}, 0),
    ("tokens", "/x/ //", "// /x/", ((0, 1),), {"tokens": 1}, 0),
    ("prefix", "a/x/p b/y/p c/z/q", "//q //p //p //p", ((0, 1), (1, 2), (2, 0)), {"prefix": 3}, 0),
    ("order", "// // a/x/", "b// //", ((0, 0), (1, 1)), {"order": 2}, 0),
    ("order", "a/x/ b/y/", "c/x/ a//", ((0, 0), (1, 1)), {"order": 2}, 0),
]


@pytest.mark.parametrize(("rule", "old", "new", "pairs", "by", "conflicts"), JOINS)
def test_rules(rule, old, new, pairs, by, conflicts):
    """Each rule pairs what it says, counts the pairs and leaves the rest over."""
    joined = join_keys(keys(old), keys(new), rule)
    assert (joined.pairs, joined.by, joined.conflicts) == (pairs, by, conflicts)
    assert {*joined.only_old, *(i for i, _ in pairs)} == set(range(len(keys(old))))
    assert {*joined.only_new, *(j for _, j in pairs)} == set(range(len(keys(new))))
    assert len(joined.only_old) + len(pairs) == len(keys(old))
    assert len(joined.only_new) + len(pairs) == len(keys(new))


@pytest.mark.parametrize("rule", ["id", "order"])
def test_other_tokens_are_refused(rule):
    """A pair by id or by order whose token ids differ is an error that names the first pair."""
    with pytest.raises(MismatchError) as caught:
        join_keys(keys("a/x/p b/y/p c/z/p"), keys("a/x/p b/v/p c/w/p"), rule)
    assert str(caught.value) == (
        f"2 of 3 samples matched by {rule} have other token ids on the two sides, "
        "first: OLD sample 1 and NEW sample 1"
    )
    assert "--match prefix" in caught.value.hint


@pytest.mark.parametrize(
    ("rule", "old", "new", "words", "hint"),
    [
        (
            "auto",
            "a/x/p",
            "b/y/p",
            "id or token ids",
            "1 prompts are on both sides: --match prefix",
        ),
        ("tokens", "a/x/p b/w/q", "b/y/p c/v/q", "tokens", "2 prompts are on both sides"),
        ("auto", "a//", "b//", "id or token ids", "--match order"),
        ("id", "a/x/", "b//", "id", "--match order"),
        ("prefix", "a/x/p", "b/y/q", "prompt", None),
        ("prefix", "a//", "b//", "prompt", "--match order"),
        ("auto", "a/x/", "b/y/", "id or token ids", None),
        ("order", "", "b/y/", "order", None),
    ],
)
def test_nothing_matches(rule, old, new, words, hint):
    """No pair at all is an error that counts both sides and names the rule that may find pairs."""
    with pytest.raises(MismatchError) as caught:
        join_keys(keys(old), keys(new), rule)
    old_count, new_count = len(old.split()), len(new.split())
    assert str(caught.value) == (
        f"nothing to compare: none of {old_count} samples of OLD and {new_count} of NEW "
        f"match by {words}"
    )
    assert (caught.value.hint is None) if hint is None else (hint in caught.value.hint)


def test_unknown_rule():
    """A rule that is none is a ValueError with the list of rules."""
    with pytest.raises(ValueError, match=r"match 'ids' is not known: did you mean id\?"):
        join_keys(keys("a//"), keys("a//"), "ids")


part = st.one_of(st.none(), st.sampled_from("xyz"))
plain_keys = st.lists(st.tuples(part, part, part), max_size=5)


def joined_as(truth, sides, rule):
    """What join_keys makes of two sides, held against the oracle; None where both find nothing."""
    if not truth:
        with pytest.raises(MismatchError):
            join_keys(*sides, rule)
        return None
    joined = join_keys(*sides, rule)
    assert list(joined.pairs) == truth
    assert sum(joined.by.values()) == len(truth)
    return joined


@given(plain_keys, plain_keys, st.sampled_from(MATCHES))
def test_join_is_the_oracle(old, new, rule):
    """join_keys pairs what the oracle pairs, and refuses where it refuses or finds nothing."""
    truth = oracles.join(old, new, rule)
    sides = [[key(*k) for k in side] for side in (old, new)]
    joined_as(truth, sides, rule)


many_keys = st.lists(st.tuples(part, part, part), max_size=40)


@given(many_keys, many_keys, st.sampled_from(MATCHES), st.integers(1, 7), st.integers(1, 64))
def test_stored_keys_join_as_the_oracle(old, new, rule, run, sorted_at_once):
    """Keys read run by run, sorted a few at a time, join as the oracle's: none more, none less."""
    truth = oracles.join(old, new, rule)
    sides = [stored([key(*k) for k in side], run) for side in (old, new)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(join, "_SORTED", sorted_at_once)
        joined = joined_as(truth, sides, rule)
    if joined is not None:
        assert len(joined.only_old) + len(truth) == len(old)


@given(plain_keys, st.sampled_from(["auto", "tokens", "prefix", "order"]))
def test_a_dump_joins_with_itself(side, rule):
    """Against itself every sample is its own partner, if the rule knows its key."""
    sides = [key(*k) for k in side]
    part_of_rule = {"tokens": 1, "prefix": 2}
    known = [
        i
        for i, k in enumerate(side)
        if rule == "order"
        or (rule in part_of_rule and k[part_of_rule[rule]] is not None)
        or (
            rule == "auto"
            and (k[1] is not None or (k[0] and sum(k[0] == n for n, _, _ in side) == 1))
        )
    ]
    if not known:
        return
    assert join_keys(sides, sides, rule).pairs == tuple((i, i) for i in known)
