"""One flipped bit anywhere in a file that has checksums never gives other routes."""

import re

import pytest

from fuzz import seeds
from routectl.errors import FormatError
from routectl.formats import open_dump
from support.flips import FORMS, outcomes

WITH_CHECKSUMS = [
    *(form for form in FORMS if form.startswith(("native.", "replay."))),
    *("npz", "slime", "skyrl"),
]
FLIPS = 30


@pytest.mark.parametrize("form", WITH_CHECKSUMS)
def test_no_flip_of_a_file_with_checksums_gives_other_routes(form, tmp_path):
    """Refused, or the same routes: of pages, members and rank files alike."""
    found = outcomes(form, tmp_path / "x", FLIPS, seed=5)
    assert found["routes"] == []
    assert len(found["refused"]) > FLIPS / 4


@pytest.mark.parametrize("form", ["safetensors", "jsonl", "prime-rl"])
def test_a_file_without_checksums_cannot_tell(form, tmp_path):
    """Some flips of a file without checksums are read as other routes, as the docs say."""
    assert outcomes(form, tmp_path / "x", FLIPS, seed=5)["routes"]


def test_a_directory_that_lost_members_is_refused(tmp_path):
    """The length of a comment in a .npz, flipped, would swallow members: the count tells."""
    body = bytearray(seeds.arrays("npz")[0]["x.npz"])
    first, second, third = (found.start() for found in list(re.finditer(b"PK\x01\x02", body))[:3])
    body[first + 32 : first + 34] = (third - second).to_bytes(2, "little")
    (tmp_path / "x.npz").write_bytes(body)
    with pytest.raises(FormatError, match=r"got \d+ members, expected 12"):
        open_dump(tmp_path / "x.npz")
