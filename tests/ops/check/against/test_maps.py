"""Maps between ids: what co-occurrence finds, their names, what a rule says of the rest."""

import numpy as np
import pytest

from routectl.ops.check.against.maps import IdMap, IdSizes, fit_map, map_name, ruled
from routectl.ops.check.against.models import RowBlock, fit_maps
from routectl.ops.check.against.swapped import fit_swapped

EXPERTS, TOP_K = 288, 6


def rows_of(count, experts=EXPERTS, top_k=TOP_K, seed=0):
    """Rows of distinct experts, some taken far more often than others."""
    rng = np.random.default_rng(seed)
    weight = rng.gamma(0.7, size=experts) + 0.05
    noise = rng.gumbel(size=(count, experts)) + np.log(weight)
    return np.argpartition(-noise, top_k, axis=1)[:, :top_k].astype(np.uint16)


def rounded(ids_NK, experts, share=0.15, seed=1):
    """Some rows have one expert that is another one."""
    rng = np.random.default_rng(seed)
    out = ids_NK.copy()
    for row in np.flatnonzero(rng.random(len(out)) < share):
        out[row, 0] = rng.choice(np.setdiff1d(np.arange(experts), out[row]))
    return out


RULES = {
    "modulo 256": lambda e: e % 256,
    "a slot more after every 9 experts: e + e // 9": lambda e: e + e // 9,
    "every id +3": lambda e: e + 3,
}


@pytest.mark.parametrize("name", RULES)
def test_rules_are_named_and_hold_for_ids_not_seen(name):
    """A map of few rows, rounding among them, follows its rule in every expert."""
    rows = rows_of(1500)
    ours = rounded(RULES[name](rows.astype(np.int64)).astype(np.uint16), EXPERTS)
    size = int(ours.max()) + 1
    found, left = fit_map(ours, rows, max(size, EXPERTS))
    if name == "modulo 256":  # most experts keep their ids: rows that are in place show it
        block = RowBlock(0, ours[:, None], rows[:, None], np.ones((len(rows), 1), np.bool_))
        model = fit_swapped([block], (0,), IdSizes(EXPERTS, EXPERTS))
        found = model.maps[0]
    else:
        assert left < 0.5
    assert map_name(found, EXPERTS) == name
    whole = ruled(found, EXPERTS)
    every = np.arange(EXPERTS)
    image = RULES[name](every)
    if whole.backward:
        assert whole.to_P[image].tolist() == every.tolist()
    else:
        assert whole.to_P[:EXPERTS].tolist() == image.tolist()


def test_a_permutation_is_found():
    """Renumbered experts come out as they were renumbered, where they were seen."""
    to = np.random.default_rng(3).permutation(64)
    rows = rows_of(3000, 64, 4)
    found, left = fit_map(rounded(to[rows].astype(np.uint8), 64), rows, 64)
    assert left < 0.25
    assert found.backward
    assert map_name(found, 64) == "renumbered"
    seen = np.unique(rows)
    assert found.to_P[to[seen]].tolist() == seen.tolist()


def test_a_rule_that_most_ids_follow_gives_way_to_the_map():
    """Of ids that all but two rare experts have by a rule, the map restores those two as well."""
    rng = np.random.default_rng(4)
    weight = np.where(np.isin(np.arange(32), (5, 9)), 0.25, 1.0)
    noise = rng.gumbel(size=(4000, 32)) + np.log(weight)
    rows = np.argpartition(-noise, 4, axis=1)[:, :4].astype(np.uint16)
    to = (np.arange(32) + 1) % 32
    to[[5, 9]] = to[[9, 5]]
    block = RowBlock(
        0, to[rows][:, None].astype(np.uint16), rows[:, None], np.ones((4000, 1), np.bool_)
    )
    model = fit_maps([block], (0,), IdSizes(32, 32), 16_384)
    assert model.maps[0].to_P[to].tolist() == list(range(32))


def test_ids_that_a_rule_leaves_out_keep_their_expert():
    """Of a few ids beyond a rule each is restored as it was found."""
    to_P = np.r_[31, np.arange(32)]
    seen_P = np.r_[1, np.full(32, 100)]
    whole = ruled(IdMap(to_P, seen_P, True), 32)
    assert map_name(whole, 32) == "every id +1"
    assert whole.to_P.tolist() == to_P.tolist()


def test_replicas():
    """Several ids for one expert are told as such, and the dump can be restored."""
    rng = np.random.default_rng(5)
    rows = rows_of(4000, 16, 2)
    ours = rows + 16 * rng.integers(0, 2, rows.shape).astype(np.uint16)
    found, left = fit_map(ours, rows, 32)
    assert left < 0.05
    assert found.backward
    assert map_name(found, 16) == "several ids for one expert: replicas"


def test_no_map():
    """Rows that have nothing to do with each other give no map that explains them."""
    _, left = fit_map(rows_of(2000, 32, 4, seed=1), rows_of(2000, 32, 4, seed=2), 32)
    assert left > 0.9
    assert fit_map(rows_of(1), rows_of(1), EXPERTS)[0] is None


@pytest.mark.parametrize(("experts", "top_k", "count"), [(8, 1, 24), (8, 2, 40), (32, 4, 24)])
def test_few_rows_have_no_map_by_chance(experts, top_k, count):
    """Unrelated rows have no map, however uneven the load; renumbered ones have."""
    for seed in range(20):
        one, other = (rows_of(count, experts, top_k, seed=2 * seed + n) for n in (0, 1))
        assert fit_map(one, other, experts)[0] is None
    rows = rows_of(4 * count, experts, top_k)
    to = np.random.default_rng(0).permutation(experts)
    assert fit_map(to[rows].astype(np.uint16), rows, experts)[0] is not None


@pytest.mark.parametrize(("experts", "top_k"), [(8, 1), (32, 4)])
def test_rows_that_come_again_do_not_vouch_for_a_map(experts, top_k):
    """The same few rows of a system prompt in 100 samples, held against filler, have no map."""
    theirs = np.tile(rows_of(2, experts, top_k), (100, 1))
    filler = np.tile(np.arange(top_k, dtype=np.uint16), (len(theirs), 1))
    assert fit_map(filler, theirs, experts)[0] is None
    assert fit_map(filler[:100], np.tile(theirs[:1], (100, 1)), experts)[0] is None


def test_names_of_maps():
    """A map that moves nothing is the identity, a few ids that are seldom seen aside."""
    to = np.arange(8)
    assert IdMap(to, np.ones(8, np.int64), True).is_identity
    swapped = to[[1, 0, 2, 3, 4, 5, 6, 7]]
    assert not IdMap(swapped, np.ones(8, np.int64), True).is_identity
    rank = np.where(to < 4, to, 0)
    assert map_name(IdMap(rank, np.ones(8, np.int64), False), 8).startswith("ids 1 to 3 alone")
    assert map_name(IdMap(np.full(8, -1), np.zeros(8, np.int64), True), 8) == "no map"


def test_few_rows_show_a_rule() -> None:
    """Of 256 experts most are in few rows; what the rule says of the others is held against rows,
    and it is none where rows are no pairs.
    """
    rng = np.random.default_rng(0)
    rows_NE = rng.normal(0, 1, (2, 80, 256)) + rng.normal(0, 0.5, 256)
    theirs, others = np.argsort(-rows_NE, axis=2)[:, :, :8].astype(np.uint16)
    ours = ((theirs + 1) % 256).astype(np.uint16)
    assert fit_map(ours, theirs, 256, 256)[0] is not None
    assert fit_map(ours, others, 256, 256)[0] is None
