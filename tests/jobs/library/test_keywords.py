"""The names of the library: keywords against requests, docs against ``dir(routectl)``."""

import re
from pathlib import Path
from typing import get_type_hints

import pytest

import routectl
from routectl.jobs.library import keywords
from routectl.jobs.library.asking import keywords_of
from support.keywords import VERBS

ROOT = Path(__file__).parent.parent.parent.parent
PAGE = (ROOT / "docs" / "python.md").read_text("utf-8")


@pytest.mark.parametrize("verb", VERBS)
def test_keywords_are_the_options_of_the_request(verb):
    """Every option of a command is a keyword of its verb under the field's name, and no other."""
    request, placed = VERBS[verb]
    options = keywords_of(getattr(routectl, request)).items()
    typed = get_type_hints(getattr(keywords, f"{verb.capitalize()}Keywords"))
    assert set(typed) == {name for name, (field, _) in options if not {name, field} & placed} | {
        "progress"
    }


def test_dir_is_the_public_names():
    """``dir(routectl)`` has the names of ``__all__`` and the version, sorted, and nothing else."""
    assert dir(routectl) == sorted([*routectl.__all__, "__version__"])
    assert not [name for name in dir(routectl) if name.startswith("_") and name != "__version__"]


def test_every_name_is_documented():
    """docs/python.md names every public name, and none that is not there."""
    named = set(re.findall(r"^\| `(\w+)[`(]", PAGE.partition("## Tables")[0], re.MULTILINE))
    assert named == set(routectl.__all__)
