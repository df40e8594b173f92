"""What watch says of one dump: a line of JSON, a line of text."""

from typing import Any

from ...ops.check.findings import SEVERITIES
from ...ops.check.results import CheckResult
from ..diff.document import Document
from ..text.wording import amount, plural

__all__ = ["watch_document", "watch_text"]

_WORDS = (("errors", "FAULTY"), ("warnings", "DOUBTFUL"))


def watch_document(
    file: str,
    time: str,
    result: CheckResult | None,
    *,
    error: str | None = None,
    fail_on: str = "error",
) -> Document:
    """One routectl.watch/1 line: a dump that was checked, or ``error``: why it could not be.

    ``time`` is ISO 8601; the exit code is that of ``routectl check`` for the dump alone.
    """
    document: dict[str, Any] = {"schema": "routectl.watch/1", "time": time, "file": file}
    if result is None:
        return {**document, "error": error, "exit_code": 2}
    worst = result.findings[0] if result.findings else None
    least = SEVERITIES.index(fail_on)
    failed = any(SEVERITIES.index(f.kind.severity) >= least for f in result.findings)
    return {
        **document,
        "error": None,
        "samples": result.samples,
        "tokens": result.tokens,
        "rows": result.rows,
        "counts": {f"{name}s": result.count(name) for name in reversed(SEVERITIES)},
        "codes": list(dict.fromkeys(f.code for f in result.findings)),
        "worst": None
        if worst is None
        else {
            "code": worst.code,
            "severity": worst.kind.severity,
            "title": worst.kind.title,
            "detail": worst.detail or None,
            "rows": worst.rows,
            "samples": worst.samples,
        },
        "exit_code": int(failed),
    }


def watch_text(doc: Document) -> str:
    """The line of a terminal: time of day, verdict, file, samples, counts, the worst finding."""
    clock = doc["time"][11:19]
    if doc["error"] is not None:
        return f"{clock}  UNCHECKED  {doc['file']}  {doc['error']}"
    counts = doc["counts"]
    word = next((word for name, word in _WORDS if counts[name]), "CLEAN")
    said = [plural(n, name.removesuffix("s")) for name, n in counts.items() if n]
    parts = [f"{clock}  {word:<9}  {doc['file']}  {plural(doc['samples'], 'sample')}", *said]
    line = ", ".join(parts)
    if doc["worst"] is None:
        return line
    worst = doc["worst"]
    rows = f" ({amount(worst['rows'])} rows)" if worst["rows"] else ""
    return f"{line}  {worst['code']} {worst['title']}{rows}"
