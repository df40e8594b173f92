"""Errors as a Python program sees them."""

import pickle
import traceback

import pytest

from routectl.errors import FormatError, RoutectlError


def said(error: RoutectlError) -> list[str]:
    """The last lines of a traceback."""
    return "".join(traceback.format_exception_only(error)).splitlines()


def test_a_traceback_says_the_hint():
    """Who reads a traceback is told what helps, below the message, once."""
    error = FormatError("x.pt: no routes", hint="--model CONFIG\x1b[2J")
    assert said(error)[1:] == ["hint: --model CONFIG\\x1b[2J"]
    assert str(error) == "x.pt: no routes"
    assert said(pickle.loads(pickle.dumps(error)))[1:] == said(error)[1:]


@pytest.mark.parametrize("hint", [None, "another"])
def test_a_traceback_says_the_last_hint(hint):
    """A hint that is changed on the way is said as it is in the end."""
    error = RoutectlError("no routes", hint="one")
    error.hint = hint
    assert said(error)[1:] == ([] if hint is None else ["hint: another"])
