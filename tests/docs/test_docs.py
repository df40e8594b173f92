"""Golden files, generated docs and console blocks, made again and compared."""

import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent.parent
MARKS = {
    "staleness.md": [pytest.mark.models],  # its console blocks run checkpoints
    "series.json": [pytest.mark.slow],  # series.txt is made of the same reports
    "staleness.terminal.txt": [pytest.mark.slow],  # staleness.pipe.txt has the same figures
    "staleness.wide.txt": [pytest.mark.slow],
    "ci.md": [pytest.mark.slow],  # ci.txt runs the same checks
    "a-training-run.md": [pytest.mark.slow],  # the commands of these are on other pages, too
    "kl-is-rising.md": [pytest.mark.slow],
    "judge-a-dump.md": [pytest.mark.slow],
    "pack.md": [pytest.mark.slow],
    "verify.md": [pytest.mark.slow],
    "choose-r2-or-r3.md": [pytest.mark.slow],
    "sglang.md": [pytest.mark.slow],
    "vllm.md": [pytest.mark.slow],
    "ci.terminal.txt": [pytest.mark.slow],
    "routectl-ci.baseline.json": [pytest.mark.slow],
}


def load_make() -> ModuleType:
    """fixtures/make.py as a module."""
    spec = importlib.util.spec_from_file_location("make", ROOT / "fixtures" / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MADE = [  # paths, and functions that make what is in them: nothing is made before its test
    pytest.param(path, content, id=path.name, marks=MARKS.get(path.name, []))
    for path, content in load_make().made()
]


@pytest.mark.parametrize(("path", "content"), MADE)
def test_made_file_is_true(path: Path, content: Callable[[], bytes]) -> None:
    """What fixtures/make.py makes now is what is checked in."""
    assert path.read_bytes() == content()


def test_console_blocks_are_all_run() -> None:
    """Every console block of README and docs holds a command, so make.py runs it."""
    blocks = 0
    for path in PAGES:
        for block in re.findall(r"```console\n(.*?)```", path.read_text("utf-8"), re.DOTALL):
            blocks += 1
            assert block.startswith("$ "), path.name
            assert "$ routectl " in block, path.name
    assert blocks >= 4


_WRITES = re.compile(
    r"(?:--save |--html |--partial |-o |mkdir (?:-p )?|unpack (?=\w+ >)|cp -r \S+ |(?<![12&])> ?)"
    r"([^\s/;|&`$]+)"
)


def names_written(text: str) -> set[str]:
    """The first folder or the file of what the commands of a page's console blocks write."""
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    return {name for line in commands for name in _WRITES.findall(line.removeprefix("$ "))}


def test_no_two_pages_write_the_same_name() -> None:
    """Pages that are tried in one folder, one after the other, are not in each other's way."""
    writer: dict[str, str] = {}
    for path in PAGES:
        for name in sorted(names_written(path.read_text("utf-8"))):
            page = path.relative_to(ROOT).as_posix()
            assert writer.setdefault(name, page) == page, f"{name}: {writer[name]} and {page}"
    assert {"run", "part-2", "steps", "eight.jsonl", "replay-verl"} <= set(writer)


def test_links_lead_somewhere() -> None:
    """Every relative link in README and docs names a file that is there."""
    for path in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text("utf-8")):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_readme_is_short() -> None:
    """README has at most 150 lines, and the two commands that .ci/run takes out of it."""
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.splitlines()) <= 150
    install, develop = re.findall(r"^```sh\n(.*?)\n```$", text, re.DOTALL | re.MULTILINE)
    assert " && .venv/bin/routectl diff " in install
    assert develop.endswith(" && .venv/bin/python -m pytest -n 3")


def test_files_that_are_named_are_there() -> None:
    """A script that README or docs name with its folder, as ops/diff/diff.py, is in the tree."""
    tree = [p for top in ("routectl", "tests", "fixtures") for p in (ROOT / top).rglob("*.??*")]
    files = [path.as_posix() for path in tree]
    for path in [*PAGES, ROOT / "fixtures" / "README.md"]:
        for name in re.findall(r"(?:\w+/)+\w+\.(?:py|js|html)\b", path.read_text("utf-8")):
            there = any(file.endswith(f"/{name}") for file in files)
            assert there or "NAME" in name, f"{path.name}: {name}"


def test_documents_match_their_contract() -> None:
    """Every top-level key of each JSON document is named in docs/json.md, and no other."""
    from support.schemas import TYPES

    text = (ROOT / "docs" / "json.md").read_text("utf-8")
    files = {
        "diff": "diff",
        "show": "show",
        "check": "check.",
        "checkpoint": "checkpoint",
        "staleness": "staleness",
        "staleness_series": "series",
    }
    for name, file in files.items():
        section = text.split(f"## routectl.{name}/1")[1].split("\n## ")[0]
        named = set()
        for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE):
            named |= set(re.findall(r"`(\w+)`", row))
        keys = {"schema"}
        for golden in (ROOT / "fixtures" / "golden").glob(f"{file}*json"):
            keys |= set(json.loads(golden.read_text("utf-8")))
        assert named - {"part"} == keys - {"schema"}  # no golden is of a part
        assert ("part" in named) == ("part" in TYPES[name].__annotations__)


def test_metrics_of_the_page_are_those_of_the_documents() -> None:
    """Each metric of docs/metrics.md is in the JSON of a command, and the other way round."""
    from routectl.ops.diff.metrics import METRICS
    from routectl.reports.diff.named import figure_of

    page = (ROOT / "docs" / "metrics.md").read_text("utf-8")
    table = page.split("### What counts as lost")[0].splitlines()
    rows = [cells for line in table if len(cells := re.split(r"(?<!\\)\|", line)) == 6]
    named = {name for row in rows for name in re.findall(r"`([a-z0-9_.]+)`", row[3])}
    extra = {"rows_mismatched", "rows_missing", "unmatched"}  # in the line below the table
    assert named | extra == {metric.name for metric in METRICS}
    golden = ROOT / "fixtures" / "golden"
    doc = json.loads((golden / "diff.margins.json").read_text("utf-8"))
    for metric in METRICS:
        assert figure_of(doc, metric) is not None, metric.name
        if metric.of_measures is not None:
            assert figure_of(doc["layers"][0], metric) is not None, metric.name
    keys = {metric.key.removeprefix("logprobs.") for metric in METRICS}
    assert set(doc["logprobs"]) - {"tokens", "tau"} <= keys
    rates = {key for key in doc["layers"][0] if key.endswith(("_rate", "_old", "_new"))}
    assert rates <= keys
    shown = json.loads((golden / "show.json").read_text("utf-8"))["layers"][0]
    assert {"max_vio", "min_vio", "avg_vio", "entropy", "dead_experts"} <= set(shown)
    assert "confidence_new" in page
    assert "confidence_new" in (ROOT / "docs" / "schema" / "staleness.json").read_text("utf-8")
    assert "`replaced`" in page
    assert "replace_rate" in (ROOT / "docs" / "schema" / "predict.json").read_text("utf-8")


def test_thresholds_are_documented() -> None:
    """Every metric that can be gated is in docs/metrics.md and in the help of diff."""
    from routectl.ops.diff.metrics import METRICS

    page = (ROOT / "docs" / "metrics.md").read_text("utf-8")
    flat = re.sub(r"\s+", " ", (ROOT / "docs" / "cli.md").read_text("utf-8"))
    for metric in METRICS:
        assert f"`{metric.name}`" in page
        assert metric.name in flat


def test_every_form_has_a_row_of_its_framework() -> None:
    """Each format that opens and each target is in the table of frameworks, and nothing else is."""
    from routectl.formats import FORMATS
    from routectl.formats.targets.table import TARGETS

    page = (ROOT / "docs" / "formats.md").read_text("utf-8")
    part = page.partition("## By framework")[2].partition("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("| ")]
    head, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert head == ["framework", "version tried", "date", "form", "read", "written", "checked by"]
    assert [row[0].lower() for row in rows] == sorted(row[0].lower() for row in rows)
    named = [{name for row in rows for name in re.findall(r"`([^`]+)`", row[i])} for i in (4, 5)]
    assert named == [{*FORMATS, "art"}, {target.name for target in TARGETS}]
    for row in rows:
        assert re.fullmatch(r"2026-\d\d-\d\d", row[2])
        assert row[6].startswith(("its own", "source"))
