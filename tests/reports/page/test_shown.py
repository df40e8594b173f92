"""Names, counts and shares as a page shows them, in a real browser: whole, and no more digits."""

import json
import re

import pytest

from routectl.reports.page.page import html_page
from support.recordings import FIXTURES

pytestmark = pytest.mark.browser
NAMES = (
    "layers 0 and 1 swapped",
    "rows moved by one position, from position 12 on",
    "prefix from other weights: rows of the first 80 of 96 positions are of weights of before",
)


def golden(name):
    """A golden document."""
    return json.loads((FIXTURES / "golden" / f"{name}.json").read_text("utf-8"))


@pytest.mark.parametrize("width", [400, 1280])
def test_names_of_rows_are_whole(opened, tmp_path, width):
    """A long name is broken into lines, so that it is read whole and its figures are beside it."""
    doc, page_file = golden("check"), tmp_path / "check.html"
    shares = {"rows": 101616, "mismatch_rate": 0.02, "mismatch_rate_before": 0.5}
    tried = [{"code": "R701", "hypothesis": name, **shares} for name in NAMES]
    doc["explanation"]["hypotheses"] = tried
    place = {"sample": "7/4", "position": 50, "layer": None, "note": "to 119, rows of sample 095"}
    doc["findings"][0]["places"] = [place]
    page_file.write_bytes(html_page(doc).encode())
    wider = "all => all.filter(one => one.scrollWidth > one.clientWidth).map(one => one.innerText)"
    with opened(page_file, viewport={"width": width, "height": 900}) as page:
        assert page.locator("#tried tbody th").all_text_contents() == list(NAMES)
        assert page.eval_on_selector_all("tbody th", wider) == []
        assert page.eval_on_selector_all("#tried .scroll, #finding-0 .scroll", wider) == []
        assert page.locator("#finding-0 td").last.text_content() == place["note"]
    with opened(page_file, java_script_enabled=False) as page:
        assert page.eval_on_selector_all("tbody th", wider) == []


def test_a_legend_of_counts_has_whole_numbers_where_their_colours_are(opened, folder):
    """Each count under the ramp of the token view is whole, at the colour that its tokens have."""
    with opened(folder / "diff.html") as page:
        ramp = page.locator("#tokens .ramp")
        drawn = ramp.evaluate("one => getComputedStyle(one).backgroundImage")
        stops = [[int(n) for n in c] for c in re.findall(r"rgb\((\d+), (\d+), (\d+)\)", drawn)]
        box = ramp.bounding_box()
        _, middle, most = page.locator("#tokens .ticks span").all()
        count = int(middle.inner_text())
        assert 0 < count < int(most.inner_text())
        place = middle.bounding_box()
        share = (place["x"] + place["width"] / 2 - box["x"]) / box["width"]
        at = share * (len(stops) - 1)
        low, high = stops[int(at)], stops[int(at) + 1]
        expected = [a + (b - a) * (at - int(at)) for a, b in zip(low, high, strict=True)]
        token = page.locator(f'.tokens [aria-label*=", {count} of "]').first
        shown = token.evaluate("one => getComputedStyle(one).backgroundColor")
        assert [int(n) for n in re.findall(r"\d+", shown)] == pytest.approx(expected, abs=6)


def test_a_level_is_as_it_was_asked(opened, tmp_path):
    """A level of 0.57 is 57 %, not 56.99999999999999 %, and no axis has more than three digits."""
    page_file = tmp_path / "staleness.html"
    page_file.write_bytes(html_page({**golden("staleness"), "level": 0.57}).encode())
    with opened(page_file) as page:
        assert "57 % intervals over sequences" in page.inner_text("#curves")
        for text in page.locator("#curves svg text").all_text_contents():
            assert len(re.sub(r"\D", "", text)) <= 3, text
