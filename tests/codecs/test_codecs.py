"""What every codec must do: give rows back, take any bytes, and be what it was."""

import dataclasses
import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from routectl.codecs import CODECS, codec_named, codec_of
from routectl.codecs.block import About, Block, Coded
from routectl.codecs.orders import ordered_rows, orders_bytes, pack_orders
from routectl.codecs.row_kernels import repeats_in, sorted_rows
from routectl.errors import RoutectlError, UnsupportedError
from routectl.routes import ids_dtype
from support.blocks import dictionary_of, golden_block
from support.recordings import FIXTURES

SIZES = [
    (1, 1),
    (2, 1),
    (2, 2),
    (5, 5),
    (7, 3),
    (32, 4),
    (128, 8),
    (129, 8),
    (256, 8),
    (257, 2),
    (384, 8),
    (512, 10),
    (1000, 22),
    (65536, 3),
]
LENS = st.lists(st.integers(0, 40), min_size=1, max_size=5).map(tuple)
every_codec = pytest.mark.parametrize("name", CODECS)
thorough = settings(
    max_examples=30, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck)
)


def distinct_rows(rng, rows, num_experts, top_k, skew):
    """Rows of K distinct experts, in any order; with skew the low ids come more often."""
    if num_experts > 4096:
        ids = rng.integers(0, num_experts // top_k, (rows, top_k)) * top_k + np.arange(top_k)
        return rng.permuted(ids, axis=1).astype(ids_dtype(num_experts))
    keys = rng.random((rows, num_experts)) + skew * np.arange(num_experts) / num_experts
    return np.argsort(keys, axis=1)[:, :top_k].astype(ids_dtype(num_experts))


@st.composite
def blocks(draw, codec):
    """A block that a codec's needs are met by."""
    num_experts, top_k = draw(st.sampled_from(SIZES))
    lens, rng = draw(LENS), np.random.default_rng(draw(st.integers(0, 2**32)))
    skew = draw(st.sampled_from([0.0, 1.0, 5.0]))
    base = distinct_rows(rng, sum(lens), num_experts, top_k, skew)
    other = distinct_rows(rng, sum(lens), num_experts, top_k, skew)
    changed = rng.random((sum(lens), 1)) < draw(st.sampled_from([0.0, 0.1, 1.0]))
    ids = np.where(changed, other, base)
    if draw(st.booleans()):
        ids = rng.permuted(ids, axis=1)
    if "distinct" not in codec.needs and draw(st.booleans()):
        ids[rng.random(sum(lens)) < 0.3] = num_experts - 1
    tokens = rng.integers(0, 50, sum(lens)).astype(np.int32)
    dictionary = None
    if "dictionary" in codec.needs:
        known = distinct_rows(rng, 60, num_experts, top_k, skew)
        dictionary = dictionary_of(known, num_experts, rng.integers(-3, 30, 60).astype(np.int32))
    return Block(
        np.ascontiguousarray(ids),
        num_experts,
        lens,
        tokens if "tokens" in codec.needs or draw(st.booleans()) else None,
        base if "base" in codec.needs or draw(st.booleans()) else None,
        dictionary if dictionary is None else dictionary.layer(0),
    )


def expected_rows(codec, block):
    """What a codec must give back, in numpy alone."""
    return block.ids_RK if codec.keeps_order else np.sort(block.ids_RK, axis=1)


@every_codec
@thorough
@given(data=st.data())
def test_rows_come_back(name, data):
    """decode(encode(x)) is x, its rows ascending where the codec drops the order; one cell a
    sample; a block without the ids is all that the decoder needs.
    """
    codec = codec_named(name)
    block = data.draw(blocks(codec))
    coded = codec.encode(block)
    assert len(coded.cells) == len(block.lens_S)
    assert all(type(part) is bytes for part in (coded.shared, *coded.cells))
    found = codec.decode(coded, block.about)
    assert found.dtype == block.ids_RK.dtype
    np.testing.assert_array_equal(found, expected_rows(codec, block))
    assert codec.encode(block) == coded


@every_codec
@thorough
@given(data=st.data())
def test_a_sample_decodes_alone(name, data):
    """One cell with what is shared gives its sample's rows, unless the codec is solid."""
    codec = codec_named(name)
    if codec.solid:
        return
    block = data.draw(blocks(codec))
    coded, whole, end = codec.encode(block), expected_rows(codec, block), 0
    for cell, rows in zip(coded.cells, block.lens_S, strict=True):
        part = slice(end, end + rows)
        end += rows
        about = About(
            block.num_experts,
            block.ids_RK.shape[1],
            (rows,),
            None if block.token_ids_R is None else block.token_ids_R[part],
            None if block.base_RK is None else block.base_RK[part],
            block.dictionary,
        )
        found = codec.decode(Coded(coded.shared, (cell,)), about)
        np.testing.assert_array_equal(found, whole[part])


@every_codec
@thorough
@given(data=st.data())
def test_damaged_bytes_are_refused_or_are_rows(name, data):
    """Whatever bytes a decoder is given, it raises an error of ours or gives rows of ids below E,
    in little memory.
    """
    codec = codec_named(name)
    block = data.draw(blocks(codec))
    coded = codec.encode(block)
    parts = [coded.shared, *coded.cells]
    i = data.draw(st.integers(0, len(parts) - 1))
    old = bytearray(parts[i])
    how = data.draw(st.sampled_from(["flip", "cut", "more", "other"]))
    if how == "flip" and old:
        old[data.draw(st.integers(0, len(old) - 1))] ^= data.draw(st.integers(1, 255))
    elif how == "cut":
        del old[data.draw(st.integers(0, len(old))) :]
    elif how == "more":
        old += data.draw(st.binary(min_size=1, max_size=40))
    else:
        old = bytearray(data.draw(st.binary(max_size=200)))
    parts[i] = bytes(old)
    tracemalloc.start()
    try:
        found = codec.decode(Coded(parts[0], tuple(parts[1:])), block.about)
        assert found.shape == block.ids_RK.shape
        assert not found.size or int(found.max()) < block.num_experts
    except (RoutectlError, ValueError):
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 16 << 20


@every_codec
def test_another_number_of_cells_is_refused(name):
    """One cell too many or too few is an error."""
    codec = codec_named(name)
    block = golden_block(codec)
    coded = codec.encode(block)
    for cells in (coded.cells[:-1], (*coded.cells, b""), ()):
        with pytest.raises((RoutectlError, ValueError)):
            codec.decode(Coded(coded.shared, cells), block.about)


@every_codec
def test_bytes_stay_what_they_were(name):
    """The golden block codes to the bytes in fixtures/golden/codecs.json, and they decode."""
    codec = codec_named(name)
    golden = json.loads((FIXTURES / "golden" / "codecs.json").read_text("utf-8"))[name]
    block = golden_block(codec)
    coded = codec.encode(block)
    assert golden["id"] == codec.id
    assert [part.hex() for part in (coded.shared, *coded.cells)] == golden["parts"]
    np.testing.assert_array_equal(codec.decode(coded, block.about), expected_rows(codec, block))


@every_codec
def test_a_version_to_come_is_refused_by_name(name):
    """A codec's id names its version: another one, or another codec, is refused by name."""
    codec = codec_named(name)
    assert codec_of(codec.id) is codec
    future = f"{name}/{codec.version + 1}"
    with pytest.raises(UnsupportedError, match=f"'{future}'.*reads {codec.id}"):
        codec_of(future)
    for other in ("rans/1", "", name, f"{name}/", f"{name}/01", f"{name}/1/1"):
        with pytest.raises(UnsupportedError, match="codec"):
            codec_of(other)


@every_codec
def test_a_codec_says_what_it_needs(name):
    """Needs are words that the container knows, and each fallback needs less, down to none."""
    codec = codec_named(name)
    assert set(codec.needs) <= {"distinct", "tokens", "base", "dictionary"}
    seen = [codec]
    while seen[-1].needs:
        seen.append(codec_named(seen[-1].fallback))
        assert len(seen) <= len(CODECS)


@pytest.mark.parametrize(
    "change",
    [
        {"ids_RK": np.zeros((3, 2), np.uint16)},
        {"ids_RK": np.zeros((2, 2), np.uint8)},
        {"ids_RK": np.zeros((2, 3), np.uint8).T},
        {"lens_S": (2,)},
        {"lens_S": (4, -1)},
        {"num_experts": 1},
        {"token_ids_R": np.zeros(3, np.int64)},
        {"token_ids_R": np.zeros(2, np.int32)},
        {"base_RK": np.zeros((3, 1), np.uint8)},
        {"base_RK": np.zeros((3, 2), np.uint16)},
    ],
)
def test_a_block_is_checked(change):
    """Parts of a block that do not fit together are a ValueError."""
    block = Block(np.zeros((3, 2), np.uint8), 8, (3,))
    with pytest.raises(ValueError, match=r"must be|no block has"):
        dataclasses.replace(block, **change)


@pytest.mark.parametrize("num_experts", [1, 2, 3, 17, 64, 100, 128, 256, 257, 512, 4097, 65536])
def test_packed_is_the_bit_width(num_experts):
    """packed is the binary number that the ids spell, ceil(log2 E) bits each, lowest first."""
    codec, bits = codec_named("packed"), (num_experts - 1).bit_length()
    rng = np.random.default_rng(num_experts)
    for rows in (0, 1, 7, 8, 9, 63, 100):
        ids = rng.integers(0, num_experts, (rows, 1)).astype(ids_dtype(num_experts))
        (cell,) = codec.encode(Block(ids, num_experts, (rows,))).cells
        number = sum(int(one) << (bits * i) for i, one in enumerate(ids[:, 0]))
        assert cell == number.to_bytes(-(-rows * bits // 8), "little")


@pytest.mark.parametrize("rows", range(1, 9))
def test_packed_takes_no_bit_after_the_last_id(rows):
    """packed refuses a cell with a bit set after its last id, wherever in a byte that ends."""
    codec = codec_named("packed")
    block = Block(np.ones((2 * rows, 1), np.uint8), 2, (rows, rows))
    first, last = codec.encode(block).cells
    found = codec.decode(Coded(b"", (first, last)), block.about)
    np.testing.assert_array_equal(found, block.ids_RK)
    for bit in range(rows, 8):
        with pytest.raises(ValueError, match="after the last id are not 0"):
            codec.decode(Coded(b"", (first, bytes([last[0] | 1 << bit]))), block.about)


def test_delta_is_near_what_naming_takes():
    """delta takes at most 3 % more than the entropy of which rows differ and which ids swap, on
    uniform swaps of one id; on rows that do not differ under 0.01 bits each.
    """
    codec, rng, rows = codec_named("delta"), np.random.default_rng(1), 1 << 15
    base = distinct_rows(rng, rows, 128, 8, 0.0)
    ids = base.copy()
    hit = np.flatnonzero(rng.random(rows) < 0.1)
    for r in hit:
        ids[r, rng.integers(8)] = rng.choice(np.setdiff1d(np.arange(128), base[r]))
    bits = [
        8 * sum(map(len, codec.encode(Block(rows_RK, 128, (rows,), None, base)).cells))
        for rows_RK in (ids, base)
    ]
    p = len(hit) / rows
    bound = rows * -(p * np.log2(p) + (1 - p) * np.log2(1 - p)) + len(hit) * np.log2(8 * 120)
    assert bound < bits[0] < 1.03 * bound
    assert bits[1] < 0.01 * rows


def test_delta_refuses_another_base():
    """delta refuses a base of which one id differs, even one that no row would show."""
    codec = codec_named("delta")
    block = golden_block(codec)
    coded, base = codec.encode(block), block.base_RK.copy()
    base[30, 2] += 1
    with pytest.raises(RoutectlError, match="other routes"):
        codec.decode(coded, dataclasses.replace(block.about, base_RK=base))


@thorough
@given(top_k=st.sampled_from([1, 2, 3, 8, 10, 22, 63, 64, 65, 100]), seed=st.integers(0, 2**32))
def test_rows_are_sorted_and_brought_back(top_k, seed):
    """Sorting is numpy's; slot orders bring the rows back, in ceil(log2 K!) bits for K = 8."""
    rng = np.random.default_rng(seed)
    dtype = rng.choice([np.uint8, np.uint16])
    ids = rng.integers(0, 200, (int(rng.integers(0, 200)), top_k)).astype(dtype)
    ascending = sorted_rows(ids)
    np.testing.assert_array_equal(ascending, np.sort(ids, axis=1))
    twice = np.array([len(set(row.tolist())) < top_k for row in ids], bool)
    np.testing.assert_array_equal(repeats_in(ascending), twice)
    data = pack_orders(ids)
    assert len(data) == orders_bytes(len(ids), top_k)
    if top_k == 8:
        assert len(data) == 2 * len(ids)
    np.testing.assert_array_equal(ordered_rows(ascending, data), ids)


def test_slot_orders_that_are_none_are_refused():
    """Bytes of another length, or a number of K! and above, are no slot orders."""
    rows = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for data in (b"", b"\0" * 3, b"\xff\x7f"):
        with pytest.raises(ValueError, match=r"slot order|expected"):
            ordered_rows(rows, data)
