"""The names of the library: keywords against requests, docs against ``dir(routectl)``."""

import re
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

import pytest

import routectl
from routectl.jobs.library import keywords
from routectl.jobs.library.asking import keywords_of
from routectl.jobs.pack.layout import Layout
from support.keywords import VERBS

ROOT = Path(__file__).parent.parent.parent.parent
PAGE = (ROOT / "docs" / "python.md").read_text("utf-8")


@pytest.mark.parametrize("verb", VERBS)
def test_keywords_are_the_options_of_the_request(verb):
    """Every option of a command is a keyword of its verb under the field's name, every key of a
    layout where it takes one, and no other."""
    request, placed = VERBS[verb]
    options = keywords_of(getattr(routectl, request))
    typed = get_type_hints(getattr(keywords, f"{verb.capitalize()}Keywords"))
    wanted = {name for name, (field, _) in options.items() if not {name, field} & placed}
    laid = {one.name for one in fields(Layout)} if "layout" in options else set()
    assert set(typed) == wanted | laid | {"progress"}


def test_dir_is_the_public_names():
    """``dir(routectl)`` has the names of ``__all__`` and the version, sorted, and nothing else."""
    assert dir(routectl) == sorted([*routectl.__all__, "__version__"])
    assert not [name for name in dir(routectl) if name.startswith("_") and name != "__version__"]


def test_every_name_is_documented():
    """docs/python.md names every public name, and none that is not there."""
    named = set(re.findall(r"^\| `(\w+)[`(]", PAGE.partition("## Tables")[0], re.MULTILINE))
    assert named == set(routectl.__all__)
