"""Recordings to be checked, and the codes that a check finds."""

import functools

from routectl.ops.check.book.kind import SEVERITIES
from support.faults import BASES, opened

__all__ = ["codes", "loaded", "only", "two_of"]


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


def two_of(fault, faults):
    """Two of the recordings that a fault is put into; along ``faults`` they go round."""
    bases = [base for base in BASES if not fault.bases or base.name in fault.bases]
    first = faults.index(fault)
    return [bases[(first + n) % len(bases)] for n in range(min(2, len(bases)))]
