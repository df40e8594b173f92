"""The loops over rows against the oracles. T tokens, L layers, K top_k, E experts."""

from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracles
from routectl.kernels import rows as kernels
from routectl.kernels.rows import count_load, diff_rows, diff_rows_of_few, scan_rows

SHAPES = [(np.uint8, k) for k in (1, 3, 4, 5, 8, 16)] + [(np.uint16, k) for k in (1, 2, 8, 16)]
SIZES = {np.uint8: (64, 128, 256), np.uint16: (300, 384, 512)}
INTEGERS = [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64]
FIELDS = ("swaps_LS", "order_L", "load_old_LE", "load_new_LE", "differing_T", "first_T")


def as_lists(counts):
    """RowCounts as nested lists, by name."""
    return {name: getattr(counts, name).tolist() for name in FIELDS}


@st.composite
def sides(draw):
    """(old, new, E, skip): new rows are copies, permutations, one id changed, or anything."""
    dtype, top_k = draw(st.sampled_from(SHAPES))
    experts = draw(st.one_of(st.integers(top_k, top_k + 3), st.sampled_from(SIZES[dtype])))
    tokens, layers = draw(st.integers(0, 7)), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    old = rng.integers(0, experts, (tokens, layers, top_k))
    if draw(st.booleans()):
        old = rng.permuted(np.tile(np.arange(experts), (tokens, layers, 1)), axis=-1)[..., :top_k]
    new = old.copy()
    for t, layer in np.ndindex(tokens, layers):
        change = draw(st.sampled_from(["none", "order", "one", "double", "any"]))
        if change == "order":
            new[t, layer] = rng.permutation(old[t, layer])
        elif change == "one":
            new[t, layer, rng.integers(top_k)] = rng.integers(experts)
        elif change == "double":
            new[t, layer, rng.integers(top_k)] = new[t, layer, 0]
        elif change == "any":
            new[t, layer] = rng.integers(0, experts, top_k)
    skip = rng.random((tokens, layers)) < 0.3 if draw(st.booleans()) else None
    return old.astype(dtype), new.astype(dtype), experts, skip


def truth_of(old, new, experts, skip):
    """The oracle's counts; it cannot tell L and K of an empty list, so T = 0 is spelled out."""
    layers, top_k = old.shape[1:]
    if len(old):
        masks = None if skip is None else skip.tolist()
        return oracles.compare_rows(old.tolist(), new.tolist(), experts, masks)
    loads = [[0] * experts for _ in range(layers)]
    swaps = [[0] * (top_k + 1) for _ in range(layers)]
    return dict(zip(FIELDS, (swaps, [0] * layers, loads, loads, [], []), strict=True))


@settings(max_examples=60)
@given(sides(), st.integers(1, 3), st.sampled_from([1, 2, 3, 1 << 20]))
def test_diff_rows_is_the_oracle(case, threads, chunk):
    """diff_rows counts what sets count, whatever the threads and wherever a chunk ends."""
    old, new, experts, skip = case
    with patch.object(kernels, "_CHUNK_TOKENS", chunk):
        counts = diff_rows(old, new, experts, skip_TL=skip, threads=threads)
    assert as_lists(counts) == truth_of(old, new, experts, skip)


@settings(max_examples=40)
@given(sides(), st.integers(1, 3), st.sampled_from([1, 2, 3, 1 << 20]))
def test_marks_are_the_oracle(case, threads, chunk):
    """With mark, every mismatched row that is not left out is marked, and no count changes."""
    old, new, experts, skip = case
    with patch.object(kernels, "_CHUNK_TOKENS", chunk):
        counts = diff_rows(old, new, experts, skip_TL=skip, threads=threads, mark=True)
    assert as_lists(counts) == truth_of(old, new, experts, skip)
    assert counts.differs_TL.shape == old.shape[:2]
    for t, layer in np.ndindex(old.shape[:2]):
        left_out = skip is not None and skip[t, layer]
        differs = set(old[t, layer].tolist()) != set(new[t, layer].tolist())
        assert counts.differs_TL[t, layer] == (differs and not left_out)
    assert diff_rows(old, new, experts).differs_TL is None


@settings(max_examples=60)
@given(sides())
def test_few_rows_are_counted_alike(case):
    """What numpy alone counts of few rows is the oracle's, and its marks are those of the loop."""
    old, new, experts, skip = case
    counts = diff_rows_of_few(old, new, experts, skip_TL=skip, mark=True)
    assert as_lists(counts) == truth_of(old, new, experts, skip)
    marks = diff_rows(old, new, experts, skip_TL=skip, mark=True).differs_TL
    assert np.array_equal(counts.differs_TL, marks)
    assert diff_rows_of_few(old, new, experts).differs_TL is None


def as_layers(ids_TLK):
    """The same ids, those of each layer end to end, as a part of a longer array."""
    stack = np.zeros((ids_TLK.shape[1], len(ids_TLK) + 3, ids_TLK.shape[2]), ids_TLK.dtype)
    stack[:, 2 : 2 + len(ids_TLK)] = ids_TLK.transpose(1, 0, 2)
    return stack[:, 2 : 2 + len(ids_TLK)].transpose(1, 0, 2)


@settings(max_examples=50)
@given(sides(), st.integers(1, 2), st.sampled_from([1, 2, 1 << 11]))
def test_rows_layer_by_layer_are_counted_alike(case, threads, chunk):
    """Where the rows of a layer lie end to end, both ways of counting are the oracle's."""
    old, new, experts, skip = case
    layered = as_layers(old), as_layers(new)
    truth = truth_of(old, new, experts, skip)
    assert as_lists(diff_rows_of_few(*layered, experts, skip_TL=skip)) == truth
    with patch.object(kernels, "_COPIED_TOKENS", chunk):
        counts = diff_rows(*layered, experts, skip_TL=skip, threads=threads)
    assert as_lists(counts) == truth


def test_many_unlike_rows_are_left_to_the_loops():
    """numpy counts as many rows that are unlike as it may, and gives up beyond."""
    old = np.arange(60, dtype=np.uint8).reshape(5, 3, 4)
    new = old[:, :, ::-1].copy()
    assert diff_rows_of_few(old, new, 60, most=15).unlike == 15
    assert diff_rows_of_few(old, new, 60, most=14) is None


@settings(max_examples=30)
@given(sides())
def test_diff_of_itself_is_empty(case):
    """A side against itself has no swap, no order mismatch and one load."""
    old, _, experts, skip = case
    counts = diff_rows(old, old.copy(), experts, skip_TL=skip)
    assert counts.swaps_LS[:, 1:].sum() == counts.order_L.sum() == counts.differing_T.sum() == 0
    assert (counts.first_T == -1).all()
    assert counts.load_old_LE.tolist() == counts.load_new_LE.tolist()
    assert counts.load_old_LE.tolist() == count_load(old, experts, skip).tolist()


@settings(max_examples=30)
@given(sides())
def test_sides_exchange(case):
    """Exchanging the sides exchanges the loads and changes nothing else."""
    old, new, experts, skip = case
    one = as_lists(diff_rows(old, new, experts, skip_TL=skip))
    two = as_lists(diff_rows(new, old, experts, skip_TL=skip))
    two["load_old_LE"], two["load_new_LE"] = two["load_new_LE"], two["load_old_LE"]
    assert one == two


@settings(max_examples=30)
@given(sides(), st.integers(0, 2**32 - 1))
def test_slot_order_is_all_that_permuting_changes(case, seed):
    """Permuting the slots of every row changes the order mismatches and no other count."""
    old, new, experts, skip = case
    rng = np.random.default_rng(seed)
    shuffled = rng.permuted(old, axis=-1), rng.permuted(new, axis=-1)
    before = as_lists(diff_rows(old, new, experts, skip_TL=skip))
    after = as_lists(diff_rows(*shuffled, experts, skip_TL=skip))
    assert before.pop("order_L") is not None
    assert after.pop("order_L") is not None
    assert before == after


@pytest.mark.parametrize(
    ("dtype", "top_k", "experts"),
    [(np.uint16, 1100, 1500), (np.uint8, 65, 65), (np.uint8, 25, 30), (np.uint16, 24, 300)],
)
def test_wide_rows(dtype, top_k, experts):
    """Rows too wide to be unrolled, or to be told by marks, are counted the same."""
    rng = np.random.default_rng(3)
    old = rng.permuted(np.tile(np.arange(experts), (3, 2, 1)), axis=-1)[..., :top_k].astype(dtype)
    new = old.copy()
    new[1, 0] = rng.permutation(new[1, 0])
    new[2, 1, :7] = new[2, 1, 7]
    assert as_lists(diff_rows(old, new, experts)) == truth_of(old, new, experts, None)


def test_greatest_ids():
    """Every uint8 of 256 experts and every uint16 of 65,536 is an id like another."""
    for dtype, experts in ((np.uint8, 256), (np.uint16, 65536)):
        old = np.array([[[0, experts - 1]], [[experts - 1, 1]]], dtype)
        new = np.array([[[experts - 1, 0]], [[experts - 1, 2]]], dtype)
        counts = diff_rows(old, new, experts)
        assert counts.swaps_LS.tolist() == [[1, 1, 0]]
        assert counts.order_L.tolist() == [1]
        assert counts.load_new_LE[0, [0, 1, 2, experts - 1]].tolist() == [1, 0, 1, 2]


def test_read_only_and_odd_memory():
    """Arrays that cannot be written, or that lie at an odd address, are compared like others."""
    rng = np.random.default_rng(5)
    old, new = (rng.integers(0, 8, (4, 3, 4), np.uint8) for _ in range(2))
    frozen = np.frombuffer(old.tobytes(), np.uint8).reshape(old.shape)
    odd = np.frombuffer(b"x" + new.tobytes(), np.uint8, offset=1).reshape(new.shape)
    assert as_lists(diff_rows(frozen, odd, 8)) == truth_of(old, new, 8, None)


def test_unlike_arrays_are_refused():
    """Arrays of two shapes or dtypes, and a mask of another shape, are a ValueError."""
    ids = np.zeros((2, 1, 2), np.uint8)
    with pytest.raises(ValueError, match=r"cannot compare \(2, 1, 2\) with \(1, 1, 2\)"):
        diff_rows(ids, ids[:1], 4)
    with pytest.raises(ValueError, match="cannot compare"):
        diff_rows(ids, ids.astype(np.uint16), 4)
    with pytest.raises(ValueError, match="skip_TL must be"):
        diff_rows(ids, ids, 4, skip_TL=np.zeros((1, 1), np.bool_))


@st.composite
def wire_ids(draw):
    """Ids of any integer dtype [T, L, K] and E, with fillers, and ids that are none."""
    dtype = draw(st.sampled_from(INTEGERS))
    low, high = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    experts = draw(st.sampled_from([1, 4, 128, 256, 300]))
    tokens, layers, top_k = (draw(st.integers(a, 4)) for a in (0, 1, 1))
    tops = [low, high, high - 1, 2**62, -1, -2, experts, experts - 1, 0, 1]
    value = st.sampled_from([n for n in tops if low <= n <= high])
    legal = st.integers(0, min(experts - 1, high))
    row = st.one_of(
        st.lists(legal, min_size=top_k, max_size=top_k),
        value.map(lambda n: [n] * top_k),
        st.lists(st.one_of(value, legal), min_size=top_k, max_size=top_k),
    )
    ids = np.zeros((tokens, layers, top_k), dtype)
    for t, layer in np.ndindex(tokens, layers):
        ids[t, layer] = draw(row)
    return ids, experts


@settings(max_examples=80)
@given(wire_ids())
def test_scan_rows_is_the_oracle(case):
    """scan_rows finds the fillers and the first illegal row in every integer dtype."""
    ids, experts = case
    missing, token, layer = scan_rows(ids, experts)
    truth = oracles.scan(ids.tolist(), experts, int(np.iinfo(ids.dtype).max))
    assert (None if missing is None else missing.tolist(), token, layer) == truth


@pytest.mark.parametrize(
    ("row", "dtype", "experts", "filler"),
    [
        ([0, 0], np.uint8, 8, True),
        ([0], np.uint8, 8, False),
        ([7, 7], np.int32, 8, False),
        ([-1, -1], np.int32, 8, True),
        ([-1], np.int16, 8, True),
        ([255, 255], np.uint8, 256, True),
        ([255], np.uint8, 256, False),
        ([255], np.uint8, 128, True),
        ([65535], np.uint16, 300, True),
        ([2**64 - 1], np.uint64, 300, True),
        ([2**63 - 1], np.int64, 300, True),
    ],
)
def test_fillers_by_hand(row, dtype, experts, filler):
    """A row is missing when its equal ids can be no route: -1, the greatest value, or K zeros."""
    missing, token, _ = scan_rows(np.array([[row]], dtype), experts)
    assert ((missing is not None), token) == (filler, -1)


def test_first_illegal_row_is_told():
    """The first illegal row is the first token's lowest layer, fillers passed over."""
    ids = np.zeros((3, 2, 2), np.int32) + np.array([1, 2])
    ids[0, 0] = -1
    ids[1, 1] = 2, 9
    ids[2, 0] = -3, 1
    missing, token, layer = scan_rows(ids, 9)
    assert missing is not None
    assert (np.argwhere(missing).tolist(), token, layer) == ([[0, 0]], 1, 1)


@settings(max_examples=40)
@given(sides())
def test_count_load_is_the_oracle(case):
    """count_load counts every id of the rows that are there."""
    ids, _, experts, missing = case
    masks = None if missing is None else missing.tolist()
    truth = oracles.count_load(ids.tolist(), ids.shape[1], experts, masks)
    assert count_load(ids, experts, missing).tolist() == truth
