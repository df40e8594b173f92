"""``token``: held against a decoder by the docs and bounds in numpy; hostile dictionaries."""

import dataclasses
import hashlib
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from routectl.codecs.block import Block, Coded
from routectl.codecs.dictionary import TokenDictionary
from routectl.codecs.dictionary_tables import TableSizes
from routectl.codecs.set import CODEC as SET
from routectl.codecs.token import CODEC as TOKEN
from routectl.codecs.token_training import CLASSES, Training
from routectl.errors import FormatError, MismatchError, UnsupportedError
from support.blocks import GOLDEN_DICTIONARY, dictionary_of
from support.recordings import FIXTURES
from support.token_oracle import bound_bits, decode_token, read_dictionary

TINY = FIXTURES / "tiny_rl"
thorough = settings(
    max_examples=60, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck)
)


def follow(rows, experts, top_k, seed=0, vocabulary=40):
    """Tokens, and rows that follow them but for one or two ids; of any order of ids."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, vocabulary, rows).astype(np.int32)
    liking = 3 * rng.normal(size=(vocabulary, experts))
    scores = liking[tokens] + rng.gumbel(size=(rows, experts))
    ids = np.argsort(-scores, axis=1)[:, :top_k]
    return tokens, np.ascontiguousarray(ids.astype(np.uint8 if experts <= 256 else np.uint16))


def block_of(ids, experts, tokens, dictionary, lens=None):
    """A block of layer 0."""
    return Block(ids, experts, lens or (len(ids),), tokens, None, dictionary.layer(0))


def size_of(coded):
    """Bytes of all parts."""
    return len(coded.shared) + sum(map(len, coded.cells))


def from_tiny(version, first):
    """Every other sample of tiny_rl as a version routes it: (ids [R, L, K], tokens [R], lens)."""
    ids, tokens = [], []
    with np.load(TINY / f"routes_v{version}.fp32.npz") as file:
        names = sorted(n.split(".")[0] for n in file.files if n.endswith("routed_experts"))
        for name in names[first::2]:
            ids.append(file[f"{name}.routed_experts"])
            whole = [file[f"{name}.prompt_token_ids"], file[f"{name}.token_ids"]]
            tokens.append(np.concatenate(whole)[: len(ids[-1])].astype(np.int32))
    return ids, tokens


def learnt(ids, tokens):
    """The dictionary of tiny_rl's samples, all layers."""
    seen = np.flatnonzero(np.bincount(np.concatenate(tokens)) > 1)
    training = Training(TableSizes(32, 4, CLASSES), seen, 6, own=False)
    for take in (training.count, training.tabulate):
        for i, (rows, of) in enumerate(zip(ids, tokens, strict=True)):
            take(i, rows, of, np.ones(rows.shape[:2], bool))
        if take == training.count:
            training.rank()
    return training.dictionary(tuple(range(6)))


SHAPES = [
    (0, 4, 2),
    (1, 1, 1),
    (1, 8, 8),
    (40, 2, 1),
    (700, 30, 4),
    (600, 128, 8),
    (90, 300, 10),
    (40, 1024, 3),
    (40, 70, 68),
    (300, 256, 8),
    (64, 1025, 2),
]


@pytest.mark.parametrize(("rows", "experts", "top_k"), SHAPES)
def test_the_docs_suffice(rows, experts, top_k):
    """A decoder written from docs/codecs/token.md alone gives the same rows, ascending, of tokens
    that are known and of those that are not.
    """
    tokens, ids = follow(rows + 200, experts, top_k)
    if experts > 1024:
        dictionary = None
        block = Block(ids, experts, (len(ids),), tokens)
    else:
        known = tokens[:200] % 37  # three tokens of forty are new
        dictionary = dictionary_of(ids[:200], experts, known, own=False)
        lens = (rows // 3, 0, rows - rows // 3)
        block = block_of(ids[200:], experts, tokens[200:], dictionary, lens)
    coded, about = TOKEN.encode(block), block.about
    wanted = np.sort(block.ids_RK, axis=1)
    assert np.array_equal(TOKEN.decode(coded, about), wanted)
    data = b"" if dictionary is None else dictionary.data
    args = (coded.shared, coded.cells, about.lens_S, experts, top_k)
    assert decode_token(*args, about.token_ids_R.tolist(), data) == wanted.tolist()


def test_the_docs_suffice_where_the_dictionary_is_used():
    """Rows that follow their tokens are coded by the dictionary, of one state and of four, with
    ranks beyond the list; a decoder by the docs agrees.
    """
    for experts, top_k, rows in ((64, 4, 900), (300, 8, 600), (1024, 12, 120)):
        tokens, ids = follow(2 * rows, experts, top_k)
        dictionary = dictionary_of(ids[:rows], experts, tokens[:rows], own=False)
        block = block_of(ids[rows:], experts, tokens[rows:], dictionary, (rows - 60, 60))
        coded = TOKEN.encode(block)
        assert coded.shared == b"\0" + dictionary.digest
        args = (coded.shared, coded.cells, block.lens_S, experts, top_k)
        found = decode_token(*args, block.token_ids_R.tolist(), dictionary.data)
        assert found == np.sort(block.ids_RK, axis=1).tolist()


def test_a_dictionary_is_its_bytes():
    """A dictionary that is read and written again is the same; the docs' reader finds in it what
    ours does.
    """
    dictionary = TokenDictionary(GOLDEN_DICTIONARY.read_bytes())
    facts = dictionary.layer(0).facts
    tokens = np.flatnonzero(dictionary.layer(0).places_V)
    again = TokenDictionary.of(dictionary.sizes, tokens, {0: facts})
    assert again.data == dictionary.data
    experts, top_k, layers = read_dictionary(dictionary.data)
    order, masks, gaps, entries = layers[0]
    assert (experts, top_k) == dictionary.sizes[:2]
    assert order == facts.order_E.tolist()
    for mine, other in ((facts.masks_TA, masks), (facts.gaps_TA, gaps)):
        assert [{a: f for a, f in enumerate(row) if f} for row in mine.tolist()] == other
    found = dict(zip(facts.classes_N[1:].tolist(), facts.lists_NM[1:].tolist(), strict=False))
    assert sorted(entries) == tokens.tolist()
    assert found == dict(entries.values())


def test_tokens_are_worth_what_they_tell():
    """With a dictionary of every other sample, the rest of tiny_rl takes half of ``set`` and at
    most an eighth more than the odds of each token allow; eight steps of training cost a twentieth.
    """
    ids, tokens = from_tiny(0, 0)
    dictionary, seen = learnt(ids, tokens), (np.concatenate(ids), np.concatenate(tokens))
    sizes = []
    for version in (0, 2):
        parts, of = from_tiny(version, 1)
        rows, of = np.concatenate(parts), np.concatenate(of)
        bits = []
        for layer in range(6):
            lens = tuple(len(part) for part in parts)
            part = np.ascontiguousarray(rows[:, layer])
            block = Block(part, 32, lens, of, None, dictionary.layer(layer))
            by_layer, by_token = (
                bound_bits((seen[0][:, layer], seen[1]), (part, of), 32, prior)
                for prior in (None, 1.0)
            )
            bits.append(
                (
                    8 * size_of(TOKEN.encode(block)) / len(of),
                    8 * size_of(SET.encode(block)) / len(of),
                    by_token,
                    by_layer,
                )
            )
        by_us, by_set, by_token, by_layer = np.mean(bits, axis=0)
        assert by_us < 0.53 * by_set < by_layer
        sizes.append((by_us, by_token))
    assert sizes[0][1] < sizes[0][0] < 1.125 * sizes[0][1]
    assert sizes[1][0] < 1.05 * sizes[0][0]


@pytest.mark.parametrize("what", ["shuffled", "even", "unknown", "moved"])
def test_never_above_set(what):
    """Where tokens tell nothing, ``token`` takes what ``set`` does, and a byte: tokens shuffled,
    even routes, tokens that the dictionary lacks, experts that have moved.
    """
    tokens, ids = follow(20_000, 64, 4)
    dictionary = dictionary_of(ids[:10_000], 64, tokens[:10_000], own=False)
    tokens, ids = tokens[10_000:], ids[10_000:]
    rng = np.random.default_rng(1)
    if what == "shuffled":
        tokens = rng.permutation(tokens)
    elif what == "even":
        ids = np.argsort(rng.random((10_000, 64)), axis=1)[:, :4].astype(np.uint8)
    elif what == "unknown":
        tokens = rng.choice(np.array([-5, 40, 1 << 30], np.int32), 10_000)
    else:
        ids = rng.permutation(64)[ids].astype(np.uint8)
    block = block_of(np.ascontiguousarray(ids), 64, tokens, dictionary)
    coded = TOKEN.encode(block)
    assert size_of(coded) <= 1 + size_of(SET.encode(dataclasses.replace(block, dictionary=None)))
    assert np.array_equal(TOKEN.decode(coded, block.about), np.sort(ids, axis=1))


def test_another_dictionary_is_refused():
    """A cell is decoded with the dictionary that it was coded with, and with no other or none."""
    tokens, ids = follow(600, 64, 4)
    dictionary, other = (dictionary_of(ids[i:], 64, tokens[i:]) for i in (0, 1))
    block = block_of(ids, 64, tokens, dictionary)
    coded = TOKEN.encode(block)
    assert coded.shared[1:] == dictionary.digest
    for given_layer, said in ((other.layer(0), other.digest.hex()), (None, "none is given")):
        about = dataclasses.replace(block.about, dictionary=given_layer)
        with pytest.raises(MismatchError, match=dictionary.digest.hex()) as caught:
            TOKEN.decode(coded, about)
        assert said in str(caught.value)


def test_ids_twice_are_refused():
    """A row with an id twice is no set: neither coded nor given back."""
    tokens, ids = follow(50, 64, 4)
    dictionary = dictionary_of(ids, 64, tokens)
    ids[7, 3] = ids[7, 0]
    with pytest.raises(ValueError, match="twice"):
        TOKEN.encode(block_of(ids, 64, tokens, dictionary))


def sealed(data):
    """Bytes with the digest that they should have."""
    return bytes(data) + hashlib.blake2b(bytes(data), digest_size=16).digest()


def test_dictionaries_that_are_none_are_refused():
    """Other bytes, a version to come, a wrong digest, sizes out of bounds, tokens and layers that
    do not ascend, bytes too many or too few: each is told.
    """
    data = GOLDEN_DICTIONARY.read_bytes()
    with pytest.raises(FormatError, match="no dictionary of routectl"):
        TokenDictionary(b"PAR1" + data)
    future = data.replace(b"dictionary/1\n", b"dictionary/2\n")
    with pytest.raises(UnsupportedError, match=r"'routectl-dictionary/2': .*/1 is read"):
        TokenDictionary(future)
    for wrong in (data[:-1], data[:60], data[:-20] + b"\0" + data[-19:], data[:22]):
        with pytest.raises(FormatError, match="damaged"):
            TokenDictionary(wrong)
    body = data[:-16]
    for at, value in ((22, 0), (22, 1025), (26, 129), (30, 0), (30, 1 << 30), (34, 1 << 31)):
        changed = bytearray(body)
        changed[at : at + 4] = value.to_bytes(4, "little")
        with pytest.raises(FormatError, match="damaged"):
            TokenDictionary(sealed(changed))
    for changed in (body[:46] + body[50:54] + body[46:50] + body[54:], body + b"\0", body[:-1]):
        with pytest.raises(FormatError, match="damaged"):
            TokenDictionary(sealed(changed))
    with pytest.raises(FormatError, match="no layer 1"):
        TokenDictionary(data).layer(1)


@thorough
@given(data=st.data())
def test_hostile_dictionaries_are_refused_or_code(data):
    """A dictionary whose bytes were changed, its digest made to fit, is refused, or codes rows and
    gives them back; in little memory.
    """
    changed = bytearray(GOLDEN_DICTIONARY.read_bytes()[:-16])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(22, len(changed) - 1) | st.integers(22, 200))
        changed[at] ^= data.draw(st.integers(1, 255))
    tokens, ids = follow(80, 128, 8, vocabulary=30)
    tracemalloc.start()
    try:
        dictionary = TokenDictionary(sealed(changed))
        layer = dictionary.layer(dictionary.layers[0])
        block = Block(ids, 128, (80,), tokens, None, layer)
        coded = TOKEN.encode(block)
        assert np.array_equal(TOKEN.decode(coded, block.about), np.sort(ids, axis=1))
    except (FormatError, ValueError):
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 64 << 20


def test_damaged_cells_are_refused():
    """A bit that is flipped in a cell of the dictionary's is noticed, or other rows come of it
    that are sets of ids below E.
    """
    tokens, ids = follow(300, 64, 4)
    block = block_of(ids, 64, tokens, dictionary_of(ids, 64, tokens))
    coded = TOKEN.encode(block)
    refused = 0
    for bit in range(0, 8 * len(coded.cells[0]), 7):
        cell = bytearray(coded.cells[0])
        cell[bit // 8] ^= 1 << bit % 8
        try:
            found = TOKEN.decode(Coded(coded.shared, (bytes(cell),)), block.about)
            assert (np.diff(found.astype(int), axis=1) > 0).all()
            assert found.max() < 64
        except FormatError:
            refused += 1
    assert refused > 0.99 * len(range(0, 8 * len(coded.cells[0]), 7))


def test_cells_are_decoded_by_several_threads():
    """Cells decoded alone, by four threads that open one dictionary together, are the block's."""
    tokens, ids = follow(1600, 64, 4)
    data = dictionary_of(ids, 64, tokens).data
    block = block_of(ids, 64, tokens, TokenDictionary(data), (400,) * 4)
    coded, fresh = TOKEN.encode(block), TokenDictionary(data)

    def rows(i):
        part = tokens[400 * i : 400 * i + 400]
        about = dataclasses.replace(
            block.about, lens_S=(400,), token_ids_R=part, dictionary=fresh.layer(0)
        )
        return TOKEN.decode(Coded(coded.shared, (coded.cells[i],)), about)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(rows, range(4)))
    assert np.array_equal(np.concatenate(found), np.sort(ids, axis=1))
