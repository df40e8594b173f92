"""Errors as a Python program sees them."""

import pickle
import traceback

import pytest

from routectl.errors import (
    FormatError,
    RoutectlError,
    UnsupportedError,
    check_choice,
    did_you_mean,
    unknown,
)


def said(error: RoutectlError) -> list[str]:
    """The last lines of a traceback."""
    return "".join(traceback.format_exception_only(error)).splitlines()


def test_a_traceback_says_the_hint():
    """Who reads a traceback is told what helps, below the message, once."""
    error = FormatError("x.pt: no routes", hint="--model CONFIG\x1b[2J")
    assert said(error)[1:] == ["hint: --model CONFIG\\x1b[2J"]
    assert str(error) == "x.pt: no routes"
    assert said(pickle.loads(pickle.dumps(error)))[1:] == said(error)[1:]


@pytest.mark.parametrize(
    ("copy", "name"), [("stdin", "-"), ("fd-63", "/dev/fd/63"), ("other", None)]
)
def test_the_copy_of_a_pipe_is_called_by_its_name(copy, name):
    """What a user piped in is named as that was, not by the file that it was copied to."""
    path = f"/big/tmp/.routectl-stdin.abe87c78-f61afa0e.tmp/{copy}"
    told = f"OLD, {name or path}: line 3: not JSON"
    assert str(RoutectlError(f"OLD, {path}: line 3: not JSON")) == told


@pytest.mark.parametrize("hint", [None, "another"])
def test_a_traceback_says_the_last_hint(hint):
    """A hint that is changed on the way is said as it is in the end."""
    error = RoutectlError("no routes", hint="one")
    error.hint = hint
    assert said(error)[1:] == ([] if hint is None else ["hint: another"])


@pytest.mark.parametrize(
    ("word", "near"),
    [("tokns", "tokens"), ("Max-Vio", "max_vio"), ("ID", "id"), ("nonsense", None), (None, None)],
)
def test_the_nearest_of_the_known_words_is_asked_for(word, near):
    """A slip of a key, of case, of a dash is answered with the word; what is near none is not."""
    said = did_you_mean(word, ["id", "tokens", "max_vio"])
    assert said == (near and f"did you mean {near}?")


@pytest.mark.parametrize("kind", [RoutectlError, UnsupportedError, ValueError])
def test_an_unknown_word_is_said_with_the_known_ones(kind):
    """Whatever the kind of the error: the word, the nearest at once, and below it the list, which
    is there at once where none is near.
    """
    error = unknown("--codec", "tokn", iter(["set", "token"]), kind)
    assert type(error) is kind
    assert str(error) == "--codec 'tokn' is not known: did you mean token?"
    assert said(error)[1:] == ["hint: known: set, token"]
    none = unknown("--codec", "zip", ["set"], kind)
    assert (str(none), said(none)[1:]) == ("--codec 'zip' is not known: set", [])


def test_a_known_word_is_no_error():
    """A word of the list passes; another is refused."""
    check_choice("--codec", "set", ["set", "token"])
    with pytest.raises(RoutectlError, match="'zip' is not known: set, token"):
        check_choice("--codec", "zip", ["set", "token"])
