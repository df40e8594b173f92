"""Keys of samples in columns: the same as a list of them, in a tenth of the memory."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routectl.dump import Keys, SampleKey, digest_tokens, key_of
from routectl.keys import Texts

digests = st.none() | st.binary(min_size=16, max_size=16)
some_keys = st.lists(st.builds(SampleKey, st.none() | st.text(max_size=5), digests, digests))


@given(some_keys, st.data())
def test_keys_are_a_list(given_keys, data):
    """Keys give back what was put in, by index, slice and choice."""
    keys = Keys(given_keys)
    assert list(keys) == given_keys == keys
    assert list(reversed(keys)) == given_keys[::-1]
    if given_keys:
        chosen = data.draw(st.lists(st.integers(-len(keys), len(keys) - 1)))
        assert list(keys.take(chosen)) == [given_keys[i] for i in chosen]
    part = data.draw(st.slices(len(keys)))
    assert list(keys[part]) == given_keys[part]
    with pytest.raises(IndexError):
        keys[len(keys)]


@given(some_keys)
def test_columns_tell_what_is_equal(given_keys):
    """Digests of a column are equal where the field is, and known where it is not None."""
    keys = Keys(given_keys)
    for field in ("sample_id", "tokens", "prompt"):
        found, known = keys.digests(field)
        values = [getattr(key, field) for key in given_keys]
        assert known.tolist() == [value is not None for value in values]
        there = [(f, v) for f, v, k in zip(found, values, known, strict=True) if k]
        assert all((a[0] == b[0]).all() == (a[1] == b[1]) for a in there for b in there)


def test_texts_hold_what_utf8_does_not():
    """Half of a surrogate pair comes back as it was; a text is not the same as none."""
    given_texts = ["", None, "\ud800", "a\x00b", "ß"]
    assert list(Texts(given_texts)) == given_texts
    assert Texts([""]) != Texts([None])


def test_key_of_what_is_known():
    """A key has a digest of the prompt alone, and of all tokens where the response is known."""
    prompt, response = np.array([1, 2], np.int32), np.array([3], np.int32)
    whole = digest_tokens(np.array([1, 2, 3], np.int32))
    assert key_of("a", prompt, response) == SampleKey("a", whole, digest_tokens(prompt))
    assert key_of(None, prompt, None) == SampleKey(None, None, digest_tokens(prompt))
    assert key_of("a", None, response) == SampleKey("a", None, None)


def test_another_digest_is_refused():
    """A digest of another size would shift all that follow: it is refused."""
    with pytest.raises(ValueError, match="16 bytes"):
        Keys([SampleKey("a", b"short", None)])


def test_a_key_takes_bytes_not_objects():
    """A key with an id of nine letters and both digests takes at most 70 bytes."""
    key = key_of("sample-01", np.array([1], np.int32), np.array([2], np.int32))
    tracemalloc.start()
    try:
        keys = Keys(key for _ in range(20_000))
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < 70 * len(keys)
