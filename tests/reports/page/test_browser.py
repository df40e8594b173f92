"""Pages in a real browser: headless Chromium clicks through them and is held against the JSON.

Skipped where Chromium or Playwright is not installed: ``apt-get install chromium``.
"""

import csv
import json
import re
from itertools import pairwise

import pytest

from routectl.formats import open_dump
from routectl.ops.diff.diff import DiffOptions, diff_as
from routectl.reports.diff.document import diff_document
from routectl.reports.page.page import html_page
from routectl.reports.recompute.document import RecomputedFrom, recompute_document
from routectl.reports.text.wording import amount
from routectl.visible import visible
from support.pages import (
    HOSTILE,
    NEW,
    OLD,
    added,
    hostile_document,
    large_dumps,
    line_of,
    said,
    tips_of,
)
from support.poison import POISON, faults_of

pytestmark = pytest.mark.browser
OPENS_S = 2.0
PAGES = (
    "diff",
    "staleness",
    "check",
    "show",
    "checkpoint",
    "series",
    "ci",
    "verify",
    "predict",
    "beside",
)
# Every text and attribute of a page but what its scripts hold
TEXTS = """() => [...document.querySelectorAll("*")]
    .filter((node) => !["SCRIPT", "STYLE"].includes(node.tagName))
    .flatMap((node) => [
        ...[...node.attributes].map((a) => a.value),
        ...[...node.childNodes].filter((c) => c.nodeType === 3).map((c) => c.data),
    ])"""


def test_numbers_are_those_of_the_document(opened, folder, doc):
    """Toolbar, layer bars and histograms show the document's numbers."""
    with opened(folder / "diff.html") as page:
        assert said(page) == line_of(doc)
        for n, rows in enumerate(doc["swaps"]):
            assert any(t.startswith(f"{amount(rows)} row") for t in tips_of(page, "#swaps")), n
        for tokens in doc["tokens_by_differing_layers"]:
            tips = tips_of(page, "#depth")
            assert not tokens or any(t.startswith(f"{amount(tokens)} token") for t in tips)
        clear = [t for t in tips_of(page, "#layer-bars") if "clear flip" in t]
        told = [int(t.split("\n")[1].split()[0].replace(",", "")) for t in clear]
        assert told == [layer["margins"]["clear_flips"] for layer in doc["layers"]]


def test_filters_recount(opened, folder, doc):
    """Layers, prompt or response, one sample: each filter shows exactly those rows."""
    with opened(folder / "diff.html") as page:
        page.select_option("[name=place]", "response")
        response = next(p for p in doc["places"] if p["place"] == "response")
        assert said(page) == line_of(response)
        page.select_option("[name=place]", "all")
        page.fill("[name=from]", "2")
        page.fill("[name=to]", "3")
        page.press("[name=to]", "Enter")
        assert said(page) == line_of(added(doc["layers"][2:4]))
        page.click("[name=reset]")
        assert said(page) == line_of(doc)
        page.select_option("[name=sample]", "2")
        assert said(page) == line_of(doc["sequences"]["worst"][2])
        page.select_option("[name=place]", "prompt")
        prompt = said(page)
        page.select_option("[name=place]", "response")
        counts = [
            [int(n.replace(",", "")) for n in text.split(" rows")[0].split(" of ")]
            for text in (prompt, said(page))
        ]
        whole = doc["sequences"]["worst"][2]
        assert [sum(c) for c in zip(*counts, strict=True)] == [
            whole["rows_mismatched"],
            whole["rows"],
        ]


def test_the_token_view_shows_both_sides(opened, folder, doc):
    """A token's sets, layer by layer, are those of the two dumps; hovering names the change."""
    sides = [open_dump(str(path)) for path in (OLD, NEW)]
    entry = doc["detail"]["sequences"][1]
    samples = [next(s for s in side if s.sample_id == entry["sample"]) for side in sides]
    with opened(folder / "diff.html") as page:
        page.select_option("[name=sample]", "1")
        shaded = page.eval_on_selector_all(".tokens [style]", "all => all.map(e => +e.dataset.t)")
        assert len(shaded) == doc["sequences"]["worst"][1]["tokens_mismatched"]
        assert page.locator(".tokens [role=option]").count() == entry["kept"]
        for t in (0, shaded[0], shaded[-1]):
            page.click(f".tokens [data-t='{t}']")
            lines = [row.split("\t") for row in page.inner_text(".sides tbody").splitlines()]
            for index, (layer, *shown) in enumerate(lines):
                assert int(layer) == doc["layers"][index]["layer"]
                position = entry["position"] + t
                for sample, ids in zip(samples, shown, strict=True):
                    row = sample.routes.ids_TLK[position - sample.routes.start, index]
                    assert ids == " ".join(map(str, sorted(row.tolist())))
            marked = page.locator(".sides tr.differs").count()
            assert (marked > 0) == (t in shaded)
        page.hover(f".tokens [data-t='{shaded[0]}']")
        assert f"position {entry['position'] + shaded[0]}: " in page.inner_text("#tip")
        assert "→" in page.inner_text("#tip")


def test_tokens_are_reached_by_keys(opened, folder):
    """Arrow keys walk the tokens, Enter shows one; Tab reaches every control on the way."""
    with opened(folder / "diff.html") as page:
        seen = []
        for _ in range(60):
            page.keyboard.press("Tab")
            named = "(e => e.name || e.getAttribute('role') || e.tagName)(document.activeElement)"
            seen.append(page.evaluate(named))
            if seen[-1] == "option":
                break
        for name in ("theme", "from", "to", "place", "sample", "csv", "application", "option"):
            assert name in seen
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        assert page.locator(".tokens .picked").get_attribute("data-t") == "1"
        assert page.locator(".sides tbody tr").count() == 6


def test_csv_holds_the_view(opened, folder, doc, tmp_path):
    """The CSV's rows add up to what is in view; a table's is the table."""
    with opened(folder / "diff.html", accept_downloads=True) as page:
        page.select_option("[name=place]", "response")
        with page.expect_download() as download:
            page.click("[name=csv]")
        download.value.save_as(tmp_path / "view.csv")
        with page.expect_download() as download:
            page.click("#figures .tools button")
        download.value.save_as(tmp_path / "table.csv")
        with page.expect_download() as download:
            page.click("[name=json]")
        download.value.save_as(tmp_path / "saved.json")
    with (tmp_path / "view.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    response = next(p for p in doc["places"] if p["place"] == "response")
    for key in ("rows", "rows_mismatched"):
        assert sum(int(line[key]) for line in lines) == response[key]
    with (tmp_path / "table.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    assert [int(line["mismatched"]) for line in table[:-1]] == [
        layer["rows_mismatched"] for layer in doc["layers"]
    ]
    assert json.loads((tmp_path / "saved.json").read_text("utf-8")) == doc


def test_tables_sort_and_filter(opened, folder, doc):
    """A head sorts its column as numbers, both ways; the filter keeps what matches."""
    with opened(folder / "diff.html") as page:
        head = page.locator("#samples thead button").nth(4)
        column = "rows => rows.filter(r => !r.hidden).map(r => r.cells[4].textContent)"
        for ordered in (lambda a, b: a <= b, lambda a, b: a >= b):
            head.click()
            texts = page.eval_on_selector_all("#samples tbody tr", column)
            counts = [int(t.replace(",", "")) for t in texts]
            assert len(counts) == doc["sequences"]["compared"]
            assert all(ordered(a, b) for a, b in pairwise(counts))
        worst = doc["sequences"]["worst"][3]["sample"]
        page.fill("#samples input[type=search]", worst)
        left = page.eval_on_selector_all("#samples tbody tr", column.replace("4", "0"))
        names = [row[0] for row in doc["detail"]["samples"]["rows"]]
        assert sorted(left) == sorted(name for name in names if worst in name)
        page.click(f"#samples button.link >> text={worst}")
        assert f"sample {worst}" in page.inner_text("#tokens h2")


@pytest.mark.parametrize("name", PAGES)
def test_both_themes(opened, folder, name):
    """Each page follows the system's theme, the button turns it, and text stays readable."""
    colour = "getComputedStyle(document.body).backgroundColor"
    for scheme, other in (("light", "dark"), ("dark", "light")):
        with opened(folder / f"{name}.html", color_scheme=scheme) as page:
            first = page.evaluate(colour)
            drawn = page.screenshot(full_page=True)
            page.click("[name=theme]")
            second = page.evaluate(colour)
            assert page.screenshot(full_page=True) != drawn
            page.emulate_media(color_scheme=other)
            assert page.evaluate(colour) == second != first
            assert page.locator("#panels section").count() >= 1
            assert page.locator("#failed").count() == 0


@pytest.mark.parametrize("name", PAGES)
def test_narrow_screens_do_not_scroll_sideways(opened, folder, name):
    """On a telephone nothing is wider than the screen but tables, which scroll by themselves."""
    with opened(folder / f"{name}.html", viewport={"width": 390, "height": 800}) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_cut_at_1280(opened, folder, name):
    """At 1280 pixels no table scrolls sideways."""
    wider = "boxes => boxes.filter(b => b.scrollWidth > b.clientWidth).length"
    with opened(folder / f"{name}.html") as page:
        assert page.eval_on_selector_all(".scroll", wider) == 0


def test_axes_and_legends_say_their_scale(opened, folder):
    """Axes of counts name themselves logarithmic, and a colour in the middle has its value."""
    with opened(folder / "diff.html") as page:
        for chart in ("#swaps", "#depth", "#margins"):
            assert "on a logarithmic axis" in page.text_content(f"{chart} svg")
        legends = page.locator(".legend", has=page.locator(".ramp")).all_inner_texts()
        assert len(legends) == 5
        middle, top = (float(n) for n in re.findall(r"([\d.]+) %", legends[0]))
        assert 0.2 < middle / top <= 0.25  # a quarter, less what the least rate begins with
        assert "by its square root" in legends[0]


def test_findings_come_first(opened, folder):
    """The page of a check begins with its findings: cause, remedy and places of each."""
    with opened(folder / "check.html") as page:
        doc = json.loads(page.text_content("#document"))
        first = page.locator("#panels section").first
        assert first.get_attribute("id") == "findings"
        for n, finding in enumerate(doc["findings"]):
            told = page.inner_text(f"#finding-{n}")
            for text in (finding["code"], finding["title"], finding["cause"], finding["action"]):
                assert text in told
            rows = page.locator(f"#finding-{n} tbody tr")
            assert rows.count() == len(finding["places"])
        assert page.locator("#panels table").count() == sum(
            bool(f["places"]) for f in doc["findings"]
        )


def test_checks_of_a_ci(opened, folder):
    """The page of a ci lists its checks, what failed first; each leads to its own thresholds."""
    with opened(folder / "ci.html") as page:
        doc = json.loads(page.text_content("#document"))
        listed = [line.split("\t")[:2] for line in page.locator("#runs tbody tr").all_inner_texts()]
        order = ("trouble", "failed", "passed")
        runs = sorted(doc["runs"], key=lambda run: order.index(run["status"]))
        assert listed == [[run["name"], run["status"].upper()] for run in runs]
        for n, run in enumerate(doc["runs"]):
            assert page.get_attribute(f"#runs a >> text={run['name']}", "href") == f"#run-{n}"
            told = page.inner_text(f"#run-{n}")
            for failure in run["failed"]:
                assert failure["threshold"] in told
            for given in run["inputs"].values():
                for path in [given] if isinstance(given, str) else given:
                    assert path in told


def test_layers_of_a_checkpoint(opened, folder):
    """The page of a checkpoint has a bar and a line a layer: kind, bytes by dtype, its router."""
    with opened(folder / "checkpoint.html") as page:
        doc = json.loads(page.text_content("#document"))
        tips = tips_of(page, "#layers")
        lines = [line.split("\t") for line in page.locator("#listed tbody tr").all_inner_texts()]
        routers = {router["layer"]: router for router in doc["layer_routers"]}
        assert len(lines) == len(doc["layer_bytes"])
        for line, entry in zip(lines, doc["layer_bytes"], strict=True):
            kind = "MoE" if entry["moe"] else "dense"
            assert line[:2] == [str(entry["layer"]), kind]
            for dtype in entry["dtypes"]:
                about = f"layer {entry['layer']}, {kind}\n{dtype} "
                assert [tip for tip in tips if tip.startswith(about)]
                assert dtype in line[3]
            router = routers.get(entry["layer"])
            assert line[4:6] == (
                ["-", "-"]
                if router is None
                else [f"{router['dtype']} [8, 16]", router["expert_bias_dtype"]]
            )


def test_a_recompute_is_drawn_as_its_comparison(opened, tmp_path, doc):
    """The page of a recompute has the panels of the dump against its first mode, and says which."""
    detail, diff = doc["detail"], {k: v for k, v in doc.items() if k not in ("detail", "asked")}
    made = RecomputedFrom("weights", {"dtype": "float32"}, diff["old"], ())
    found = recompute_document(made, {"free": {**diff, "detail": detail}, "forced": dict(diff)})
    target = tmp_path / "recompute.html"
    target.write_bytes(html_page(found).encode())
    with opened(target) as page:
        assert said(page) == line_of(doc)
        assert page.inner_text("#mode h2") == "Mode free"
        assert page.locator("#where canvas").count() == 1
        with page.expect_download() as download:
            page.click("[name=json]")
        assert json.loads(download.value.path().read_text("utf-8")) == found


def test_without_scripts(opened, folder, doc):
    """With scripts off the verdict and the tables are there, and a line says what is not."""
    with opened(folder / "diff.html", java_script_enabled=False) as page:
        assert page.locator("h1").inner_text().startswith("DIFFERS")
        assert page.locator("noscript").count() == 1
        assert page.locator("#toolbar").is_hidden()
        rows = page.locator("#figures table").first.locator("tbody tr")
        assert rows.count() == len(doc["layers"]) + 1


def test_it_prints(opened, folder):
    """On paper the toolbar is gone and the page is light, even in the dark."""
    with opened(folder / "diff.html", color_scheme="dark") as page:
        assert page.pdf().startswith(b"%PDF")
        page.emulate_media(media="print")
        assert page.locator("#toolbar").is_hidden()
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.evaluate("getComputedStyle(document.body).color") == "rgb(28, 33, 39)"


def test_hostile_samples_are_text(opened, tmp_path):
    """Names that are markup, script or formulas are shown as text, and nothing of them runs."""
    target = tmp_path / "hostile.html"
    target.write_bytes(html_page(hostile_document()).encode())
    with opened(target, accept_downloads=True) as page:
        assert page.title().startswith("routectl diff")
        for index in range(len(HOSTILE)):
            page.select_option("[name=sample]", str(index))
            page.click(".tokens [role=option] >> nth=1")
        shown = page.inner_text("#samples tbody")
        assert HOSTILE[0] in shown
        assert "\\u202e" in shown
        index = [e["sample"] for e in hostile_document()["detail"]["sequences"]].index(HOSTILE[5])
        page.select_option("[name=sample]", str(index))
        with page.expect_download() as download:
            page.click("[name=csv]")
        text = download.value.path().read_text("utf-8")
        assert "\n'=cmd|" in text.replace("\r\n", "\n")
        index = [e["sample"] for e in hostile_document()["detail"]["sequences"]].index(POISON)
        page.select_option("[name=sample]", str(index))
        with page.expect_download() as download:
            page.click("[name=csv]")
        rows = list(csv.reader(download.value.path().read_text("utf-8").splitlines()))
        shown = visible(POISON).replace("\\x3a", ":").replace("\\x23", "#")  # a page is no log
        assert {row[0] for row in rows[1:]} == {shown}
        faults = faults_of("\n".join(page.evaluate(TEXTS)), longest=1 << 20)
        assert [fault for fault in faults if fault.startswith("U+")] == []
        assert page.title().startswith("routectl diff")


def test_a_damaged_detail_is_said(browser, tmp_path, doc):
    """A document whose detail is broken still shows its figures, and says what was not drawn."""
    broken = {**doc, "detail": {**doc["detail"], "places": [{"place": "prompt"}]}}
    target = tmp_path / "broken.html"
    target.write_bytes(html_page(broken).encode())
    context = browser.new_context()
    page = context.new_page()
    page.goto(target.as_uri())
    page.wait_for_selector("html[data-ready]")
    assert "does not hold" in page.inner_text("#failed")
    assert page.locator("#figures table").count() >= 3
    context.close()


def test_a_million_tokens_open_quickly(browser, tmp_path):
    """The page of 1,000,000 tokens is parsed, drawn and painted in less than two seconds of CPU."""
    result = diff_as(*large_dumps(1000, 1000), DiffOptions(detail=True))
    target = tmp_path / "large.html"
    target.write_bytes(html_page(diff_document(result)).encode())
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    watched = context.new_cdp_session(page)
    watched.send("Performance.enable", {"timeDomain": "threadTicks"})
    page.goto(target.as_uri())
    page.wait_for_selector("html[data-ready]", timeout=20_000)
    clock = page.evaluate(
        "new Promise(r => requestAnimationFrame(() => setTimeout(() => r(performance.now()))))"
    )
    spent = {m["name"]: m["value"] for m in watched.send("Performance.getMetrics")["metrics"]}
    seconds, size = spent["TaskDuration"], target.stat().st_size
    print(
        f"1,000,000 tokens: {size:,} bytes, {seconds:.2f} s of CPU, {clock / 1000:.2f} s by clock"
    )
    assert said(page) == line_of({"rows": result.rows, "rows_mismatched": result.rows_mismatched})
    assert 0.05 < seconds < OPENS_S
    context.close()
