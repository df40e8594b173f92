"""Every door takes sound cases and some hundreds of changed ones; the search itself is run.py."""

import random

import pytest

from fuzz.cases import changed_case, packed
from fuzz.run import judged, warmed
from fuzz.targets import TARGETS

CHANGES = 40  # of each target; a search makes thousands


@pytest.mark.parametrize("name", TARGETS)
def test_a_door_takes_sound_and_changed_files(name, tmp_path):
    """Of any change a door makes an answer or one line, soon, in little memory."""
    target = TARGETS[name]
    cases = [packed(files) for files in target.cases()]
    for data in cases:
        warmed(name, data, tmp_path / "x")
    rng = random.Random(1)
    changed = [
        changed_case(rng.choice(cases), rng.getrandbits(64), target.weights) for _ in range(CHANGES)
    ]
    found = [judged(name, data, tmp_path / "x") for data in (*cases, *changed)]
    assert [one.text for one in found if one is not None] == []
