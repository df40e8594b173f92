"""The docs as a site: built strictly, loading nothing from elsewhere, readable in a browser.

Skipped where mkdocs is not installed, the last part also where Chromium is not.
"""

import functools
import http.server
import importlib.util
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import routectl
from routectl.codecs import CODECS, codec_named
from support.site import BUILT, DRAWN, FAULTS, SWITCH, contrast, loaded_from_elsewhere

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
CONFIG = ROOT / ".mkdocs.yml"
NOTHING = {  # to search: an index takes a page a second
    "config": {"lang": ["en"], "separator": " ", "pipeline": [], "fields": {}},
    "docs": [],
}
NAMES = sorted((DOCS / "reference" / "python").glob("*.md"))


def in_navigation():
    """The pages that the navigation names, in its order."""
    text = CONFIG.read_text("utf-8").split("\nnav:\n")[1].split("\n\n")[0]
    return re.findall(r"(\S+\.md)$", text, re.MULTILINE)


def test_every_page_is_in_the_navigation():
    """Each page of docs/ is in the navigation once, and nothing else is."""
    there = [path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")]
    assert sorted(in_navigation()) == sorted(there)


def test_every_public_name_is_shown():
    """The docstring of each public name of routectl, and of each of trainers/, is on one page."""
    shown = [
        name
        for page in NAMES
        for name in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)
    ]
    there = [f"routectl.{name}" for name in routectl.__all__ if name != "__version__"]
    for path in sorted((ROOT / "routectl" / "trainers").glob("[a-z]*.py")):
        listed = re.search(r"__all__ = \[(.*?)\]", path.read_text("utf-8"), re.DOTALL)[1]
        module = f"routectl.trainers.{path.stem}"
        there += [f"{module}.{name}" for name in re.findall(r'"(\w+)"', listed)]
    assert sorted(shown) == sorted(there)


def test_every_codec_has_a_page():
    """docs/codecs/ has a page for each codec, and each is named with its version there."""
    pages = {path.stem: path.read_text("utf-8") for path in (DOCS / "codecs").glob("*.md")}
    assert set(pages) == set(CODECS)
    for name in CODECS:
        assert pages[name].startswith(f"# {codec_named(name).id}\n")


def test_docstrings_become_markdown():
    """An aligned list of a docstring is a list on the site, a request has its options' help."""
    pytest.importorskip("griffe")
    from site_docstrings import markdown_of

    text = (
        "Weights.\n\npath   a folder, or\n       a file\nfiles, names  both\n\nMore of it.\n\n::\n"
    )
    told = "Weights.\n\n- `path`: a folder, or a file\n- `files, names`: both\n\nMore of it.\n\n"
    assert markdown_of(text) == told


def test_figures_are_readable():
    """Each colour of text in a figure has a contrast of 4.5 with what it stands on, both themes."""
    from figures import ON, THEMES

    for theme, colours in THEMES.items():
        for ink, grounds in ON.items():
            for ground in grounds:
                ratio = contrast(colours[ink], colours[ground])
                assert ratio >= 4.5, (theme, ink, ground, ratio)


def test_figures_are_told():
    """Each picture of a page has words for who does not see it, and each figure is on a page."""
    shown = set()
    for page in DOCS.rglob("*.md"):
        for words, path in re.findall(r"!\[(.*?)\]\((\S+?)\)", page.read_text("utf-8")):
            assert len(words.split()) >= 4, page.name
            shown.add((page.parent / path).resolve())
    figures = set(DOCS.rglob("*.svg"))
    assert figures
    assert figures <= shown


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_figures_follow_the_theme(browser, theme):
    """A figure's ground is light or dark as the reader's theme is, and its words are inside it."""
    with browser.new_context(color_scheme=theme) as context:
        page = context.new_page()
        for path in sorted(DOCS.rglob("*.svg")):
            page.goto(path.as_uri())
            ground, ink, outside = page.evaluate(DRAWN)
            assert outside == [], path.name
            assert contrast(ink, ground) >= 4.5, path.name
            assert contrast(ground, {"light": "#000000", "dark": "#ffffff"}[theme]) > 10, path.name


def build(config, folder):
    """Build a site strictly; its process. With -q no warning is counted, and nothing is strict."""
    line = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", config, "-d", folder]
    names = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(line, capture_output=True, text=True, env=names, cwd=ROOT, check=False)


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The site, built strictly: a warning, such as a link that leads nowhere, is an error."""
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("no mkdocs: pip install -e '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    done = build(CONFIG, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_a_link_that_leads_nowhere_ends_the_build(tmp_path):
    """By our own configuration a page, an anchor, a picture or a place of a host that is not there
    is an error.
    """
    pytest.importorskip("mkdocs")
    docs = tmp_path / "docs"
    docs.mkdir()
    config = tmp_path / "mkdocs.yml"
    config.write_text(f"INHERIT: {CONFIG}\ndocs_dir: docs\nnav: [index.md]\nplugins: []\n")
    (docs / "index.md").write_text("# A page\n\n[a](#a-page)\n")
    assert build(config, tmp_path / "out").returncode == 0
    nowhere = ("b.md", "#nowhere", "b.svg", "/b")
    (docs / "index.md").write_text("# A page\n\n" + " ".join(f"[a]({n})" for n in nowhere))
    done = build(config, tmp_path / "out")
    assert done.returncode == 1
    said = re.findall(r"^WARNING.*?link '(.*?)'", done.stdout + done.stderr, re.MULTILINE)
    assert sorted(said) == sorted(nowhere)


@pytest.fixture(scope="session")
def address(site):
    """The site, served on the loopback."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            """Say nothing."""

    handler = functools.partial(Quiet, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.slow
def test_the_site_loads_nothing_from_elsewhere(site):
    """No page, style or script of ours names a host that a browser would ask."""
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 40
    assert {p.name: found for p in pages if (found := loaded_from_elsewhere(p))} == {}
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(\s*['\"]?(?:https?:)?//", style.read_text("utf-8")), style


@pytest.mark.slow
def test_docstrings_are_on_the_site(site):
    """A page made of docstrings has their text, a list where theirs is one, and options' help."""
    nouns = (site / "reference" / "python" / "nouns.html").read_text("utf-8")
    assert "lazy, sized, re-iterable collection of samples" in nouns
    assert "<li><code>tensors</code>: by name</li>" in nouns
    requests = (site / "reference" / "python" / "requests.html").read_text("utf-8")
    assert "<li><code>clear = False</code>: Let go of them" in requests


@pytest.mark.slow
@pytest.mark.browser
def test_pages_are_readable(site, address, browser):
    """At 400 and 1280 px, light and dark, no page scrolls sideways, complains, asks elsewhere, or
    has faint text.
    """
    trouble, themes = [], set()
    context = browser.new_context(color_scheme="light")
    context.route("**/search_index.json", lambda route: route.fulfill(json=NOTHING))
    page = context.new_page()
    page.on("console", lambda message: trouble.append((page.url, message.text)))
    page.on("pageerror", lambda error: trouble.append((page.url, str(error))))
    page.on(
        "request",
        lambda asked: asked.url.startswith(address) or trouble.append((page.url, asked.url)),
    )
    for path in sorted(site.rglob("*.html")):
        if path.name == "404.html":
            continue
        name = path.relative_to(site).as_posix()
        page.set_viewport_size({"width": 1280, "height": 900})
        page.goto(f"{address}/{name}")
        page.wait_for_function(BUILT)
        page.add_style_tag(content="* { transition: none !important; }")
        for width in (1280, 400):
            page.set_viewport_size({"width": width, "height": 900})
            for _ in range(2):  # the theme that the page before left, then the other
                theme = page.evaluate("document.body.dataset.mdColorScheme")
                themes.add(theme)
                trouble += [(name, theme, width, fault) for fault in page.evaluate(FAULTS)]
                page.evaluate(SWITCH)
    context.close()
    assert trouble == []
    assert themes == {"default", "slate"}


@pytest.mark.slow
@pytest.mark.browser
def test_the_site_is_searched(address, browser):
    """A word finds its page, with no server but the one of the files."""
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(f"{address}/index.html")
        page.click(".md-search__input")
        page.fill(".md-search__input", "zigzag")
        page.wait_for_selector(".md-search-result__link[href*='layouts.html']", timeout=180_000)
