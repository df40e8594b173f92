"""The verdict of a check in a word; apart, so that a report says it without numpy."""

from collections.abc import Mapping

__all__ = ["word_of"]

_WORDS = {"error": "FAULTY", "warning": "DOUBTFUL", "undecided": "UNDECIDED"}  # the worst first


def word_of(counts: Mapping[str, int]) -> str:
    """That of what is worst, by how many findings there are of each severity."""
    return next((word for name, word in _WORDS.items() if counts.get(name)), "CLEAN")
