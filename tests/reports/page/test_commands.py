"""Commands that a page offers: pasted into a shell, each tells of the rows that it is beside."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from routectl.dump import Sample
from routectl.formats.native.container import write_native
from routectl.reports.text.wording import amount, percent
from routectl.routes import Routes
from support.dumps import make_dump
from support.pages import HOSTILE, NEW, OLD, line_of, select
from support.recordings import FIXTURES
from support.shell import run

pytestmark = pytest.mark.browser
TYPED = [name for name in HOSTILE[:10] if "\0" not in name]


def pasted(capsys, page, place, *more):
    """The JSON that the command in an element prints, as a shell reads its words."""
    command = page.inner_text(f"{place} code")
    asked = ["bash", "-c", f"for word in {command}; do printf '%s\\0' \"$word\"; done"]
    words = subprocess.run(asked, capture_output=True, check=True).stdout.decode().split("\0")[:-1]
    assert words.pop(0) == "routectl"
    done = run(capsys, *words, "--json", *more)
    assert done.code in (0, 1), done.err
    return json.loads(done.out)


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A folder with a dump that does not say its model, and a name that a shell must be told."""
    folder = tmp_path / "run 7's"
    folder.mkdir()
    shutil.copy(OLD, folder / "samples.jsonl")
    shutil.copy(NEW, folder / "new.parquet")
    shutil.copy(CONFIG, tmp_path / "the model.json")
    monkeypatch.chdir(tmp_path)
    return tmp_path


CONFIG = FIXTURES / "tiny_rl" / "config.json"
DIFF = (
    "diff",
    "run 7's/samples.jsonl::format=jsonl",
    "run 7's/new.parquet",
    "--model",
    "the model.json",
)


@pytest.mark.parametrize(
    ("asked", "selection"),
    [
        ((), {}),
        ((), {"tokens": "response", "layers": "1-3"}),
        ((), {"sample": ("3/7",), "tokens": "prompt"}),
        (("--tokens", "response", "--layers", "1,2", "--match", "order", "--eps", "0.01"), {}),
        (("--sample", "3/7", "--sample", "0/3", "--fail-over", "mismatch:50%"), {}),
        (("--rerun", "run 7's/new.parquet", "--allow-unmatched"), {"tokens": "response"}),
    ],
    ids=["whole", "part", "sample", "options", "samples", "judged"],
)
def test_a_cell(opened, made, capsys, asked, selection):
    """The command of a cell of the heatmap compares the rows of that cell."""
    page_of = made / "page.html"
    done = run(capsys, *DIFF, *asked, "--html", page_of, "--exit-zero")
    assert done.code == 0, done.err
    with opened(page_of) as page:
        doc = json.loads(page.text_content("#document"))
        if selection:
            select(page, doc, **{"layers": "0-5", **selection})
        page.focus("#where canvas")
        page.keyboard.press("ArrowRight")
        if "response" in (*asked, *selection.values()):  # no row is at the beginning
            assert page.locator("#where .cell code").count() == 0
        for key in (
            "ArrowDown",
            *("ArrowRight" for _ in range(2 if "sample" in selection else 20)),
        ):
            page.keyboard.press(key)
        told = pasted(capsys, page, "#where .cell")
        rate, counts = page.inner_text("#where .cell span").split(": ")[1].split(", ", 1)
    assert told["rows"] > 0
    assert rate == percent(told["mismatch_rate"])
    assert counts == f"{amount(told['rows_mismatched'])} of {amount(told['rows'])} rows"
    assert told["verdict"]["failed"] == []


def test_a_token(opened, made, capsys):
    """The command of a token compares its layers that differ; all of their rows are examples."""
    page_of = made / "page.html"
    assert run(capsys, *DIFF, "--html", page_of, "--exit-zero").code == 0
    with opened(page_of) as page:
        page.click(".tokens [style]")
        told = pasted(capsys, page, ".sides .cell")
        differing = page.locator(".sides tr.differs").count()
        position = int(page.inner_text(".sides .note").split()[1].rstrip(","))
    assert (told["rows"], told["rows_mismatched"]) == (differing, differing)
    assert {example["position"] for example in told["examples"]} == {position}


@pytest.mark.parametrize("asked", [(), ("--against", "run 7's/new.parquet", "--ignore", "R7")])
def test_a_finding(opened, made, capsys, asked):
    """The command of a finding looks for findings of its code, and finds as many rows."""
    dump = made / "shifted.parquet"
    page_of = made / "page.html"
    moved = np.roll(np.arange(6 * 4, dtype=np.uint8).reshape(1, 6, 4), 1, axis=2)
    routes = Routes(np.repeat(moved, 30, axis=0), tuple(range(6)), 32)
    write_native(
        [Sample(routes, "0/0")],
        make_dump([], range(6), experts=32, top_k=4).meta,
        dump,
        force=False,
    )
    line = ("check", "shifted.parquet", *asked, "--html", page_of, "--exit-zero")
    done = run(capsys, *line)
    assert done.code == 0, done.err
    with opened(page_of) as page:
        doc = json.loads(page.text_content("#document"))
        assert doc["findings"]
        for n, finding in enumerate(doc["findings"]):
            told = pasted(capsys, page, f"#finding-{n}", "--exit-zero")
            same = [f for f in doc["findings"] if f["code"] == finding["code"]]
            assert told["findings"] == same


@pytest.fixture
def hostile(tmp_path):
    """Two dumps of samples with hostile names, every row of them mismatched."""
    ids = np.zeros((4, 2, 2), np.uint8)
    ids[..., 1] = 1
    sides = tmp_path / "old.parquet", tmp_path / "new.parquet"
    for side, array in zip(sides, (ids, np.where(ids == 1, 2, ids).astype(np.uint8)), strict=True):
        samples = [Sample(Routes(array, (0, 1), 4), name, prompt_length=2) for name in TYPED]
        meta = make_dump(samples, (0, 1), experts=4, top_k=2).meta
        write_native(samples, meta, side, force=False)
    return ("diff", *sides, "--match", "id", "--examples", "20", "--exit-zero")


def test_hostile_names(opened, hostile, tmp_path, capsys):
    """A sample of whatever name is named by the command as the shell needs it, and nothing runs."""
    page_of = tmp_path / "page.html"
    assert run(capsys, *hostile, "--html", page_of).code == 0
    with opened(page_of) as page:
        doc = json.loads(page.text_content("#document"))
        names = [entry["sample"] for entry in doc["detail"]["sequences"]]
        assert set(names) == set(TYPED)
        for name in TYPED:
            page.select_option("[name=sample]", str(names.index(name)))
            page.click(".tokens [role=option]")
            told = pasted(capsys, page, ".sides .cell")
            assert {example["sample"] for example in told["examples"]} == {name}
    assert not (tmp_path / "owned").exists()


def test_withheld_names_have_no_command(opened, hostile, tmp_path, capsys):
    """A name that a page keeps back is in no command: the page says why there is none."""
    page_of = tmp_path / "page.html"
    assert run(capsys, *hostile, "--no-tokens", "--html", page_of).code == 0
    with opened(page_of) as page:
        page.select_option("[name=sample]", "0")
        page.click(".tokens [role=option]")
        assert page.locator(".sides .cell code").count() == 0
        assert "withheld" in page.inner_text(".sides .cell")


def test_what_cannot_be_typed_says_so(opened, tmp_path):
    """A dump from a pipe cannot be read again: there is no command, and the page says why."""
    page_of = tmp_path / "page.html"
    line = ("diff", "-::format=jsonl", NEW, "--model", CONFIG, "--html", page_of, "--exit-zero")
    with OLD.open("rb") as stream:
        words = [sys.executable, "-m", "routectl", *map(str, line)]
        subprocess.run(words, stdin=stream, stdout=subprocess.DEVNULL, check=True)
    with opened(page_of) as page:
        page.focus("#where canvas")
        page.keyboard.press("ArrowRight")
        assert page.locator("#where .cell code").count() == 0
        assert "a pipe" in page.inner_text("#where .cell")


def test_rows_of_the_toolbar(opened, made, capsys):
    """The page of a narrowed diff counts the rows that were asked for."""
    page_of = made / "page.html"
    told = run(capsys, *DIFF, "--layers", "2", "--html", page_of, "--json", "--exit-zero")
    with opened(page_of) as page:
        assert page.inner_text("#toolbar output") == line_of(json.loads(told.out))
