"""Sequences that are closer to another version: from where, and what says nothing."""

import numpy as np
import pytest

from routectl.ops.staleness.comparison import ClusterSums
from routectl.ops.staleness.sequences import closer_sequences

ROWS = 200


def own(wrong, tokens):
    """Sums of one layer: such rows of each sequence mismatch, of so many tokens."""
    sums = ClusterSums.empty(1)
    pairs = zip(wrong, tokens, strict=True)
    sums.add(range(len(wrong)), [(np.array([ROWS, n, 0, ROWS, t, 0, 0]), 0.0) for n, t in pairs])
    return sums


def other(wrong, rows=ROWS):
    """Sums of the same sequences with another version."""
    sums = ClusterSums.empty()
    sums.add(range(len(wrong)), [(np.array([rows, n]), 0.0) for n in wrong])
    return sums


@pytest.mark.parametrize(
    ("wrong", "tokens", "with_other", "closer"),
    [
        (25, 25, 0, 1),  # 25² = 25 (25 + 0)
        (24, 24, 0, 0),
        (100, 100, 50, 0),  # 50² < 25 (100 + 50)
        (160, 160, 80, 1),  # 80² > 25 (160 + 80), twice as much
        (159, 159, 80, 0),  # less than twice as much
        (25, 12, 0, 0),  # as few tokens as that may be chance
        (0, 0, 0, 0),
        (10, 10, 40, 0),
    ],
)
def test_a_sequence_is_closer_at_half_the_mismatch_beyond_chance(wrong, tokens, with_other, closer):
    """Twice as many rows, and five sigmas, tokens being what chance takes."""
    found = closer_sequences(own([wrong], [tokens]), {"v1": other([with_other])})
    assert (found.compared, found.number) == (1, closer)


def test_each_sequence_is_of_the_version_that_is_closest_to_it():
    """Counted by version; a version that lacks rows of a sequence says nothing of it."""
    sums = own([100, 100, 100, 2], [100, 100, 100, 2])
    found = closer_sequences(sums, {"v1": other([40, 0, 30, 90]), "v2": other([0, 40, 20, 90])})
    assert (found.compared, found.closer) == (4, {"v2": 2, "v1": 1})
    short = closer_sequences(sums, {"v1": other([40, 0, 30, 90]), "v2": other([0] * 4, ROWS - 1)})
    assert (short.compared, short.closer) == (4, {"v1": 3})
    assert closer_sequences(sums, {"v2": other([0] * 4, ROWS - 1)}).compared == 0
