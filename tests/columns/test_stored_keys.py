"""Keys that stay in their files: the same as a list of them, read as they are asked for."""

from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routectl.columns.stored_keys import StoredKeys, in_columns
from routectl.dump import Keys, SampleKey, key_of
from routectl.formats.native.container import open_native
from routectl.kernels.digests import hash_many
from support.stored import Store, small_samples, stored, write_small_groups

digests = st.none() | st.binary(min_size=16, max_size=16)
some_keys = st.lists(st.builds(SampleKey, st.none() | st.text(max_size=20), digests, digests))
FIELDS = ("sample_id", "tokens", "prompt")


@given(some_keys, st.integers(1, 4), st.data())
def test_stored_keys_are_a_list(given_keys, run, data):
    """Stored keys give back what lies in the stores, by index, slice and choice."""
    keys = stored(given_keys, run)
    assert len(keys) == len(given_keys)
    assert list(keys) == given_keys == keys
    if given_keys:
        chosen = data.draw(st.lists(st.integers(-len(keys), len(keys) - 1)))
        assert list(keys.take(chosen)) == [given_keys[i] for i in chosen]
    part = data.draw(st.slices(len(keys)))
    assert list(keys[part]) == given_keys[part]
    for beyond in (len(keys), -len(keys) - 1):
        with pytest.raises(IndexError):
            keys[beyond]
        with pytest.raises(IndexError):
            keys.take([beyond])


@given(some_keys, st.integers(1, 4))
def test_columns_are_those_of_keys_in_memory(given_keys, run):
    """A column of digests, or of ids, is that of the same keys in memory, whatever the runs."""
    held, keys = Keys(given_keys), stored(given_keys, run)
    for field in FIELDS:
        for own, other in zip(keys.digests(field), held.digests(field), strict=True):
            assert own.tolist() == other.tolist()
    assert list(keys.ids) == list(held.ids)


def test_a_column_reads_its_field_alone():
    """A column is read once a run, with nothing else; a single key brings in its run once."""
    store = Store([SampleKey(str(n), None, None) for n in range(5)], 2)
    keys = StoredKeys([store])
    assert in_columns(keys) is keys
    keys.digests("sample_id")
    assert list(keys.ids) == ["0", "1", "2", "3", "4"]
    assert store.asked == 2 * [(n, ("sample_id",)) for n in range(3)]
    assert [keys[n].sample_id for n in (2, 3, 4)] == ["2", "3", "4"]
    assert store.asked[6:] == [(1, FIELDS), (2, FIELDS)]


def test_keys_that_hold_read_a_column_once():
    """A column that is asked for again is not read again, and is the same; others are read."""
    store = Store([SampleKey(str(n), None, None) for n in range(5)], 2)
    keys = StoredKeys([store]).holding()
    first = keys.digests("sample_id")
    assert len(store.asked) == 3
    assert keys.digests("sample_id")[0] is first[0]
    assert len(store.asked) == 3
    keys.digests("tokens")
    assert len(store.asked) == 6
    assert first[0].tolist() == StoredKeys([store]).digests("sample_id")[0].tolist()


def test_keys_are_read_within_a_context():
    """A context is entered for each read, and left before the keys are used."""
    inside, seen = [], []

    @contextmanager
    def context():
        inside.append(True)
        yield
        inside.pop()

    keys = stored([SampleKey(str(n), None, None) for n in range(6)], 2).within(context)
    for store in keys.stores:
        seen += [len(inside) for _ in store.read_keys(range(len(store.sizes)), FIELDS)]
    assert seen == [0, 0, 0, 0]
    assert not inside
    assert keys[5].sample_id == "5"


def test_chained_keys():
    """Keys of several dumps follow each other; in memory where all of them are."""
    plain = [SampleKey(str(n), None, None) for n in range(4)]
    held = StoredKeys.chained([plain[:2], Keys(plain[2:])])
    assert isinstance(held, Keys)
    both = StoredKeys.chained([plain[:1], stored(plain[1:3], 1), Keys(plain[3:])])
    assert isinstance(both, StoredKeys)
    assert list(held) == list(both) == plain
    assert both.digests("sample_id")[0].tolist() == held.digests("sample_id")[0].tolist()


@pytest.mark.parametrize("seed", range(3))
def test_keys_of_a_native_file(tmp_path, seed):
    """The keys of a native file are those of its samples' ids and tokens, column by column."""
    samples = list(small_samples(np.random.default_rng(seed), 90))
    write_small_groups(tmp_path / "a.parquet", samples, 200)
    dump = open_native(tmp_path / "a.parquet")
    expected = [key_of(s.sample_id, s.prompt_ids, s.response_ids) for s in samples]
    assert len(dump.keys.stores[0].sizes) > 3
    assert list(dump.keys) == expected
    for field in FIELDS:
        held = Keys(expected).digests(field)
        for read in (dump.keys.digests(field), dump.keys.digests(field, hash_many)):
            for own, other in zip(read, held, strict=True):
                assert own.tolist() == other.tolist()
