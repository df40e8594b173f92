"""Recordings to be checked, and the codes that a check finds."""

import functools

from routectl.ops.check.book.findings import SEVERITIES
from support.faults import opened

__all__ = ["codes", "loaded", "only"]


@functools.cache
def loaded(path):
    """A fixture, read once."""
    return opened(path)


def codes(result, least="note"):
    """The codes of the findings of a severity and above."""
    rank = SEVERITIES.index(least)
    return {f.code for f in result.findings if SEVERITIES.index(f.kind.severity) >= rank}


def only(result, code):
    """The one finding of a code."""
    (found,) = [f for f in result.findings if f.code == code]
    return found
