"""Pages in a real browser: headless Chromium clicks through them and is held against the JSON.

Skipped where Chromium or Playwright is not installed: ``apt-get install chromium``.
"""

import csv
import json
import shutil
from contextlib import contextmanager
from itertools import pairwise

import pytest

from routectl.formats import open_dump
from routectl.ops.diff.diff import DiffOptions, diff_as
from routectl.reports.diff.document import diff_document
from routectl.reports.page.page import html_page
from routectl.reports.text.wording import amount, percent
from routectl.visible import visible
from support.pages import HOSTILE, NEW, OLD, hostile_document, large_dumps
from support.poison import POISON, faults_of
from support.shell import run

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium"),
]
OPENS_S = 2.0
# Every text and attribute of a page but what its scripts hold
TEXTS = """() => [...document.querySelectorAll("*")]
    .filter((node) => !["SCRIPT", "STYLE"].includes(node.tagName))
    .flatMap((node) => [
        ...[...node.attributes].map((a) => a.value),
        ...[...node.childNodes].filter((c) => c.nodeType === 3).map((c) => c.data),
    ])"""


@pytest.fixture(scope="module")
def browser():
    """One Chromium for all tests of this file."""
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM)
        yield opened
        opened.close()


@contextmanager
def opened(browser, path, **context):
    """A page that was opened from disk; it must ask for nothing and complain of nothing."""
    trouble = []
    found = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **context})
    page = found.new_page()
    page.on("console", lambda message: trouble.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("dialog", lambda dialog: trouble.append(dialog.message))
    page.on(
        "request",
        lambda request: (
            trouble.append(request.url)
            if not request.url.startswith(("file:", "blob:", "data:"))
            else None
        ),
    )
    page.goto(path.as_uri())
    if context.get("java_script_enabled", True):
        page.wait_for_selector("html[data-ready]", timeout=20_000)
    yield page
    assert trouble == []
    found.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A real diff as a page and as its document, and pages of the other verbs."""
    from routectl.cli.main import main

    made = tmp_path_factory.mktemp("pages")
    quiet = ["--exit-zero", "-o", str(made / "text.txt"), "--force"]
    diff = ["diff", str(OLD), str(NEW), "--examples", "8", *quiet]
    assert main([*diff, "--html", str(made / "diff.html")]) == 0
    assert main([*diff[:-3], "-o", str(made / "diff.json")]) == 0
    check = ["check", str(NEW), "--against", str(OLD), *quiet]
    assert main([*check, "--html", str(made / "check.html")]) == 0
    assert (
        main(
            [
                "show",
                str(OLD),
                "-o",
                str(made / "text"),
                "--force",
                "--html",
                str(made / "show.html"),
            ]
        )
        == 0
    )
    tiny = NEW.parent
    versions = (
        "v0=" + str(NEW),
        f"v1={tiny}/transformers_v1.fp32.npz",
        f"v2={tiny}/routes_v2.fp32.npz",
    )
    at = [word for version in versions for word in ("--at", version)]
    assert main(["staleness", str(OLD), *at, *quiet, "--html", str(made / "staleness.html")]) == 0
    return made


@pytest.fixture(scope="module")
def doc(folder):
    """The document that diff.html holds."""
    return json.loads((folder / "diff.json").read_text("utf-8"))


def said(page):
    """The line of the toolbar: how many rows are in view, and differ."""
    return page.inner_text("#toolbar output")


def line_of(counts):
    """What the toolbar says of counts."""
    rows, bad = counts["rows"], counts["rows_mismatched"]
    return f"{amount(bad)} of {amount(rows)} rows ({percent(bad / rows)})"


def added(parts):
    """Rows and mismatched rows of several entries together."""
    return {key: sum(part[key] for part in parts) for key in ("rows", "rows_mismatched")}


def tips_of(page, chart):
    """What the marks of a chart say of themselves."""
    return page.eval_on_selector_all(f"{chart} rect", "all => all.map(e => e.dataset.tip)")


def test_numbers_are_those_of_the_document(browser, folder, doc):
    """Toolbar, layer bars and histograms show the document's numbers."""
    with opened(browser, folder / "diff.html") as page:
        assert said(page) == line_of(doc)
        for n, rows in enumerate(doc["swaps"]):
            assert any(t.startswith(f"{amount(rows)} row") for t in tips_of(page, "#swaps")), n
        for tokens in doc["tokens_by_differing_layers"]:
            tips = tips_of(page, "#depth")
            assert not tokens or any(t.startswith(f"{amount(tokens)} token") for t in tips)
        clear = [t for t in tips_of(page, "#layer-bars") if "clear flip" in t]
        told = [int(t.split("\n")[1].split()[0].replace(",", "")) for t in clear]
        assert told == [layer["margins"]["clear_flips"] for layer in doc["layers"]]


def test_filters_recount(browser, folder, doc):
    """Layers, prompt or response, one sample: each filter shows exactly those rows."""
    with opened(browser, folder / "diff.html") as page:
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


def test_figures_of_the_whole_run_say_so_under_a_selection(browser, folder):
    """Margins, overlap, the list of samples and loads are not counted again: a note says of what
    they are while something is selected, and only then.
    """

    def notes(page):
        texts = {n: page.inner_text(f"#{n}") for n in ("margins", "samples", "load", "layer-bars")}
        whole = {
            n for n, text in texts.items() if "Of the whole run, not of the selection:" in text
        }
        return whole, {n for n, text in texts.items() if "Of all tokens and samples:" in text}

    with opened(browser, folder / "diff.html") as page:
        assert notes(page) == (set(), set())
        page.select_option("[name=place]", "response")
        assert notes(page) == ({"margins", "samples", "layer-bars"}, {"load"})
        page.click("[name=reset]")
        assert notes(page) == (set(), set())
        page.fill("[name=from]", "2")
        page.dispatch_event("[name=from]", "change")
        assert notes(page) == ({"margins", "samples", "layer-bars"}, set())


def test_the_heatmap_is_reached_by_keys(browser, folder, doc, capsys):
    """Arrow keys move over the heatmap; a cell says its counts, and the command that shows it."""
    with opened(browser, folder / "diff.html") as page:
        page.focus("#where canvas")
        for key in ("ArrowRight", "ArrowDown", "ArrowRight", "ArrowRight", "ArrowDown"):
            page.keyboard.press(key)
        places = doc["detail"]["places"]
        rows, bad = (sum(p[k][2][2] for p in places) for k in ("rows", "rows_mismatched"))
        width = doc["detail"]["bin_width"]
        cell = f"layer 2, positions {2 * width}-{3 * width - 1}"
        text = f"{cell}: {percent(bad / rows)}, {amount(bad)} of {amount(rows)} rows"
        assert page.inner_text("#where .cell span") == text
        assert page.inner_text("#status") == text
        command = page.inner_text("#where .cell code").split()
    assert command[:2] == ["routectl", "diff"]
    shown = json.loads(run(capsys, *command[1:], "--json").out)
    assert (shown["rows"], shown["rows_mismatched"]) == (rows, bad)
    assert len(shown["examples"]) == min(bad, 20)


def test_the_token_view_shows_both_sides(browser, folder, doc):
    """A token's sets, layer by layer, are those of the two dumps; hovering names the change."""
    sides = [open_dump(str(path)) for path in (OLD, NEW)]
    entry = doc["detail"]["sequences"][1]
    samples = [next(s for s in side if s.sample_id == entry["sample"]) for side in sides]
    with opened(browser, folder / "diff.html") as page:
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


def test_tokens_are_reached_by_keys(browser, folder):
    """Arrow keys walk the tokens, Enter shows one; Tab reaches every control on the way."""
    with opened(browser, folder / "diff.html") as page:
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


def test_csv_holds_the_view(browser, folder, doc, tmp_path):
    """The CSV's rows add up to what is in view; a table's is the table."""
    with opened(browser, folder / "diff.html", accept_downloads=True) as page:
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


def test_tables_sort_and_filter(browser, folder, doc):
    """A head sorts its column as numbers, both ways; the filter keeps what matches."""
    with opened(browser, folder / "diff.html") as page:
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


@pytest.mark.parametrize("name", ["diff", "staleness", "check", "show"])
def test_both_themes(browser, folder, name):
    """Each page follows the system's theme, the button turns it, and text stays readable."""
    colour = "getComputedStyle(document.body).backgroundColor"
    for scheme, other in (("light", "dark"), ("dark", "light")):
        with opened(browser, folder / f"{name}.html", color_scheme=scheme) as page:
            first = page.evaluate(colour)
            drawn = page.screenshot(full_page=True)
            page.click("[name=theme]")
            second = page.evaluate(colour)
            assert page.screenshot(full_page=True) != drawn
            page.emulate_media(color_scheme=other)
            assert page.evaluate(colour) == second != first
            assert page.locator("#panels section").count() >= 2
            assert page.locator("#failed").count() == 0


@pytest.mark.parametrize("name", ["diff", "staleness", "check", "show"])
def test_narrow_screens_do_not_scroll_sideways(browser, folder, name):
    """On a telephone nothing is wider than the screen but tables, which scroll by themselves."""
    with opened(browser, folder / f"{name}.html", viewport={"width": 390, "height": 800}) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_without_scripts(browser, folder, doc):
    """With scripts off the verdict and the tables are there, and a line says what is not."""
    with opened(browser, folder / "diff.html", java_script_enabled=False) as page:
        assert page.locator("h1").inner_text().startswith("DIFFERS")
        assert page.locator("noscript").count() == 1
        assert page.locator("#toolbar").is_hidden()
        rows = page.locator("#figures table").first.locator("tbody tr")
        assert rows.count() == len(doc["layers"]) + 1


def test_it_prints(browser, folder):
    """On paper the toolbar is gone and the page is light, even in the dark."""
    with opened(browser, folder / "diff.html", color_scheme="dark") as page:
        assert page.pdf().startswith(b"%PDF")
        page.emulate_media(media="print")
        assert page.locator("#toolbar").is_hidden()
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.evaluate("getComputedStyle(document.body).color") == "rgb(28, 33, 39)"


def test_hostile_samples_are_text(browser, tmp_path):
    """Names that are markup, script or formulas are shown as text, and nothing of them runs."""
    target = tmp_path / "hostile.html"
    target.write_bytes(html_page(hostile_document()).encode())
    with opened(browser, target, accept_downloads=True) as page:
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
