"""The routectl.ci/1 document: what each run came to, in words and in numbers."""

from collections.abc import Sequence

from ...visible import visible
from .scalars import metrics
from .schema import CiDocument, CiRun, RunSubject, Status
from .text import Verdicts, run_details, run_summary

__all__ = ["answered", "ci_document", "exit_status", "troubled"]

_STATUS: tuple[Status, ...] = ("passed", "failed", "trouble")


def exit_status(code: int) -> Status:
    """What an exit code says of a run."""
    return _STATUS[code]


def answered(about: RunSubject, document: Verdicts, seconds: float) -> CiRun:
    """An entry of ``runs``: a run that has a document, which is passed or failed."""
    code = document["verdict"]["exit_code"]
    return {
        **about,
        "name": visible(about["name"]),
        "status": _STATUS[code],
        "exit_code": code,
        "summary": visible(run_summary(document)),
        "details": [visible(line) for line in run_details(document)],
        "failed": [] if document["schema"] == "routectl.check/1" else document["verdict"]["failed"],
        "metrics": metrics(document),
        "seconds": seconds,
    }


def troubled(about: RunSubject, message: str, details: Sequence[str], seconds: float) -> CiRun:
    """An entry of ``runs``: a run that came to nothing, why, and lines that help."""
    return {
        **about,
        "name": visible(about["name"]),
        "status": _STATUS[2],
        "exit_code": 2,
        "summary": visible(message),
        "details": [visible(line) for line in details],
        "failed": [],
        "metrics": {},
        "seconds": seconds,
    }


def ci_document(config: str, baseline: str | None, runs: Sequence[CiRun]) -> CiDocument:
    """The routectl.ci/1 document; baseline is the file of accepted numbers, None without one."""
    count = [sum(run["status"] == status for run in runs) for status in _STATUS]
    return {
        "schema": "routectl.ci/1",
        "config": config,
        "baseline": baseline,
        "counts": {"passed": count[0], "failed": count[1], "trouble": count[2]},
        "runs": list(runs),
        "verdict": {"exit_code": max(run["exit_code"] for run in runs)},
    }
