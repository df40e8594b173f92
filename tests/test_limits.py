"""The budgets, and how they are raised."""

import re

import pytest

from routectl.errors import FormatError, RoutectlError
from routectl.limits import (
    DEFLATE,
    Limits,
    check_budget,
    check_inflation,
    limits,
    parse_limits,
    raised_limits,
)


def test_sizes_take_units_of_ten():
    """A size is a count, or one with k, M, G, T, with or without a B; KiB and so on are of two."""
    given = parse_limits(("cell=1GB", "line=2m", "depth=9", "nodes=3K", "document=1TB"))
    assert given == {
        "cell": 10**9,
        "line": 2 * 10**6,
        "depth": 9,
        "nodes": 3000,
        "document": 10**12,
    }
    for text in ("cell=256MiB", "cell=256mib"):
        assert parse_limits([text]) == {"cell": Limits().cell}


@pytest.mark.parametrize(
    "text",
    ["cell", "cell=", "cell=0", "cell=-1", "cell=1X", "cell=1iB", "cell=1Gi", "sell=1", "=1", ""],
)
def test_other_words_are_refused(text):
    """What is no NAME=SIZE of a known name is refused with what is expected."""
    with pytest.raises(RoutectlError, match="--limit"):
        parse_limits((text,))


def test_budgets_hold_within_a_block():
    """Raised budgets end with their block."""
    with raised_limits(ratio=1000), raised_limits(cell="1GB"):
        assert (limits().ratio, limits().cell) == (1000, 10**9)
        check_inflation(500 << 20, 1 << 20, "F")
    assert limits() == Limits()
    with pytest.raises(FormatError, match="more than 200 times"):
        check_inflation(500 << 20, 1 << 20, "F")


@pytest.mark.parametrize(
    ("name", "needed"),
    [("cell", 300 << 20), ("depth", 999), ("nodes", 50_000_001), ("line", 2**31)],
)
def test_the_hint_of_what_is_over_names_a_value_that_passes(name, needed):
    """What is over a budget is refused with the --limit that lets it through."""
    with pytest.raises(FormatError, match="refused") as caught:
        check_budget(name, needed, "F")
    said = re.search(r"--limit (\S+)", caught.value.hint)[1]
    with raised_limits(**parse_limits([said])):
        check_budget(name, needed, "F")


def test_the_hint_of_what_inflates_names_a_value_that_passes():
    """Where the whole is known, that much is named; else what deflate can reach at most."""
    for more, name in (({}, "decoded"), ({"most": DEFLATE}, "ratio")):
        with pytest.raises(FormatError) as caught:
            check_inflation(1000 << 20, 1 << 20, "F", **more)
        said = re.search(r"--limit (\S+)", caught.value.hint)[1]
        assert said.startswith(name)
        with raised_limits(**parse_limits([said])):
            check_inflation(1000 << 20, 1 << 20, "F", **more)
