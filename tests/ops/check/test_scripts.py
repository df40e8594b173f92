"""Edit scripts: the stretches of a row-by-row source, and what was done, by name."""

import numpy as np
import pytest

from routectl.ops.check.book.scripts import Stretch, name_script, stretches_of

N = 100


def script(*parts):
    """Stretches from (first, end, lag)."""
    return [Stretch(first, end, lag) for first, end, lag in parts]


def test_stretches():
    """Rows of equal lag are one stretch; rows of nobody have none."""
    source = np.array([5, 6, 6, 7, -1, 10])
    assert stretches_of(source, 5) == script((5, 7, 0), (7, 9, 1), (9, 10, None), (10, 11, 0))
    assert stretches_of(source[:0], 0) == []


@pytest.mark.parametrize(
    ("parts", "codes", "facts"),
    [
        ([(0, 99, 0)], [], {}),
        ([(0, 1, 0), (1, 99, 1)], ["R701"], {"lag": 1}),
        ([(0, 99, -2)], ["R701"], {"lag": -2}),
        ([(0, 7, 0), (7, 99, 7)], ["R707"], {"lag": 7}),
        ([(0, 9, None), (9, 99, 9)], ["R707"], {"lag": 9}),
        ([(0, 99, -20)], ["R707"], {"lag": -20}),
        ([(0, 69, -30)], ["R701"], {"where": "response alone"}),
        ([(0, 70, -29)], ["R701"], {"where": "response alone"}),
        ([(0, 40, 0), (40, 99, 1)], ["R701"], {"lag": 1, "where": "from a position on"}),
        ([(0, 60, 0), (60, 99, -40)], ["R405"], {"size": 40}),
        ([(0, 60, 0), (60, 99, -1)], ["R701"], {"lag": -1, "where": "from a position on"}),
        ([(0, 60, 0), (60, 98, -1)], ["R405"], {"size": 1}),  # a row is missing
        ([(0, 30, 0), (30, 50, -17)], ["R405"], {"where": "at the seam of prompt and response"}),
        ([(0, 99, 0), (99, 150, 99)], ["R402"], {"size": 99}),
        ([(0, 40, 0), (40, 49, None), (49, 99, 9)], ["R406"], {"size": 9}),
        ([(0, 30, 0), (30, 60, -30), (60, 90, 30)], ["R714"], {"stretches": 3}),
        ([(0, 50, 0), (50, 60, None), (60, 99, 0)], [], {}),
    ],
)
def test_names(parts, codes, facts):
    """What was done follows from how the lag changes, and where."""
    made = [s for s in script(*parts) if s.size]
    edits = name_script(made, N, 30)
    assert [e.code for e in edits] == codes
    if edits:
        assert facts.items() <= edits[0].facts.items()


def test_several_changes_are_several_edits():
    """A sample may be late by one, then by two; each is told at its place."""
    edits = name_script(script((0, 30, 0), (30, 60, 1), (60, 99, 2)), N, None)
    assert [(e.code, e.position, e.facts["lag"]) for e in edits] == [
        ("R701", 30, 1),
        ("R701", 60, 2),
    ]
