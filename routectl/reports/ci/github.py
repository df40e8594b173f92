"""A routectl.ci/1 document for GitHub Actions: annotations, a step summary; and a badge.

Workflow commands are escaped as actions/toolkit does (packages/core/src/command.ts); the runner
reads them on stdout and on stderr (actions/runner, ScriptHandler.cs).
"""

import json

from ..diff.document import Document
from .document import ci_verdict

__all__ = ["badge_json", "github_annotations", "github_summary"]

_DETAILS = 50  # a run: a step summary may have 1 MiB
_COLOURS = ("brightgreen", "red", "orange")


def github_annotations(document: Document) -> str:
    """A workflow command a run that did not pass, each a line; GitHub shows them on the run."""
    lines = []
    for run in document["runs"]:
        if run["status"] != "passed":
            title = _property(f"routectl {run['verb']}: {run['name']}")
            told = _data("\n".join(_told(run)))
            lines.append(f"::error title={title}::{told}\n")
    return "".join(lines)


def github_summary(document: Document) -> str:
    """A table of all runs as Markdown, and the details of those that did not pass."""
    word, counted = ci_verdict(document)
    lines = [f"### routectl: {word}", "", f"{counted}.", "", "| | check | verb | result |"]
    lines.append("|---|---|---|---|")
    signs = {"passed": "✅", "failed": "❌", "trouble": "⚠️"}
    for run in document["runs"]:
        cells = (signs[run["status"]], _cell(run["name"]), run["verb"], _cell(run["summary"]))
        lines.append(f"| {' | '.join(cells)} |")
    for run in document["runs"]:
        if run["status"] == "passed" or not run["details"]:
            continue
        lines += ["", f"<details open><summary>{_html(run['name'])}</summary>", "", "<pre>"]
        lines += [_html(line) for line in _told(run)[1:]]
        lines += ["</pre>", "", "</details>"]
    return "\n".join(lines) + "\n\n"


def badge_json(document: Document, label: str = "routectl") -> str:
    """The endpoint document of shields.io: how many checks passed."""
    badge = {
        "schemaVersion": 1,
        "label": label,
        "message": ci_verdict(document)[1],
        "color": _COLOURS[document["verdict"]["exit_code"]],
    }
    return json.dumps(badge, indent=2) + "\n"


def _told(run: Document) -> list[str]:
    """The summary and the details of a run, cut where there are too many."""
    left = len(run["details"]) - _DETAILS
    more = [f"and {left} more"] if left > 0 else []
    return [run["summary"], *run["details"][:_DETAILS], *more]


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def _html(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _cell(text: str) -> str:
    """Text as it is, in a cell of a table: no markup of it counts."""
    return "".join(f"&#{ord(c)};" if c in "|`*_[]\\~#@!:" else c for c in _html(text))
