"""``set`` and ``context``: held against decoders by the docs, bounds, damage, extreme shapes."""

import contextlib
import hashlib
import time
import tracemalloc
from math import comb, log2
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routectl.codecs.block import About, Block, Coded
from routectl.codecs.context import CODEC as CONTEXT
from routectl.codecs.context_model import functions
from routectl.codecs.set import CODEC as SET
from routectl.errors import FormatError
from support.codec_oracles import LOGS, SQUASH, STRETCH, decode_context, decode_set

FIXTURES = Path(__file__).parent.parent.parent / "fixtures"
CODECS = {"set": SET, "context": CONTEXT}


def draw(rows, experts, top_k, seed=0, spread=1.5):
    """Rows of distinct ids, some experts likelier than others, in any order."""
    rng = np.random.default_rng(seed)
    scores = spread * rng.normal(size=experts) + rng.gumbel(size=(rows, experts))
    ids = np.argsort(-scores, axis=1)[:, :top_k]
    return np.ascontiguousarray(ids.astype(np.uint8 if experts <= 256 else np.uint16))


def follow(rows, experts, top_k, seed=0, vocabulary=9):
    """Tokens, and rows that follow them but for one id."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, vocabulary, rows).astype(np.int32)
    ids = draw(vocabulary, experts, top_k + 1, seed)[tokens]
    drop = np.where(rng.random(rows) < 0.2, 0, top_k)
    keep = np.arange(top_k + 1) != drop[:, None]
    return tokens, np.ascontiguousarray(ids[keep].reshape(rows, top_k))


def block_of(ids, experts, lens=None, tokens=None):
    """A block; tokens are zeros where none are given."""
    tokens = np.zeros(len(ids), np.int32) if tokens is None else tokens
    return Block(ids, experts, lens or (len(ids),), tokens)


def by_docs(name, coded, block):
    """What the decoder by the docs makes of the bytes."""
    about = block.about
    args = (coded.shared, coded.cells, about.lens_S, about.num_experts, about.top_k)
    if name == "set":
        return decode_set(*args)
    return decode_context(*args, block.token_ids_R.tolist())


def size_of(coded):
    """Bits of all parts."""
    return 8 * (len(coded.shared) + sum(map(len, coded.cells)))


SHAPES = [
    (0, 4, 2),
    (1, 1, 1),
    (1, 8, 8),
    (3, 2, 1),
    (40, 2, 2),
    (700, 2, 1),
    (300, 32, 4),
    (600, 64, 6),
    (90, 300, 10),
    (40, 65536, 3),
    (2, 65536, 5),
    (40, 70, 68),
    (12, 256, 256),
    (300, 256, 8),
    (30, 1024, 5),
    (64, 1025, 2),
]


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize(("rows", "experts", "top_k"), SHAPES)
def test_the_docs_suffice(name, rows, experts, top_k):
    """A decoder written from docs/codecs/ alone gives the same rows, ascending."""
    ids = draw(rows, experts, top_k)
    lens = (rows // 3, 0, rows - rows // 3)
    block = block_of(ids, experts, lens, np.arange(rows, dtype=np.int32) // 2 % 7)
    coded = CODECS[name].encode(block)
    assert np.array_equal(CODECS[name].decode(coded, block.about), np.sort(ids, axis=1))
    assert by_docs(name, coded, block) == np.sort(ids, axis=1).tolist()


@pytest.mark.parametrize(("rows", "experts", "top_k"), [(600, 16, 3), (400, 40, 2), (40, 9, 8)])
def test_the_docs_suffice_where_tokens_say_much(rows, experts, top_k):
    """Rows that follow their tokens are modelled, and a decoder by the docs agrees."""
    tokens, ids = follow(rows, experts, top_k)
    block = block_of(ids, experts, (rows // 2, rows - rows // 2), tokens)
    coded = CONTEXT.encode(block)
    assert coded.shared == b"\0"
    assert by_docs("context", coded, block) == np.sort(ids, axis=1).tolist()
    assert np.array_equal(CONTEXT.decode(coded, block.about), np.sort(ids, axis=1))


def test_functions_are_those_of_the_docs():
    """The integer tables equal those of correctly rounded decimal arithmetic."""
    assert functions().squash.tolist() == [SQUASH[x] for x in range(-2048, 2048)]
    assert functions().stretch.tolist() == STRETCH
    assert functions().logs.tolist() == LOGS


@pytest.mark.parametrize("contexts", [0, 1, 2, 3, 4])
def test_every_number_of_contexts_is_taken(contexts):
    """The more the slots depend on each other, the more contexts are counted; all decode."""
    rng = np.random.default_rng(contexts)
    groups = rng.permutation(64).astype(np.uint8).reshape(16, 4)
    rows = (200, 700, 2000, 8000, 60000)[contexts]
    pick = rng.integers(0, (2, 3, 5, 9, 16)[contexts], rows)
    noise = draw(rows, 64, 4, spread=0.3)
    ids = np.where((rng.random(rows) < 0.7)[:, None], groups[pick], noise)
    block = block_of(np.ascontiguousarray(ids), 64)
    coded = SET.encode(block)
    assert np.array_equal(SET.decode(coded, block.about), np.sort(ids, axis=1))
    if rows < 1000:
        assert by_docs("set", coded, block) == np.sort(ids, axis=1).tolist()


@settings(max_examples=30, deadline=None)
@given(st.data())
@pytest.mark.parametrize("name", CODECS)
def test_round_trips(name, data):
    """decode(encode(x)) is x with each row ascending, whatever the shape, lens and tokens."""
    experts = data.draw(st.integers(1, 40) | st.sampled_from([256, 257, 1024, 65536]))
    top_k = data.draw(st.integers(1, min(experts, 70)))
    lens = tuple(data.draw(st.lists(st.integers(0, 90), max_size=4)))
    seed = data.draw(st.integers(0, 99))
    rows = sum(lens) if top_k * experts < 100_000 else 0
    lens = lens if rows else (0,) * len(lens)
    ids = draw(rows, experts, top_k, seed, data.draw(st.sampled_from([0.0, 2.0, 9.0])))
    tokens = np.random.default_rng(seed).integers(-(2**31), 2**31 - 1, rows, np.int32)
    tokens %= np.int32(data.draw(st.sampled_from([1, 5, 2**31 - 1])))
    block = Block(ids, experts, lens, tokens)
    coded = CODECS[name].encode(block)
    assert len(coded.cells) == len(lens)
    assert all(not cell for cell, n in zip(coded.cells, lens, strict=True) if n == 0)
    decoded = CODECS[name].decode(coded, block.about)
    assert decoded.dtype == ids.dtype
    assert np.array_equal(decoded, np.sort(ids, axis=1))


def test_a_cell_of_set_decodes_alone():
    """Each sample of ``set`` decodes with the shared bytes and its own cell."""
    ids, lens = draw(1500, 32, 4), (400, 0, 600, 500)
    coded = SET.encode(block_of(ids, 32, lens))
    at = 0
    for cell, rows in zip(coded.cells, lens, strict=True):
        alone = SET.decode(Coded(coded.shared, (cell,)), About(32, 4, (rows,)))
        assert np.array_equal(alone, np.sort(ids[at : at + rows], axis=1))
        at += rows


def test_a_context_needs_only_what_is_before():
    """Cutting the samples after one, cells and all, changes no row up to it."""
    tokens, ids = follow(900, 16, 3)
    block = block_of(ids, 16, (300, 300, 300), tokens)
    coded = CONTEXT.encode(block)
    cells = (*coded.cells[:2], b"")
    with pytest.raises(FormatError):
        CONTEXT.decode(Coded(coded.shared, (*coded.cells[:2], b"\1" * 4000)), block.about)
    rows = CONTEXT.decode(Coded(coded.shared, cells), block.about)
    assert np.array_equal(rows[:600], np.sort(ids[:600], axis=1))


@pytest.mark.parametrize(("experts", "top_k"), [(128, 8), (64, 6), (32, 4), (256, 8), (512, 10)])
@pytest.mark.parametrize("name", CODECS)
def test_even_routes_cost_at_most_2_per_cent_over_the_bound(name, experts, top_k):
    """Uniform routes take at most 1.02 x log2 C(E, K) bits a set, models and states included."""
    ids = draw(4000, experts, top_k, spread=0)
    bits = size_of(CODECS[name].encode(block_of(ids, experts, (1000,) * 4)))
    assert bits / 4000 <= 1.02 * log2(comb(experts, top_k))


def conditional_bernoulli_bits(ids, experts):
    """Bits a row of the set distribution with the rows' inclusion frequencies, nothing else.

    By fixed-point iteration of the odds, with elementary symmetric functions of the others.
    """
    rows, top_k = ids.shape
    share = np.bincount(ids.ravel(), minlength=experts) / rows
    odds = share / (1 - share + 1e-9) + 1e-12
    for _ in range(200):
        ahead, back = np.zeros((experts + 1, top_k + 1)), np.zeros((experts + 1, top_k + 1))
        ahead[0, 0] = back[experts, 0] = 1
        for e in range(experts):
            ahead[e + 1] = ahead[e]
            ahead[e + 1, 1:] += odds[e] * ahead[e, :-1]
            b = experts - 1 - e
            back[b] = back[b + 1]
            back[b, 1:] += odds[b] * back[b + 1, :-1]
        others = [ahead[e, :top_k] @ back[e + 1, top_k - 1 :: -1][:top_k] for e in range(experts)]
        included = odds * np.array(others) / ahead[experts, top_k]
        odds *= (share + 1e-12) / (included + 1e-12)
    return float(np.log2(ahead[experts, top_k]) - (share * np.log2(odds)).sum())


def recorded_layers():
    """(ids, lens, tokens) of each layer of the trained model's routes."""
    with np.load(FIXTURES / "tiny_rl/routes_v0.fp32.npz") as file:
        names = sorted(n.split(".")[0] for n in file.files if n.endswith("routed_experts"))
        parts = [file[f"{n}.routed_experts"] for n in names]
        tokens = [
            np.concatenate([file[f"{n}.prompt_token_ids"], file[f"{n}.token_ids"]])[: len(part)]
            for n, part in zip(names, parts, strict=True)
        ]
    ids, lens = np.concatenate(parts), tuple(len(part) for part in parts)
    return [
        (np.ascontiguousarray(ids[:, layer]), lens, np.concatenate(tokens).astype(np.int32))
        for layer in range(ids.shape[1])
    ]


def test_recorded_routes_are_near_or_below_their_order_0_entropy():
    """On a trained model's routes ``set`` is near the bound, ``context`` half of ``set``."""
    for ids, lens, tokens in recorded_layers():
        block = Block(ids, 32, lens, tokens)
        by_set, by_context = SET.encode(block), CONTEXT.encode(block)
        assert size_of(by_set) / len(ids) <= 1.04 * conditional_bernoulli_bits(ids, 32)
        assert size_of(by_context) <= 0.5 * size_of(by_set)
        for codec, coded in ((SET, by_set), (CONTEXT, by_context)):
            assert np.array_equal(codec.decode(coded, block.about), np.sort(ids, axis=1))


GOLDEN = {
    "set": "6f63a47bb9af9a66c4d97f120bb57d1bd0058328ec5e8066ac4e00d156f23666",
    "context": "7ffc9659f3f61b3a3fe19a6ee205e1118e84f7941b57faed46f141f59bd4e3b0",
    "even": "cd9ce2dbdda97d34021b6bf80be69cb6ab518cc6c1be6c996dcac02429e7a04b",
}


def golden(name):
    """Bytes of fixed rows, made by a formula."""
    rows = np.arange(3000)
    first = rows * 7 % 23
    ids = np.stack([first, first + 1 + rows % 5, first + 30 + rows % 11], 1).astype(np.uint8)
    tokens = (first * 3 + rows % 5).astype(np.int32)
    if name == "even":
        ids = ((rows[:, None] * 131071 >> np.array([0, 3, 5])) % 21 + [0, 21, 42]).astype(np.uint8)
    lens = (1000, 0, 1999, 1)
    if name == "even":
        ids, tokens, lens = ids[:20], tokens[:20], (20,)
    block = Block(ids, 64, lens, tokens)
    coded = CONTEXT.encode(block) if name == "context" else SET.encode(block)
    return coded.shared, coded.cells


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_bytes(name):
    """The bytes of fixed rows are what they were when version 1 was fixed."""
    shared, cells = golden(name)
    found = hashlib.sha256(b"|".join([shared, *cells])).hexdigest()
    assert found == GOLDEN[name]


def quick(call):
    """Call, compiled before; within a second and 100 MB."""
    with contextlib.suppress(FormatError):
        call()
    tracemalloc.start()
    begin = time.perf_counter()
    try:
        return call()
    finally:
        assert time.perf_counter() - begin < 1
        assert tracemalloc.get_traced_memory()[1] < 100e6
        tracemalloc.stop()


@settings(max_examples=40, deadline=None)
@given(st.data())
@pytest.mark.parametrize("name", CODECS)
def test_damage_is_refused_or_gives_legal_rows(name, data):
    """Flipped, cut or lengthened bytes raise FormatError, or give distinct ids below E, at once."""
    codec = CODECS[name]
    tokens, ids = follow(300, 16, 3)
    block = block_of(ids, 16, (100, 200), tokens)
    coded = codec.encode(block)
    parts = [bytearray(part) for part in (coded.shared, *coded.cells)]
    part = parts[data.draw(st.integers(0, 2))]
    kind = data.draw(st.sampled_from(["flip", "cut", "add", "random"]))
    at = data.draw(st.integers(0, max(len(part) - 1, 0)))
    if kind == "flip" and part:
        part[at] ^= data.draw(st.integers(1, 255))
    elif kind == "cut":
        del part[at:]
    elif kind == "add":
        part += data.draw(st.binary(min_size=1, max_size=9))
    else:
        part[:] = data.draw(st.binary(max_size=60))
    damaged = Coded(bytes(parts[0]), tuple(bytes(p) for p in parts[1:]))
    try:
        begin = time.perf_counter()
        rows = codec.decode(damaged, block.about)
        assert time.perf_counter() - begin < 1
    except FormatError:
        return
    assert rows.shape == ids.shape
    assert int(rows.max()) < 16
    if name == "context":
        assert (np.diff(rows.astype(int), axis=1) > 0).all()


def test_set_finds_flipped_bits_in_cells():
    """Of all single flipped bits in a cell of ``set``, few go unseen: the states tell."""
    ids = draw(60, 32, 4)
    block = block_of(ids, 32)
    coded = SET.encode(block)
    unseen = 0
    for i in range(8 * len(coded.cells[0])):
        cell = bytearray(coded.cells[0])
        cell[i // 8] ^= 1 << i % 8
        try:
            SET.decode(Coded(coded.shared, (bytes(cell),)), block.about)
            unseen += 1
        except FormatError:
            pass
    assert unseen <= 0.02 * 8 * len(coded.cells[0])


@pytest.mark.parametrize(
    "shared",
    [
        b"",
        b"\6",
        b"\5x",
        b"\xff",
        b"\0",
        b"\4" + b"\xff" * 40,
        b"\0" + b"\xff" * 4000,
        b"\4\2\0\0\0",
    ],
)
def test_shared_bytes_that_are_no_model(shared):
    """Shared bytes that no writer makes are a FormatError of set, however great what they claim."""
    with pytest.raises(FormatError, match="set"):
        quick(lambda: SET.decode(Coded(shared, (b"\0" * 64,)), About(128, 8, (10,))))


def test_misuse():
    """An id twice in a row, an id that is E, or no tokens for ``context`` are ValueErrors."""
    twice = np.array([[1, 1]], np.uint8)
    with pytest.raises(ValueError, match="twice"):
        SET.encode(block_of(twice, 4))
    with pytest.raises(ValueError, match="not below num_experts 4"):
        SET.encode(block_of(np.array([[1, 4]], np.uint8), 4))
    with pytest.raises(ValueError, match="token_ids_R"):
        CONTEXT.encode(Block(draw(3, 4, 2), 4, (3,)))
    with pytest.raises(ValueError, match="token_ids_R"):
        CONTEXT.decode(Coded(b"\0", (b"",)), About(4, 2, (1,)))
    with pytest.raises(FormatError, match="no way of coding"):
        CONTEXT.decode(Coded(b"\2", (b"",)), About(4, 2, (1,)))
