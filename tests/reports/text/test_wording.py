"""Thresholds that were crossed, in words: in the unit that they were given in."""

import math

import pytest

from routectl.reports.text.wording import failure_text


@pytest.mark.parametrize(
    ("threshold", "value", "limit", "layer", "told"),
    [
        ("mismatch@*:3%", 0.0303496, 0.03, 5, "3.03 % over 3 % in layer 5"),
        ("mismatch:0.03", 0.0303496, 0.03, None, "0.0303 over 0.03"),
        ("mismatch:3%", 0.03000012, 0.03, None, "3.00001 % over 3 %"),
        ("coverage:99%", 0.9899, 0.99, None, "98.99 % under 99 %"),
        ("coverage:99%", 0.95, 0.99, None, "95 % under 99 %"),
        ("unmatched:0", 86.0, 0.0, None, "86 over 0"),
        ("rows_mismatched:1000", 2055.0, 1000.0, None, "2,055 over 1,000"),
        ("mismatch:+2%", 0.0444, 0.0313, None, "4.44 % over 3.13 %"),
        ("k3:1e-3", 0.0045, 0.001, None, "0.0045 over 0.001"),
    ],
)
def test_in_its_own_unit(threshold, value, limit, layer, told):
    """Percent is answered in percent, a count whole, with digits that tell the two apart."""
    failure = {"threshold": threshold, "metric": "x", "layer": layer, "value": value}
    assert failure_text({**failure, "limit": limit}) == f"{threshold}: {told}"


def test_what_is_not_finite():
    """A figure that is not finite is named, with the limit in its unit."""
    failure = {"threshold": "f2:1%", "metric": "f2", "layer": None, "value": None, "limit": 0.01}
    assert failure_text({**failure, "not_finite": "nan"}) == (
        "f2:1%: f2 is not finite (nan), limit 1 %"
    )


@pytest.mark.parametrize("limit", [0.29, 0.07, 0.1, 1e-9])
def test_the_next_number_is_told_apart(limit):
    """The least number over a limit is not printed as the limit."""
    failure = {"threshold": f"k3:{limit}", "metric": "k3", "layer": None, "limit": limit}
    told = failure_text({**failure, "value": math.nextafter(limit, 1)})
    assert f": {limit:.6g} over" not in told
