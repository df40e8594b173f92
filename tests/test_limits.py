"""The budgets, and how they are raised."""

import pytest

from routectl.errors import FormatError, RoutectlError
from routectl.limits import Limits, check_inflation, limits, parse_limits, raised_limits


def test_sizes_take_units_of_ten():
    """A size is a count, or one with k, M, G, T, with or without a B."""
    given = parse_limits(("cell=1GB", "line=2m", "depth=9", "nodes=3K", "document=1TB"))
    assert given == Limits(cell=10**9, line=2 * 10**6, depth=9, nodes=3000, document=10**12)


@pytest.mark.parametrize("text", ["cell", "cell=", "cell=0", "cell=-1", "cell=1X", "sell=1", "=1"])
def test_other_words_are_refused(text):
    """What is no NAME=SIZE of a known name is refused with what is expected."""
    with pytest.raises(RoutectlError, match="--limit"):
        parse_limits((text,))


def test_budgets_hold_within_a_block():
    """Raised budgets end with their block."""
    with raised_limits(parse_limits(("ratio=1000",))):
        assert limits().ratio == 1000
        check_inflation(500 << 20, 1 << 20, "F")
    with pytest.raises(FormatError, match="more than 200 times"):
        check_inflation(500 << 20, 1 << 20, "F")
