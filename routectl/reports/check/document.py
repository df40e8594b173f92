"""Findings as a JSON document, a line of watch, and one kind of finding as a page.

docs/json.md is the contract of the documents; docs/checks.md is all pages.
"""

from typing import cast

from ...dump import DumpMeta
from ...ops.check.alone.results import Power
from ...ops.check.book.findings import kind_of
from ...ops.check.book.kind import SEVERITIES
from ...ops.check.book.results import CheckFinding, CheckResult, Explanation
from ..diff.document import counted_rows
from ..document import dump_document, finite
from .candidates import candidates_entry
from .schema import (
    CheckDocument,
    ExplanationEntry,
    FindingEntry,
    Severity,
    SeverityCounts,
    TokensEntry,
    WatchDocument,
    WorstFinding,
)

__all__ = [
    "check_document",
    "tokens_entry",
    "watch_document",
]


def _short(finding: CheckFinding) -> WorstFinding:
    kind = finding.kind
    return {
        "code": finding.code,
        "severity": cast("Severity", kind.severity),
        "title": kind.title,
        "detail": finding.detail or None,
        "rows": finding.rows,
        "samples": finding.samples,
    }


def _finding(finding: CheckFinding) -> FindingEntry:
    kind = finding.kind
    return {
        **_short(finding),
        "layers": list(finding.layers),
        "facts": dict(finding.facts),
        "places": [
            {"sample": p.sample, "position": p.position, "layer": p.layer, "note": p.note or None}
            for p in finding.places
        ],
        "cause": finding.cause,
        "action": finding.action,
        "upstream": list(kind.upstream),
    }


def _explanation(found: Explanation) -> ExplanationEntry:
    layers = zip(found.layers, found.rows_L, found.mismatched_L, strict=True)
    return {
        **counted_rows(found.rows, found.mismatched),
        "rows_explained": found.explained,
        "layers": [{"layer": n, **counted_rows(rows, wrong)} for n, rows, wrong in layers],
        "hypotheses": [
            {
                "code": s.code,
                "hypothesis": s.name or kind_of(s.code).title,
                "rows": s.rows,
                "mismatch_rate": s.rate,
                "mismatch_rate_before": s.rate_before,
            }
            for s in found.estimates
        ],
        "permutations": [
            {"layer": n, "to": list(to), "map": one.name, "invertible": one.invertible}
            for one in found.maps
            for n, to in one.to
        ],
    }


def tokens_entry(power: Power) -> TokensEntry:
    """What the dump's own tokens could tell."""
    lifts = zip(power.layers, power.lift_L, strict=True)
    return {
        "rows": power.rows,
        "learnt": power.learnt,
        "tokens": power.tokens,
        "smallest_run": power.smallest_run,
        "reason": power.reason or None,
        "layers": [{"layer": layer, "bits": bits} for layer, bits in lifts],
    }


def _counts(result: CheckResult) -> SeverityCounts:
    return {
        "errors": result.count("error"),
        "warnings": result.count("warning"),
        "undecided": result.count("undecided"),
        "notes": result.count("note"),
    }


def _exit_code(result: CheckResult, fail_on: str) -> int:
    """1 where a finding is of the severity that fails, or of a worse one."""
    least = SEVERITIES.index(fail_on)
    return int(any(SEVERITIES.index(f.kind.severity) >= least for f in result.findings))


def check_document(
    result: CheckResult, reference: tuple[DumpMeta, int] | None = None, *, fail_on: str = "error"
) -> CheckDocument:
    """The routectl.check/1 document; ``reference`` is the other dump's meta and sample count."""
    found = result.explanation
    document: CheckDocument = {
        "schema": "routectl.check/1",
        "dump": dump_document(result.meta, result.samples),
        "reference": None if reference is None else dump_document(*reference),
        "tokens": result.tokens,
        "rows": result.rows,
        "counts": _counts(result),
        "findings": [_finding(f) for f in result.findings],
        "explanation": None if found is None else _explanation(found),
        "by_tokens": None if result.power is None else tokens_entry(result.power),
        "verdict": {
            "fail_on": cast("Severity", fail_on),
            "exit_code": _exit_code(result, fail_on),
        },
    }
    if result.made_by is not None:
        document["candidates"] = candidates_entry(result.made_by)
    return finite(document)


def watch_document(
    file: str,
    time: str,
    result: CheckResult | None,
    *,
    error: str | None = None,
    fail_on: str = "error",
) -> WatchDocument:
    """One routectl.watch/1 line: a dump that was checked, or ``error``: why it could not be.

    ``time`` is ISO 8601; the exit code is that of ``routectl check`` for the dump alone.
    """
    if result is None:
        return {
            "schema": "routectl.watch/1",
            "time": time,
            "file": file,
            "error": error,
            "exit_code": 2,
        }
    return {
        "schema": "routectl.watch/1",
        "time": time,
        "file": file,
        "error": None,
        "samples": result.samples,
        "tokens": result.tokens,
        "rows": result.rows,
        "counts": _counts(result),
        "codes": list(dict.fromkeys(f.code for f in result.findings)),
        "worst": _short(result.findings[0]) if result.findings else None,
        "exit_code": _exit_code(result, fail_on),
    }
