"""Text of others, shown: nothing moves a cursor, ends a line or begins a command."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routectl.errors import FormatError
from routectl.visible import visible


@pytest.mark.parametrize(
    ("foreign", "shown"),
    [
        ("plain", "plain"),
        ("a\nb\r\tc", "a\\nb\\r\\tc"),
        ("\x1b[2J\x9b31m\x00\x7f", "\\x1b[2J\\x9b31m\\x00\\x7f"),
        ("\u202eabc\u2066\u200b\ufeff", "\\u202eabc\\u2066\\u200b\\ufeff"),
        ("a\u2028b\u2029c\x85", "a\\u2028b\\u2029c\\x85"),
        ("\ud800", "\\ud800"),
        ("\U000e0001", "\\U000e0001"),
        ("日本語\u3000é ß", "日本語\u3000é ß"),
        ("::error::x", "\\x3a:error::x"),
        ("::error file=a,line=1::x", "\\x3a:error file=a,line=1::x"),
        ("##[error]x", "\\x23#[error]x"),
        ("std::vector", "std::vector"),
    ],
)
def test_what_does_not_show_is_escaped(foreign, shown):
    """Each character that is not seen as itself is its escape; a workflow command is broken."""
    assert visible(foreign) == shown


@given(st.text(st.characters(codec=None)))
def test_any_text_is_one_printable_line(foreign):
    """Whatever the text, what is shown is one line that UTF-8 holds, without a control."""
    shown = visible(foreign)
    assert len(shown.splitlines()) <= 1
    assert not [c for c in shown.encode().decode() if not c.isprintable() and c.strip()]


def test_long_text_is_cut():
    """Beyond the length that is given text ends in an ellipsis."""
    assert visible("x" * 9, most=4) == "xxxx…"


def test_errors_are_visible():
    """An error makes what it quotes visible, its hint's too."""
    error = FormatError("a\n\x1b[0m: wrong", hint="\u202e")
    assert (str(error), error.hint) == ("a\\n\\x1b[0m: wrong", "\\u202e")
