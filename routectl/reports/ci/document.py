"""The routectl.ci/1 document: what each run came to, in words and in numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

from ...ops.check.findings import SEVERITIES
from ..check.text import check_verdict, place_text
from ..diff.document import Document
from ..diff.text import diff_verdict
from ..staleness.text import staleness_headline
from ..text.wording import layers_text, plural
from .scalars import metrics

__all__ = ["answered", "ci_document", "ci_verdict", "troubled"]

_STATUS = ("passed", "failed", "trouble")


def answered(about: Mapping[str, Any], document: Document, seconds: float) -> Document:
    """An entry of ``runs``: a run that has a document, which is passed or failed."""
    code = document["verdict"]["exit_code"]
    return {
        **about,
        "name": _one_line(about["name"]),
        "status": _STATUS[code],
        "exit_code": code,
        "summary": _one_line(_summary(document)),
        "details": [_one_line(line) for line in _details(document)],
        "failed": document["verdict"].get("failed", []),
        "metrics": metrics(document),
        "seconds": seconds,
    }


def troubled(about: Mapping[str, Any], message: str, hint: str | None, seconds: float) -> Document:
    """An entry of ``runs``: a run that came to nothing."""
    return {
        **about,
        "name": _one_line(about["name"]),
        "status": _STATUS[2],
        "exit_code": 2,
        "summary": _one_line(message),
        "details": [] if hint is None else [f"hint: {_one_line(hint)}"],
        "failed": [],
        "metrics": {},
        "seconds": seconds,
    }


def ci_document(config: str, baseline: str | None, runs: Sequence[Document]) -> Document:
    """The routectl.ci/1 document; baseline is the file of accepted numbers, None without one."""
    return {
        "schema": "routectl.ci/1",
        "config": config,
        "baseline": baseline,
        "counts": {s: sum(run["status"] == s for run in runs) for s in _STATUS},
        "runs": list(runs),
        "verdict": {"exit_code": max(run["exit_code"] for run in runs)},
    }


def ci_verdict(document: Document) -> tuple[str, str]:
    """The verdict in a word, and how many passed."""
    counts = document["counts"]
    word = ("PASSED", "FAILED", "TROUBLE")[document["verdict"]["exit_code"]]
    parts = [f"{counts['passed']} of {plural(len(document['runs']), 'check')} passed"]
    parts += [f"{counts['failed']} failed"] if counts["failed"] else []
    parts += [f"{counts['trouble']} could not be run"] if counts["trouble"] else []
    return word, ", ".join(parts)


def _one_line(text: str) -> str:
    """Text of one line: names in dumps are foreign, and may hold line breaks and worse."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def _summary(document: Document) -> str:
    """The verdict line of the verb's own report."""
    if document["schema"] == "routectl.diff/1":
        return "  ".join(diff_verdict(document))
    if document["schema"] == "routectl.check/1":
        return "  ".join(check_verdict(document))
    verdict = document["verdict"]
    word = "OVER" if verdict["failed"] else "WITHIN" if verdict["thresholds"] else "MEASURED"
    return f"{word}  {staleness_headline(document)}"


def _details(document: Document) -> list[str]:
    """A line for every crossed threshold, and for every finding that fails."""
    if document["schema"] == "routectl.check/1":
        worst = SEVERITIES.index(document["verdict"]["fail_on"])
        found = (f for f in document["findings"] if SEVERITIES.index(f["severity"]) >= worst)
        return [_finding(f) for f in found]
    return [_failure(f) for f in document["verdict"]["failed"]]


def _failure(failure: Document) -> str:
    layer = "" if failure["layer"] is None else f" in layer {failure['layer']}"
    return (
        f"{failure['threshold']}: {failure['metric']} is {failure['value']:.6g}{layer}, "
        f"limit {failure['limit']:.6g}"
    )


def _finding(finding: Document) -> str:
    detail = f": {finding['detail']}" if finding["detail"] else ""
    parts = [plural(finding[name], name[:-1]) for name in ("rows", "samples") if finding[name]]
    parts += [layers_text(finding["layers"])] if finding["layers"] else []
    parts += [f"first: {place_text(finding['places'][0])}"] if finding["places"] else []
    text = f"{finding['code']} {finding['severity']}: {finding['title']}{detail}"
    return f"{text} ({', '.join(parts)})" if parts else text
