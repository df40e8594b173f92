"""What rows without a route hold: each policy, each framework's own, and the load they make."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routectl import Packing, Rank, TensorSpec, pack
from routectl.errors import MismatchError
from routectl.layouts.packing import FRAMEWORKS
from routectl.ops.pack.padding import PADDINGS
from support.packs import (
    Batch,
    batches,
    check_rows,
    expected_rows,
    ranks_of,
    repeated_rows,
    routes_like,
    sizes_of,
)

OWN = {
    "verl": ("int16", "zero"),
    "verl-contiguous": ("int16", "zero"),
    "skyrl": ("int32", "arange"),
    "skyrl-0.3": ("int32", "zero"),
    "nemo-rl": ("int8", "arange"),
    "nemo-rl-automodel": ("int8", "minus-one"),
    "slime": ("int32", "spread"),
    "slime-allgather": ("int32", "spread"),
    "miles": ("int32", "minus-one"),
    "miles-allgather": ("int32", "minus-one"),
    "relax": ("int32", "spread"),
    "relax-vl": ("int32", "spread"),
    "ms-swift": ("int64", "zero"),
    "ms-swift-contiguous": ("int64", "zero"),
    "vime": ("uint8", "spread"),
    "vime-allgather": ("uint8", "spread"),
    "xtuner": ("int64", "random"),
    "areal": ("int32", "repeat"),
    "roll": ("uint8", "zero"),
    "prime-rl": ("uint8", "zero"),
    "ulysses": ("int64", "zero"),
    "megatron": ("int64", "spread"),
}


def fillers(packed, batch, rank):
    """Each layer's rows that are no route, in order."""
    holes = check_rows(packed, batch, rank)
    return [ids[np.array(gaps, np.bool_)] for ids, gaps in zip(packed.ids_LRK, holes, strict=True)]


def loads(ids_RK, experts, ep):
    """How often a layer's rows name an expert of each EP rank, [ep]."""
    return np.bincount(ids_RK.ravel() // (experts // ep), minlength=ep)


@settings(max_examples=60)
@given(batches(), st.sampled_from([name for name in PADDINGS if name != "repeat"]))
def test_each_policy(batch, policy):
    """Zero, arange and minus-one rows are all the same; spread rows are distinct ids in range,
    random ones any in range.
    """
    spec = TensorSpec(padding=policy, dtype="int32")
    for rank in ranks_of(batch.packing):
        packed = pack(batch.dump, batch.packing, rank, spec=spec)
        for rows in fillers(packed, batch, rank):
            if policy in ("spread", "random"):
                distinct = (len(set(row)) == batch.top_k for row in rows.tolist())
                assert policy == "random" or all(distinct)
                assert not rows.size or 0 <= rows.min() <= rows.max() < batch.experts
            else:
                row = {"zero": 0, "minus-one": -1, "arange": np.arange(batch.top_k)}[policy]
                assert (rows == row).all()


@settings(max_examples=60)
@given(batches())
def test_repeated_rows(batch):
    """With repeat each row without a route holds the nearest before it, in every layer."""
    spec = TensorSpec(padding="repeat", dtype="int32")
    if not batch.packing.lens:
        return
    for rank in ranks_of(batch.packing):
        packed = pack(batch.dump, batch.packing, rank, spec=spec)
        check_rows(packed, batch, rank)
        assert packed.ids_LRK.tolist() == repeated_rows(batch, rank)


def test_random_rows_are_the_same_each_time_and_may_repeat_an_expert():
    """Random filler is drawn alike, some rows with an expert twice, the same at each call."""
    routes = [routes_like(random.Random(6), 2, (0,), (4, 8, None))]
    packing = Packing([3], "xtuner", min_local_rows=4000)
    packed, again = pack(routes, packing), pack(routes, packing)
    rows = packed.ids_LRK[0, 2:]
    assert packed.ids_LRK.tolist() == again.ids_LRK.tolist()
    assert abs(loads(rows, 8, 8) / rows.size - 1 / 8).max() < 0.01
    assert 0 < sum(len(set(row)) == 4 for row in rows.tolist()) < len(rows)


@pytest.mark.slow
@settings(max_examples=60)
@given(batches(), st.integers(1, 300))
def test_spread_is_even(batch, ep):
    """In every layer of every rank the filler's load on EP ranks differs by at most 1."""
    ep = next(n for n in range(min(ep, batch.experts), 0, -1) if batch.experts % n == 0)
    spec = TensorSpec(padding="spread", dtype="int32", ep=ep)
    for rank in ranks_of(batch.packing):
        packed = pack(batch.dump, batch.packing, rank, spec=spec)
        for rows in fillers(packed, batch, rank):
            by_rank = loads(rows, batch.experts, ep)
            by_expert = loads(rows, batch.experts, batch.experts)
            assert by_rank.max() - by_rank.min() <= 1
            assert by_expert.max() - by_expert.min() <= 1


@pytest.mark.parametrize("ep", [1, 2, 4, 8, 16, 32])
def test_spread_is_even_where_rows_are_missing_in_some_layers(ep):
    """Rows that are missing in one layer only are spread too, and the mask has a row a layer."""
    rng = random.Random(4)
    kind = (4, 32, None)
    routes = [routes_like(rng, n, (0, 1, 2), kind, missing=0.4) for n in (61, 40)]
    batch = Batch(Packing([61, 40], "megatron", cp=2), routes, (0, 1, 2), 32, 4, None)
    for rank in ranks_of(batch.packing):
        packed = pack(routes, batch.packing, rank, spec=TensorSpec(ep=ep))
        assert packed.mask.shape == packed.ids_LRK.shape[:2]
        gaps = [[row is None for row in layer] for layer in expected_rows(batch, rank)[1]]
        assert packed.filler_rows == sum(map(any, zip(*gaps, strict=True)))
        for rows in fillers(packed, batch, rank):
            by_rank = loads(rows, 32, ep)
            assert by_rank.max() - by_rank.min() <= 1


def test_the_mask_is_one_row_where_layers_agree():
    """Rows that are missing in all layers leave the mask one row, and count as filler."""
    rng = random.Random(5)
    held = routes_like(rng, 8, (0, 1), (3, 300, None), start=2)
    packed = pack([held], Packing([12], "verl"))
    assert packed.mask.tolist() == [False] * 2 + [True] * 8 + [False] * 2
    assert packed.filler_rows == 4
    assert packed.mask_of(0).tolist() == packed.mask_of(1).tolist()


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_dtype_and_padding_of_a_framework(framework):
    """Without a spec, dtype and padding are the framework's own."""
    routes = [routes_like(random.Random(6), 2, (0,), (4, 32, None))]
    packing = Packing([3], framework, **sizes_of(framework, 2, 2))
    dtype, policy = OWN[framework]
    batch = Batch(packing, routes, (0,), 32, 4, None)
    for rank in ranks_of(packing):
        plain = pack(routes, packing, rank)
        named = pack(routes, packing, rank, spec=TensorSpec(policy, dtype))
        assert plain.ids_LRK.dtype == dtype
        assert plain.ids_LRK.tolist() == named.ids_LRK.tolist()
        fillers(plain, batch, rank)


@pytest.mark.parametrize(
    ("framework", "experts", "dtype"),
    [
        ("nemo-rl", 128, "int8"),
        ("nemo-rl", 129, "int16"),
        ("nemo-rl", 32768, "int16"),
        ("nemo-rl", 32769, "int32"),
        ("prime-rl", 256, "uint8"),
        ("prime-rl", 257, "uint16"),
        ("roll", 256, "uint8"),
        ("roll", 257, "int16"),
        ("roll", 32768, "int16"),
        ("slime", 65536, "int32"),
    ],
)
def test_the_narrowest_dtype(framework, experts, dtype):
    """Frameworks that pick a dtype by E take the narrowest that holds E - 1."""
    routes = [routes_like(random.Random(7), 2, (0,), (2, experts, None))]
    routes[0].ids_TLK[0, 0] = [experts - 1, 0]
    packed = pack(routes, Packing([3], framework))
    assert packed.ids_LRK.dtype == dtype
    assert packed.ids_LRK[0, 0].tolist() == [experts - 1, 0]


def test_rolls_dtype_is_of_the_ids_that_are_there():
    """Of 300 experts ids up to 255 are uint8 in ROLL, 256 is int16; spread writes any of them."""
    held = routes_like(random.Random(9), 3, (0, 1), (2, 300, None))
    held.ids_TLK[:] = held.ids_TLK % 200
    held.ids_TLK[1, 1] = [255, 0]
    packing = Packing([4], "roll")
    packed = pack([held], packing)
    assert packed.ids_LRK.dtype == "uint8"
    assert packed.ids_LRK[1, :3].tolist() == held.ids_TLK[:, 1].tolist()
    assert pack([held], packing, spec=TensorSpec("spread")).ids_LRK.dtype == "int16"
    assert pack([held], packing, spec=TensorSpec(greatest=256)).ids_LRK.dtype == "int16"
    held.ids_TLK[1, 1] = [256, 0]
    assert pack([held], packing).ids_LRK.dtype == "int16"
    with pytest.raises(MismatchError, match="dtype int16 cannot hold expert 32768"):
        pack(
            [routes_like(random.Random(9), 3, (0,), (2, 32769, None))],
            packing,
            spec=TensorSpec(greatest=32768),
        )


def test_a_sample_without_routes_is_filler():
    """None stands for a sample without routes: its rows are filler and masked."""
    held = routes_like(random.Random(8), 4, (0, 1), (3, 300, None))
    packing = Packing([5, 5], "megatron")
    packed = pack([None, held], packing)
    assert packed.mask.tolist() == [False] * 5 + [True] * 4 + [False]
    assert packed.ids_LRK[0, 5:9].tolist() == held.ids_TLK[:, 0].tolist()


def test_layers_and_ranks_start_their_filler_apart():
    """No expert is first in all layers' filler, nor in that of all ranks."""
    routes = [routes_like(random.Random(9), 1, (0, 1, 2), (4, 32, None))]
    packing = Packing([1], "slime", cp=2, tp=2, pad_multiplier=1)
    firsts = {
        tuple(ids[-1].tolist())
        for cp in range(2)
        for tp in range(2)
        for ids in pack(routes, packing, Rank(cp, tp)).ids_LRK
    }
    assert len(firsts) > 3
