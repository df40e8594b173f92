"""What replay gains on the page of a staleness: bars side by side, at a phone's width too."""

import pytest

from routectl.formats import open_dump
from routectl.ops.staleness.options import StalenessOptions
from routectl.ops.staleness.staleness import staleness
from routectl.reports.page.page import html_page
from routectl.reports.staleness.advice import advise
from routectl.reports.staleness.document import staleness_document
from support.recordings import FIXTURES
from support.replays import kept_versions

pytestmark = pytest.mark.browser


@pytest.fixture(name="doc", scope="module")
def doc_():
    """A document of four samples, v0 and v1 in every mode."""
    dump = open_dump(FIXTURES / "tiny_rl" / "vllm.bf16" / "samples.jsonl")
    dump = dump.select(samples=range(4))
    result = staleness(dump, kept_versions(dump)[:2], StalenessOptions(layers=(0,)))
    return staleness_document(result, advise(result))


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_modes_stand_side_by_side(opened, doc, tmp_path, width, theme):
    """Each version has a bar for none, R2 and R3, as long as its k3; nothing sticks out."""
    target = tmp_path / "staleness.html"
    target.write_bytes(html_page(doc).encode())
    size = {"width": width, "height": 900}
    with opened(target, viewport=size, color_scheme=theme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator("#replays h3").all_inner_texts() == ["v0, lag 0", "v1, lag 1"]
        charts = page.locator("#replays svg")
        for n, one in enumerate(doc["gain"]["versions"]):
            bars = charts.nth(n).locator("rect")
            tips = [bar.get_attribute("data-tip") for bar in bars.all()]
            widths = [float(bar.get_attribute("width")) for bar in bars.all()]
            k3 = [mode["k3"] for mode in one["modes"]]
            assert [w / widths[0] for w in widths] == pytest.approx([k / k3[0] for k in k3])
            named = [
                f"{one['version']}, {mode}" for mode in ("no replay", "replay R2", "replay R3")
            ]
            assert [tip.split("\n")[0] for tip in tips] == named
            assert f"{one['tokens']:,} tokens" in tips[2]
            assert "lower than without replay" in tips[2]
