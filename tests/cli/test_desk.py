"""The desk: every option of every command is a field of a request, or of Voices."""

from pathlib import Path

import pytest

from routectl.cli.words.commands import command_lines
from routectl.jobs.capture import CaptureRequest
from routectl.jobs.options import build, check_bounds, options_of
from routectl.jobs.pack.request import PackRequest, VerifyRequest
from routectl.jobs.reading import Reading
from routectl.jobs.recompute.request import RecomputeRequest
from routectl.jobs.staleness.request import StalenessRequest
from support.recordings import FIXTURES
from support.shell import run


def test_groups_are_built_with_the_request():
    """Values by field fill a request and the groups in it; what neither has is left out."""
    values = {"checkpoint": Path("w"), "dump": "x", "save": Path("r.parquet"), "dtype": "fp32"}
    found = build(RecomputeRequest, {**values, "start": None, "json": True})
    assert (found.dump, found.forwarding.dtype) == ("x", "fp32")
    assert found.reading == Reading()


def test_an_option_is_named_by_its_field():
    """A flag is the field's name with dashes, unless another one is given."""
    flags = {one.name: about.flag for one, about in options_of(StalenessRequest)}
    assert flags["fail_over"] == "fail-over"
    assert {one.name: about.flag for one, about in options_of(VerifyRequest)}["folder"] == "verify"


def test_bounds_are_inclusive():
    """The least and the greatest value of an option are themselves allowed."""
    check_bounds(Reading(start=0))
    for count in (1, 1024):
        check_bounds(
            CaptureRequest(url="http://a:1", prompts="p", save=Path("x"), concurrency=count)
        )


@pytest.mark.parametrize("name", [line for line, _ in command_lines()])
def test_every_option_says_what_it_is(name):
    """Each option of a command has help, but for those that name themselves."""
    options = dict(command_lines())[name].options
    assert options
    assert [one.name for one, about in options if not about.help] in ([], ["temperature"])


def test_pack_has_the_options_of_its_requests(capsys):
    """A command of several requests takes the options of all, each once."""
    out = run(capsys, "pack", "--help").out
    for kind in (PackRequest, VerifyRequest):
        for _, about in options_of(kind):
            if not about.positional:
                assert out.count(f" --{about.flag} ") <= 2, about.flag
                assert f"--{about.flag}" in out


def test_what_a_command_lacks_is_named(capsys):
    """An absent option that one of several requests needs is told by its flag."""
    done = run(capsys, "pack", "--verify", FIXTURES)
    assert (done.code, done.err.splitlines()[0]) == (2, "routectl: --verify needs --against DUMP")
