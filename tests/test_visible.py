"""Text of others, shown: nothing moves a cursor, ends a line or begins a command."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routectl.errors import FormatError
from routectl.jobs.progress import Progress
from routectl.reports.document import to_json, to_line, visible_document
from routectl.visible import quoted, visible
from support.poison import POISONS, faults_of


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
        ("a ::GROUP::x", "a \\x3a:GROUP::x"),
        (":error::x", "\\x3aerror::x"),  # behind a colon of ours
        ("::error", "\\x3a:error"),  # before two colons of ours
        ("###[group]", "#\\x23#[group]"),
        ("##vso[task.x]", "\\x23#vso[task.x]"),
        ("##teamcity[x]", "\\x23#teamcity[x]"),
        ("section_start:1:x", "section_start\\x3a1:x"),
        ("std::vector", "std::vector"),
        ("# a heading: [x]", "# a heading: [x]"),
        ("a\ufe0f\u3164\u115fb", "a\\ufe0f\\u3164\\u115fb"),
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


@given(st.text(st.sampled_from(":#[]e\x1b\n\ufe0f x…") | st.characters(codec=None)), st.data())
def test_what_is_visible_stays(foreign, data):
    """Shown twice is shown once, whatever is cut; and it is as long as it may be, or shorter."""
    most = data.draw(st.integers(4, 40))
    end = data.draw(st.integers(0, most - 4))
    shown = visible(foreign, most, end=end)
    assert visible(shown, most, end=end) == shown
    assert len(shown) <= most + 1


@pytest.mark.parametrize("foreign", POISONS.values(), ids=POISONS)
def test_no_reader_of_logs_is_moved(foreign):
    """By the rules of runners, terminals and Unicode, what is shown is text, wherever it is cut."""
    shown = visible(foreign)
    assert faults_of(shown) == []
    for at in range(0, min(len(shown), 500)):
        assert faults_of(shown[at:]) == [], at


def test_long_text_is_cut():
    """Beyond the length that is given text ends in an ellipsis, or has one before its end."""
    assert visible("x" * 9, most=4) == "xxxx…"
    assert visible("abcdefghi", most=4, end=2) == "ab…hi"


def test_a_value_is_quoted_without_being_written_out():
    """The repr of a value, cut; of a list of millions, or of one in itself, as quickly."""
    assert quoted({"a": [1, "x"]}) == "{'a': [1, 'x']}"
    assert quoted("\x1b" * 99, 9) == "'\\x1b\\x1b…"
    deep = []
    for _ in range(100_000):
        deep = [deep]
    for value in (list(range(1_000_000)), [[1] * 1000] * 1000, {"a": "x" * 10**7}, deep):
        assert len(quoted(value)) == 61
    assert quoted(10**5000) == "<int>"
    assert quoted([[[1] * 9] * 9] * 9, 3000) == repr([[[1] * 9] * 9] * 9)


def test_an_object_is_quoted_by_its_type():
    """Of an object the name of its type is quoted: its own repr, which may do anything, is not."""

    class Foreign:
        def __repr__(self):
            raise AssertionError

    assert quoted([Foreign(), {1}, (None, 2.5)]) == "[<Foreign>, {1}, (None, 2.5)]"
    assert quoted({"a": Foreign()}) == "{'a': <Foreign>}"


@pytest.mark.parametrize("foreign", POISONS.values(), ids=POISONS)
def test_documents_are_visible(foreign):
    """Texts and keys of a document, at any depth, are visible; as JSON they come back whole.

    Half of a surrogate pair, which UTF-8 cannot hold, comes back as its escape.
    """
    document = {"a": [foreign, {foreign: (foreign, 1, None)}], foreign: foreign}
    assert faults_of(str(visible_document(document))) == []
    for text in (to_json(document), to_line(document)):
        assert faults_of(text, longest=1 << 20) == []
        assert text.isascii()
        told = foreign.encode("utf-8", "backslashreplace").decode()
        assert json.loads(text) == {"a": [told, {told: [told, 1, None]}], told: told}


def test_no_key_is_lost():
    """Keys that differ only in what is cut or escaped are both there."""
    keys = ("x" * 5000, "x" * 3000 + "y" + "x" * 1999, "\n", "\\n")
    assert len(visible_document(dict.fromkeys(keys, 1))) == 4


def test_notes_are_visible():
    """Who listens to a job hears text."""
    heard = []
    Progress(note=heard.append).note("a\n\x1b[0m")
    assert heard == ["a\\n\\x1b[0m"]


def test_errors_are_visible():
    """An error makes what it quotes visible, its hint's too."""
    error = FormatError("a\n\x1b[0m: wrong", hint="\u202e")
    assert (str(error), error.hint) == ("a\\n\\x1b[0m: wrong", "\\u202e")
