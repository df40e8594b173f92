"""What tests of pages in a browser share: pages opened from disk."""

import json
import shutil
from contextlib import contextmanager

import pytest

from routectl.cli.main import main
from routectl.reports.page.page import html_page
from support.pages import NEW, OLD, predicted_document
from support.recordings import FIXTURES

GOLDEN, CI = FIXTURES / "golden", FIXTURES / "routectl-ci.toml"


@pytest.fixture
def opened(browser):
    """A page that was opened from disk; it must ask for nothing and complain of nothing."""

    @contextmanager
    def of(path, **context):
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

    return of


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A real diff as a page and as its document, and pages of the other verbs."""
    made = tmp_path_factory.mktemp("pages")

    def write(name, *line):
        quiet = ["-o", str(made / f"{name}.txt"), "--html", str(made / f"{name}.html")]
        assert main([*map(str, line), *quiet]) == 0

    diff = ["diff", OLD, NEW, "--examples", "8", "--exit-zero"]
    write("diff", *diff)
    assert main([*map(str, diff), "-o", str(made / "diff.json")]) == 0
    write("check", "check", NEW, "--against", OLD, "--exit-zero")
    write("show", "show", OLD)
    tiny = NEW.parent
    versions = f"v0={NEW}", f"v1={tiny}/transformers_v1.fp32.npz", f"v2={tiny}/routes_v2.fp32.npz"
    at = [word for version in versions for word in ("--at", version)]
    write("staleness", "staleness", OLD, *at, "--exit-zero")
    for name in ("checkpoint", "series"):
        write(name, "report", GOLDEN / f"{name}.json")
    far = ["diff", OLD, tiny / "routes_v2.fp32.npz", "-o", made / "far.json"]
    assert main([*map(str, far)]) == 1
    write("beside", "report", made / "diff.json", made / "far.json")
    assert main(["ci", str(CI), "-o", str(made / "ci.json")]) == 1
    write("ci", "report", made / "ci.json")
    (made / "predict.html").write_bytes(html_page(predicted_document()).encode())
    pack = ["pack", OLD, "--save", made / "packed", "--framework", "slime", "--cp", "2"]
    assert main([*map(str, pack), "--max-tokens-per-gpu", "4096"]) == 0
    shutil.copytree(made / "packed", made / "wrong")
    (made / "wrong" / "manifest.json").unlink()
    layout = "framework=verl,cp=2,max-tokens-per-gpu=4096"
    verify = ["verify", made / "wrong", "--against", OLD, "--layout", layout]
    assert main([*map(str, verify), "-o", str(made / "verify.json")]) == 1
    write("verify", "report", made / "verify.json")
    return made


@pytest.fixture(scope="session")
def doc(folder):
    """The document that diff.html holds."""
    return json.loads((folder / "diff.json").read_text("utf-8"))
