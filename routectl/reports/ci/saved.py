"""Saved reports as runs of a routectl.ci/1 document, for services that know runs alone."""

import io
from collections.abc import Sequence

from ...errors import UnsupportedError
from ...visible import visible
from ..document import Document, visible_document
from ..text.recorded import Render
from ..text.tables import open_console
from .document import answered, ci_document, exit_status
from .scalars import SCALED, metrics
from .schema import CiDocument, CiRun, RunSubject

__all__ = ["runs_of_reports"]

_RUN = "routectl.ci/1"
_ANSWERED = ("routectl.diff/1", "routectl.check/1", "routectl.staleness/1")


def runs_of_reports(reports: Sequence[tuple[str, Document, Render]]) -> CiDocument:
    """A run a report: its path, its document, and what renders that; those of a ci are its own.

    Raises UnsupportedError for a report without a verdict.
    """
    if len(reports) == 1 and reports[0][1]["schema"] == _RUN:
        whole: CiDocument = reports[0][1]
        return whole
    runs: list[CiRun] = []
    for path, document, render in reports:
        runs += document["runs"] if document["schema"] == _RUN else [_run(path, document, render)]
    return ci_document(", ".join(path for path, _, _ in reports), None, runs)


def _run(path: str, document: Document, render: Render) -> CiRun:
    verb = str(document["schema"]).removeprefix("routectl.").partition("/")[0]
    about: RunSubject = {"name": path, "check": path, "key": None, "verb": verb, "inputs": {}}
    if document["schema"] in _ANSWERED:
        return answered(about, document, 0.0)
    code = _exit_code(path, document)
    first, *others = _lines(document, render)
    return {
        **about,
        "name": visible(path),
        "status": exit_status(code),
        "exit_code": code,
        "summary": first,
        "details": others if code else [],
        "failed": [],
        "metrics": metrics(document) if document["schema"] in SCALED else {},
        "seconds": 0.0,
    }


def _exit_code(path: str, document: Document) -> int:
    """What its command exited with."""
    if document["schema"] == "routectl.verify/1":
        return 0 if document["ok"] else 1
    if "verdict" not in document:
        raise UnsupportedError(f"{path}: {document['schema']} has no verdict: nothing passes")
    return int(document["verdict"]["exit_code"])


def _lines(document: Document, render: Render) -> list[str]:
    """The report as text, without empty lines."""
    page = io.StringIO()
    render(visible_document(document), open_console(page))
    return [line for line in page.getvalue().splitlines() if line.strip()]
