"""A routectl.ci/1 document for services: JUnit XML; GitHub's annotations and summary; a badge.

JUnit's elements and attributes are those of the schema of Jenkins' xUnit plugin (junit-10.xsd),
which GitLab and the readers of GitHub take too. Workflow commands are escaped as actions/toolkit
does (packages/core/src/command.ts); the runner reads them on stdout and on stderr
(actions/runner, ScriptHandler.cs).
"""

import html
import json
from xml.etree import ElementTree as ET

from ..document import visible_document
from ..text.markdown import html_text, markdown_text
from .schema import CiDocument, CiRun
from .text import ci_verdict

__all__ = ["badge_json", "github_annotations", "github_summary", "junit_xml"]

_DETAILS = 50  # a run: a step summary may have 1 MiB
_COLOURS = ("brightgreen", "red", "orange")


def junit_xml(document: CiDocument) -> bytes:
    """The document as XML in UTF-8: failures for what failed, errors for trouble.

    What is visible is what XML 1.0 can hold.
    """
    document = visible_document(document)
    runs = document["runs"]
    counts = {
        "tests": str(len(runs)),
        "failures": str(document["counts"]["failed"]),
        "errors": str(document["counts"]["trouble"]),
        "time": _seconds(sum(run["seconds"] for run in runs)),
    }
    suites = ET.Element("testsuites", {"name": "routectl", **counts})
    about = {"name": document["config"], **counts, "skipped": "0"}
    suite = ET.SubElement(suites, "testsuite", about)
    for run in runs:
        about = {"name": run["name"], "classname": f"routectl.{run['verb']}"}
        case = ET.SubElement(suite, "testcase", {**about, "time": _seconds(run["seconds"])})
        if run["status"] == "passed":
            ET.SubElement(case, "system-out").text = run["summary"]
            continue
        tag, kind = ("failure", "Over") if run["status"] == "failed" else ("error", "Trouble")
        problem = ET.SubElement(case, tag, {"type": kind, "message": run["summary"]})
        problem.text = "\n".join(run["details"] or [run["summary"]])
    ET.indent(suites)
    text: bytes = ET.tostring(suites, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def _seconds(seconds: float) -> str:
    return f"{seconds:.3f}"


def github_annotations(document: CiDocument) -> str:
    """A workflow command a run that did not pass, each a line; GitHub shows them on the run."""
    lines = []
    for run in visible_document(document)["runs"]:
        if run["status"] != "passed":
            title = _property(f"routectl {run['verb']}: {run['name']}")
            told = _data("\n".join(_told(run)))
            lines.append(f"::error title={title}::{told}\n")
    return "".join(lines)


def github_summary(document: CiDocument) -> str:
    """A table of all runs as Markdown, and the details of those that did not pass."""
    document = visible_document(document)
    word, counted = ci_verdict(document)
    lines = [f"### routectl: {word}", "", f"{counted}.", "", "| | check | verb | result |"]
    lines.append("|---|---|---|---|")
    signs = {"passed": "✅", "failed": "❌", "trouble": "⚠️"}
    for run in document["runs"]:
        cells = (
            signs[run["status"]],
            markdown_text(run["name"]),
            run["verb"],
            markdown_text(run["summary"]),
        )
        lines.append(f"| {' | '.join(cells)} |")
    for run in document["runs"]:
        if run["status"] == "passed" or not run["details"]:
            continue
        lines += ["", f"<details open><summary>{html_text(run['name'])}</summary>", "", "<pre>"]
        lines += [html.escape(line, quote=False) for line in _told(run)[1:]]
        lines += ["</pre>", "", "</details>"]
    return "\n".join(lines) + "\n\n"


def badge_json(document: CiDocument, label: str = "routectl") -> str:
    """The endpoint document of shields.io: how many checks passed."""
    badge = {
        "schemaVersion": 1,
        "label": label,
        "message": ci_verdict(document)[1],
        "color": _COLOURS[document["verdict"]["exit_code"]],
    }
    return json.dumps(badge, indent=2) + "\n"


def _told(run: CiRun) -> list[str]:
    """The summary and the details of a run, cut where there are too many."""
    left = len(run["details"]) - _DETAILS
    more = [f"and {left} more"] if left > 0 else []
    return [run["summary"], *run["details"][:_DETAILS], *more]


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
