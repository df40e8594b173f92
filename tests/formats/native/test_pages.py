"""What pages become in memory: the longest string of a dictionary."""

import pytest

from routectl.formats.native.pages import longest_text


def page_of(texts):
    """Strings as Parquet's PLAIN has them: four bytes of size, then the string."""
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts)


@pytest.mark.parametrize(
    "texts",
    [[], [b""], [b"", b""], [b"one", b"two"], [b"a", b"", b"three", b"four"], [b"ab", b"c"]],
)
def test_the_longest_string(texts):
    """Strings of one size or of many: the longest is found; with a byte less one is cut."""
    page = page_of(texts)
    assert longest_text(page, len(texts)) == max(map(len, texts), default=0)
    assert longest_text(page + b"more", len(texts)) == max(map(len, texts), default=0)
    assert not texts or longest_text(page[:-1], len(texts)) is None
    assert longest_text(page, len(texts) + 1) is None


def test_sizes_that_only_seem_equal():
    """The bytes of one size times their number say nothing where a size between is another."""
    assert longest_text(page_of([b"ab", b"c", b"def"]), 3) == 3
    assert longest_text(page_of([b"ab", b"abcd", b""]), 3) == 4
