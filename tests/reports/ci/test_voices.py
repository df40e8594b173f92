"""What routectl ci writes for others: JUnit XML, GitHub, a badge; and the workflows of the docs."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.dom import minidom
from xml.etree import ElementTree as ET

import pytest
import yaml
from junitparser import Error, Failure, JUnitXml
from markdown_it import MarkdownIt

from routectl.reports.ci.document import answered, ci_document, troubled
from routectl.reports.ci.services import (
    badge_json,
    github_annotations,
    github_summary,
    junit_xml,
)
from routectl.visible import visible
from support.ci_configs import CHECK, DIFF, EXACT, config
from support.pages import Parsed
from support.poison import POISON, faults_of
from support.shell import complaint, document, run, written
from support.tiny_rl import ENGINE, TINY

ROOT = Path(__file__).parent.parent.parent.parent
GOLDEN = ROOT / "fixtures" / "golden"
PAGE = (ROOT / "docs" / "ci.md").read_text("utf-8")
NASTY = "a|b,c:d %0A <b>`x`</b> ]]> \n::error::gotcha\r\x1b[31m\x00 \U0001f40d"
ABOUT = {"name": "a", "check": "a", "key": None, "verb": "diff", "inputs": {}}
# actions/runner, ActionCommand.cs: a command is `::name key=value,...::data`, each unescaped so
COMMAND = re.compile(r"::error title=([^,:\n]*)::([^\n]*)\n")
# Of junit-10.xsd (Jenkins' xUnit plugin): the children and attributes that an element may have
SCHEMA = {
    "testsuites": ({"testsuite"}, {"name", "time", "tests", "failures", "errors"}),
    "testsuite": (
        {"testsuite", "properties", "testcase", "system-out", "system-err"},
        {
            "name",
            "tests",
            "failures",
            "errors",
            "group",
            "time",
            "skipped",
            "timestamp",
            "hostname",
            "id",
            "package",
            "file",
            "log",
            "url",
        },
    ),
    "testcase": (
        {"skipped", "error", "failure", "system-out", "system-err"},
        {"name", "time", "classname", "group"},
    ),
    "failure": (set(), {"type", "message"}),
    "error": (set(), {"type", "message"}),
    "system-out": (set(), set()),
}


@pytest.fixture(autouse=True)
def _no_github(monkeypatch):
    """These tests may run on GitHub themselves."""
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(name="three")
def three_(tmp_path):
    """A config whose checks pass, fail and are in trouble."""
    differs = {**DIFF, "fail-over": ["mismatch@*:3%", "mismatch:1%"]}
    return config(tmp_path, same=EXACT, differs=differs, gone={**CHECK, "dump": "gone"})


def nasty():
    """A document with a name and a message that try to be markup."""
    return ci_document(
        "ci.toml", None, [troubled({**ABOUT, "name": NASTY}, NASTY, [f"hint: {NASTY}"], 0.5)]
    )


LINKS = "www.a.example http://a.example a@b.example @all #1 ~~x~~ *x* _x_ <img src=x>"


def raw():
    """A document by another hand: each text of it as it came."""
    run = troubled(ABOUT, "", [], 0.5)
    text = f"{POISON} {LINKS}"
    about = {"name": text, "check": text, "summary": text, "details": [text, text]}
    return ci_document(text, text, [{**run, **about}])


class TestForeignText:
    """What a document holds is text in each voice, whoever made the document."""

    @pytest.mark.parametrize("document", [nasty(), raw()], ids=["ours", "theirs"])
    @pytest.mark.parametrize("voice", [junit_xml, github_annotations, github_summary, badge_json])
    def test_it_is_text(self, voice, document):
        """No control, no line of its own, no command but ours."""
        told = voice(document)
        text = told.decode("utf-8") if isinstance(told, bytes) else told
        assert faults_of(text.replace("⚠️", ""), own=("::error title=",)) == []

    def test_junit_by_other_parsers(self, tmp_path):
        """ElementTree, minidom, expat and junitparser read the same names and messages."""
        data, shown = junit_xml(raw()), visible(f"{POISON} {LINKS}")
        path = tmp_path / "junit.xml"
        path.write_bytes(data)
        (suite,) = JUnitXml.fromfile(str(path))
        (case,) = list(suite)
        (problem,) = case.result
        assert (suite.name, case.name, problem.message) == (shown,) * 3
        assert problem.text == f"{shown}\n{shown}"
        (element,) = minidom.parseString(data).getElementsByTagName("testcase")
        assert element.getAttribute("name") == shown
        (case,) = ET.fromstring(data).iter("testcase")
        assert case.attrib["name"] == shown

    def test_the_summary_as_markdown(self):
        """Rendered by markdown-it, the summary has our elements alone, and the text as it is."""
        render = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render
        page, shown = Parsed(render(github_summary(raw()))), visible(f"{POISON} {LINKS}")
        known = {"h3", "p", "table", "thead", "tbody", "tr", "th", "td"}
        assert set(page.tags) <= known | {"details", "summary", "pre", "code"}
        assert page.attributes == [("open", None)]
        ((_, row),) = page.tables
        assert row[3] == shown.replace("@", "")  # those are in elements of their own
        assert shown in page.text


class TestJunit:
    """JUnit XML."""

    def test_another_parser_reads_it(self, capsys, tmp_path, three):
        """junitparser finds a case a run, its failure with the crossed thresholds, its error."""
        path = tmp_path / "junit.xml"
        assert run(capsys, "ci", three, "--junit", path).code == 2
        suites = JUnitXml.fromfile(str(path))
        assert (suites.tests, suites.failures, suites.errors) == (3, 1, 1)
        (suite,) = list(suites)
        same, differs, gone = list(suite)
        assert [case.name for case in (same, differs, gone)] == ["same", "differs", "gone"]
        assert same.is_passed
        (failure,) = differs.result
        assert isinstance(failure, Failure)
        assert failure.text.splitlines() == [
            "mismatch@*:3%: 3.03 % over 3 % in layer 5",
            "mismatch:1%: 2.02 % over 1 %",
        ]
        (error,) = gone.result
        assert isinstance(error, Error)
        assert "gone: cannot be read" in error.message
        assert suites.time == pytest.approx(sum(case.time for case in suite), abs=0.01)

    def test_the_schema_of_jenkins(self, capsys, tmp_path, three):
        """Every element is where junit-10.xsd allows it, with attributes that it knows."""
        path = tmp_path / "junit.xml"
        run(capsys, "ci", three, "--junit", path)
        for text in (path.read_bytes(), junit_xml(nasty())):
            root = ET.fromstring(text)
            assert root.tag == "testsuites"
            for element in root.iter():
                children, attributes = SCHEMA[element.tag]
                assert {child.tag for child in element} <= children
                assert set(element.attrib) <= attributes
            assert all("name" in case.attrib for case in root.iter("testcase"))
            for suite in root.iter("testsuite"):
                assert {"name", "tests", "failures", "errors"} <= set(suite.attrib)
                assert re.fullmatch(r"\d+\.\d*", suite.attrib["time"])

    def test_any_text_is_legal(self):
        """Markup and control characters in names and messages leave whole XML."""
        (case,) = ET.fromstring(junit_xml(nasty())).iter("testcase")
        assert "<b>`x`</b> ]]>" in case.attrib["name"]
        error = case.find("error")
        assert error is not None
        assert "\\x00" in error.attrib["message"]


class TestGithub:
    """Annotations and the step summary."""

    def test_by_itself_on_github(self, capsys, tmp_path, three, monkeypatch):
        """Where GITHUB_ACTIONS is true, stderr has an annotation a bad run, and the summary grows;
        stdout is the report alone. --no-github is silent, --github is not without it.
        """
        summary = tmp_path / "summary.md"
        summary.write_text("before\n", "utf-8")
        monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
        assert "::error" not in run(capsys, "ci", three).err
        monkeypatch.setenv("GITHUB_ACTIONS", "true")
        assert "::error" not in run(capsys, "ci", three, "--no-github").err
        assert summary.read_text("utf-8") == "before\n"
        done = run(capsys, "ci", three)
        assert "::" not in done.out
        titles = [title for title, _ in COMMAND.findall(done.err)]
        assert titles == ["routectl diff%3A differs", "routectl check%3A gone"]
        text = summary.read_text("utf-8")
        assert text.startswith("before\n### routectl: TROUBLE\n")
        assert "mismatch@*:3%: 3.03 % over 3 % in layer 5" in text
        monkeypatch.delenv("GITHUB_ACTIONS")
        monkeypatch.delenv("GITHUB_STEP_SUMMARY")
        done = run(capsys, "ci", three, "--github")
        assert len(COMMAND.findall(done.err)) == 2
        assert "GITHUB_STEP_SUMMARY is not set" in done.err

    def test_nothing_to_annotate(self, capsys, tmp_path, monkeypatch):
        """A run that passed has no annotation; a summary that cannot be written is exit 2."""
        path = config(tmp_path, same=EXACT)
        assert run(capsys, "ci", path, "--github").err.count("::") == 0
        monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "no" / "summary.md"))
        assert run(capsys, "ci", path, "--github").code == 2

    def test_annotations_are_escaped(self):
        """A hostile name or message is one command: no line break, comma or colon gets out."""
        text = github_annotations(nasty())
        assert len(text.splitlines()) == 1
        (found,) = COMMAND.findall(text)
        title, data = found
        assert "%2C" in title
        assert "%3A" in title
        assert "%0A" not in title
        assert data.count("%250A") == 2  # the %0A that was in the text is not a line break

    def test_the_summary_is_a_table(self):
        """A hostile name stays in its cell: no markup of it counts, and rows have four cells."""
        text = github_summary(nasty())
        assert "<b>" not in text
        assert "\n::" not in text
        (row,) = [line for line in text.splitlines() if line.startswith("| ⚠️")]
        assert row.count("|") == 5
        assert "`" not in row

    def test_many_details_are_cut(self):
        """A run with many crossed thresholds says how many more there are."""
        failed = [
            {
                "threshold": "mismatch@*:1%",
                "metric": "mismatch",
                "layer": n,
                "value": 0.5,
                "limit": 0.01,
            }
            for n in range(60)
        ]
        lost = {"samples": 0, "layers": 0, "rows": 0}
        verdict = {"failed": failed, "thresholds": ["mismatch@*:1%"], "exit_code": 1}
        verdict |= {"unmatched": lost, "fail_on": None}
        doc = {
            "schema": "routectl.staleness/1",
            "verdict": verdict,
            "comparisons": [
                {
                    "kind": "total",
                    "mode": "free",
                    "lag": None,
                    "mismatch_rate": 0.5,
                    "layers": [],
                    "samples": {"only_old": 0, "only_new": 0},
                }
            ],
            "by_lag": [],
            "noise": [],
            "drift": {"half_lives": []},
            "advice": {"mode": None, "findings": []},
        }
        whole = ci_document("ci.toml", None, [answered(ABOUT, doc, 0.1)])
        assert "and 10 more" in github_summary(whole)
        assert "and 10 more" in github_annotations(whole)


class TestBadge:
    """The JSON of a shields.io endpoint."""

    def test_three_colours(self, capsys, tmp_path):
        """All passed is green, a failure red, trouble orange; keys are those of the endpoint."""
        cases = (
            (EXACT, "brightgreen", "1 of 1 check passed"),
            (DIFF, "red", None),
            ({**DIFF, "old": "gone"}, "orange", None),
        )
        for n, (words, colour, message) in enumerate(cases):
            saved, path = tmp_path / f"saved-{n}.json", tmp_path / f"{n}.json"
            run(capsys, "ci", config(tmp_path, a=words), "-o", saved)
            assert run(capsys, "report", saved, "--badge", path).code == 0
            badge = json.loads(path.read_text("utf-8"))
            assert list(badge) == ["schemaVersion", "label", "message", "color"]
            assert (badge["schemaVersion"], badge["color"]) == (1, colour)
            assert message in (None, badge["message"])
        assert json.loads(badge_json(nasty()))["label"] == "routectl"

    def test_files_that_exist(self, capsys, tmp_path):
        """A file that exists is kept unless --force is given."""
        saved, target = GOLDEN / "diff.json", tmp_path / "badge.json"
        target.write_text("mine", "utf-8")
        assert "already exists" in complaint(capsys, "report", saved, "--badge", target)
        assert target.read_text("utf-8") == "mine"
        assert run(capsys, "report", saved, "--badge", target, "--force").code == 0
        assert json.loads(target.read_text("utf-8"))["schemaVersion"] == 1


def workflows():
    """The YAML blocks of docs/ci.md: GitHub's, then GitLab's."""
    return [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]


def shell(script, folder):
    """Run shell lines as a runner does, with routectl of this tree; the exit code."""
    lines = [line for line in script.splitlines() if not line.startswith("pip install")]
    front = folder / "bin"
    front.mkdir(exist_ok=True)
    command = front / "routectl"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m routectl "$@"\n', "utf-8")
    command.chmod(0o755)
    environment = {
        "PATH": f"{front}:/usr/bin:/bin",
        "PYTHONPATH": str(ROOT),
        "CI": "true",
        "OMP_NUM_THREADS": "1",
        "HOME": str(folder),
    }
    done = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", "\n".join(lines)],
        cwd=folder,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    return done.returncode


@pytest.mark.slow
@pytest.mark.parametrize(("words", "code"), [(EXACT, 0), (DIFF, 1), ({**DIFF, "new": "gone"}, 2)])
def test_the_workflows_of_the_docs_run(tmp_path, words, code):
    """The shell lines of both workflows exit as the checks do, and leave the files that the next
    step uploads.
    """
    github, gitlab = workflows()
    steps = github["jobs"]["routectl"]["steps"]
    scripts = [step["run"] for step in steps if "run" in step]
    (upload,) = [step["with"]["path"].split() for step in steps if "path" in step.get("with", {})]
    job = gitlab["routectl"]
    for name, script, files in (
        ("github", "\n".join(scripts), upload),
        ("gitlab", "\n".join(job["script"]), job["artifacts"]["paths"]),
    ):
        folder = tmp_path / name
        folder.mkdir()
        config(folder, "routectl-ci.toml", a=words)
        assert shell(script, folder) == code
        assert set(files) <= set(written(folder))
        JUnitXml.fromfile(str(folder / job["artifacts"]["reports"]["junit"]))


@pytest.mark.slow
def test_the_config_of_the_docs_is_read(capsys, tmp_path):
    """The config of docs/ci.md is understood to the last key, and runs where its files are."""
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "ci.toml").write_text(text, "utf-8")
    for name in ("rollout", "trainer", "routes", "Qwen3-30B-A3B"):
        (tmp_path / name).mkdir()
        shutil.copy(TINY / "config.json", tmp_path / name)
    shutil.copy(ENGINE, tmp_path / "rollout" / "step-1.jsonl")
    shutil.copy(TINY / "routes_v0.fp32.npz", tmp_path / "trainer" / "step-1.npz")
    from routectl import open_dump
    from routectl.formats.native.container import write_native

    for name, file in (("v0", "routes_v0"), ("v1", "transformers_v1")):
        dump = open_dump(TINY / f"{file}.fp32.npz")
        write_native(dump, dump.meta, tmp_path / "routes" / f"{name}.parquet", force=False)
    path = tmp_path / "ci.toml"
    assert run(capsys, "ci", path, "--update-baseline").code == 0
    doc = document(capsys, "ci", path)
    assert [r["name"] for r in doc["runs"]] == ["sound", "mismatch[step-1]", "stale"]


class TestSaved:
    """routectl report: saved reports of the verbs, as services read them."""

    @pytest.mark.parametrize(
        ("name", "code", "told"),
        [
            ("diff", 1, "DIFFERS 2,055 of 101,616 rows"),
            ("check", 0, "CLEAN 2 notes"),
            ("staleness", 1, "OVER "),
            ("series", 0, "WITHIN 1 threshold; 2 steps"),
        ],
    )
    def test_a_report_is_a_test_case(self, capsys, tmp_path, name, code, told):
        """A report with a verdict is a case of its path: passed, or failed with its first line."""
        saved, path = GOLDEN / f"{name}.json", tmp_path / "junit.xml"
        done = run(capsys, "report", saved, "--junit", path)
        assert (done.code, done.out) == (0, run(capsys, "report", saved).out)
        ((case,),) = [list(suite) for suite in JUnitXml.fromfile(str(path))]
        assert case.name == str(saved)
        assert case.is_passed == (code == 0)
        text = case.system_out if case.is_passed else case.result[0].message
        assert " ".join(text.split()).startswith(told)

    def test_of_several(self, capsys, tmp_path):
        """Several reports are a case, a row and a part of a badge each; a ci's runs are its own."""
        ci = tmp_path / "ci.json"
        run(capsys, "ci", config(tmp_path, same=EXACT, differs=DIFF), "-o", ci)
        saved = (GOLDEN / "diff.json", GOLDEN / "check.json", ci)
        junit, badge = tmp_path / "junit.xml", tmp_path / "badge.json"
        done = run(capsys, "report", *saved, "--junit", junit, "--badge", badge, "--github")
        assert done.code == 0
        (suite,) = list(JUnitXml.fromfile(str(junit)))
        assert [case.name for case in suite] == [*map(str, saved[:2]), "same", "differs"]
        assert json.loads(badge.read_text("utf-8"))["message"] == "2 of 4 checks passed, 2 failed"
        assert len(COMMAND.findall(done.err)) == 2

    def test_a_report_without_a_verdict(self, capsys, tmp_path):
        """What has no verdict is no test case, and what has no scalars is on no dashboard; nothing
        is printed or written.
        """
        saved = GOLDEN / "show.json"
        for flags, why in (
            (("--junit", tmp_path / "x"), "routectl.show/1 has no verdict"),
            (("--tensorboard", tmp_path / "x"), "routectl.show/1 has no scalars"),
        ):
            assert why in complaint(capsys, "report", saved, *flags)
        assert written(tmp_path) == []

    def test_without_names(self, capsys, tmp_path):
        """--no-tokens holds for what services read, too."""
        doc = json.loads((GOLDEN / "check.json").read_text("utf-8"))
        doc["findings"][0] |= {"severity": "error"}
        doc["findings"][0]["places"][0]["sample"] = "the patient said"
        doc["verdict"] |= {"exit_code": 1}
        saved, path = tmp_path / "x.json", tmp_path / "x.xml"
        saved.write_text(json.dumps(doc), "utf-8")
        assert run(capsys, "report", saved, "--junit", path, "--no-tokens").code == 0
        assert "patient" not in path.read_text("utf-8")
        assert "(name 1 withheld)" in path.read_text("utf-8")
