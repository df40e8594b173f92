"""Values of options: of their type, within their bounds, finite; whoever builds the request."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import routectl
from routectl.errors import RoutectlError
from routectl.jobs.options import argument, check_bounds, option, options_of


@dataclass(frozen=True)
class Inner:
    """A group of options."""

    count: int = option(1, least=1, most=9, help=None)


@dataclass(frozen=True)
class Asked:
    """An option of every type that requests have."""

    text: str = option("x", help=None)
    path: Path | None = option(None, help=None)
    names: tuple[str, ...] = option((), help=None)
    flag: bool | None = option(None, help=None)
    rate: float | None = option(None, least=0, help=None)
    free: float = option(1.0, help=None)
    inner: Inner = Inner()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("text", 1),
        ("text", None),
        ("text", Path("x")),
        ("path", "x"),
        ("names", "abc"),
        ("names", ["a"]),
        ("names", ("a", 1)),
        ("flag", 1),
        ("rate", "1"),
        ("rate", True),
        ("free", None),
        ("inner", None),
    ],
)
def test_other_types_are_refused(name, value):
    """Text for a path, text for a list of it, a flag for a number: a TypeError that says which."""
    with pytest.raises(TypeError, match=f"^Asked: {name}: .*expected "):
        check_bounds(Asked(**{name: value}))


@pytest.mark.parametrize("number", [float, np.float64, np.float32, np.float16])
@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("rate", math.nan, "--rate nan: expected at least 0"),
        ("rate", -1, "--rate -1.0: expected at least 0"),
        ("rate", math.inf, "--rate inf: expected a finite number"),
        ("free", math.nan, "--free nan: expected a finite number"),
        ("free", -math.inf, "--free -inf: expected a finite number"),
    ],
)
def test_numbers_that_are_none_are_refused(number, name, value, why):
    """A number out of bounds, NaN or infinite is one line, of whatever float type it is."""
    with pytest.raises(RoutectlError, match=f"^{why}$"):
        check_bounds(Asked(**{name: number(value)}))


@pytest.mark.parametrize("number", [int, np.int64, np.uint8])
def test_whole_numbers(number):
    """Integers of numpy are held to the same bounds, and are numbers where floats are meant."""
    check_bounds(Inner(number(3)))
    check_bounds(Asked(rate=number(3), names=("a", "b"), path=Path("x"), flag=True))
    with pytest.raises(RoutectlError, match=r"^--count 10: expected at most 9$"):
        check_bounds(Inner(number(10)))
    with pytest.raises(TypeError, match="Inner: count: got float"):
        check_bounds(Inner(3.0))


@dataclass(frozen=True)
class Chosen:
    """Options of a closed list of words."""

    source: str | None = argument(None, choices=("here", "there"), metavar="[SOURCE]", help=None)
    how: str | None = option(None, choices=("fast", "slow"), help="Go {choices}.")
    kinds: tuple[str, ...] = option((), choices=("a", "b", "c"), help=None)


def test_choices_are_refused_in_one_way():
    """A word that is none of them is named with its option, all words, and the one that is near; of
    a tuple each is one of them, and None is no word.
    """
    check_bounds(Chosen())
    check_bounds(Chosen("here", "fast", ("a", "a", "c")))
    for wrong, said, hint in (
        (
            Chosen(how="fasd"),
            "--how 'fasd' is not known: did you mean fast?",
            "known: fast, slow",
        ),
        (Chosen(kinds=("a", "x")), "--kinds 'x' is not known: a, b, c", None),
        (Chosen(source="w\nx"), r"SOURCE 'w\nx' is not known: here, there", None),
    ):
        with pytest.raises(RoutectlError) as caught:
            check_bounds(wrong)
        assert (str(caught.value), caught.value.hint) == (said, hint)


def test_choices_stand_in_help():
    """They are listed where help has a place for them, else in the place of the value."""
    about = {one.name: (option, one.type) for one, option in options_of(Chosen)}
    assert about["how"][0].told == "Go fast or slow."
    assert about["how"][0].placeholder_of(about["how"][1]) == "NAME"
    assert about["kinds"][0].placeholder_of(about["kinds"][1]) == "a|b|c"


def test_requests_are_held_to_it(tmp_path):
    """Requests of Python say the same when they are built, or run where they check nothing else."""
    with pytest.raises(TypeError, match="DiffRequest: sample: got str"):
        routectl.DiffRequest(old="a", new="b", sample="abc")
    with pytest.raises(RoutectlError, match="--eps nan: expected at least 0"):
        routectl.DiffRequest(old="a", new="b", eps=np.float32("nan"))
    with pytest.raises(RoutectlError, match="--interval inf: expected at most"):
        routectl.WatchRequest(folder=tmp_path, interval=math.inf)
    with pytest.raises(TypeError, match="CiRequest: config: got str"):
        routectl.run(routectl.CiRequest(config="ci.toml"))
    with pytest.raises(TypeError, match="ShowRequest: path: got PosixPath"):
        routectl.run(routectl.ShowRequest(path=tmp_path))
