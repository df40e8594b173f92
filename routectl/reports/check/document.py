"""Findings as a JSON document, and one kind of finding as a page.

docs/json.md is the contract of the document; docs/checks.md is all pages.
"""

from typing import Any

from ...dump import DumpMeta
from ...ops.check.findings import FINDINGS, SEVERITIES, FindingKind
from ...ops.check.results import CheckFinding, CheckResult, Explanation
from ...ops.diff.measures import rate
from ..diff.document import Document, dump_document, finite

__all__ = ["check_document", "explain_page", "findings_markdown"]


def _finding(finding: CheckFinding) -> Document:
    kind = finding.kind
    return {
        "code": finding.code,
        "severity": kind.severity,
        "title": kind.title,
        "detail": finding.detail or None,
        "rows": finding.rows,
        "samples": finding.samples,
        "layers": list(finding.layers),
        "places": [
            {"sample": p.sample, "position": p.position, "layer": p.layer} for p in finding.places
        ],
        "cause": kind.cause,
        "action": kind.action,
        "upstream": list(kind.upstream),
    }


def _explanation(found: Explanation | None) -> Document | None:
    if found is None:
        return None
    layers = zip(found.layers, found.rows_L, found.mismatched_L, strict=True)
    return {
        "rows": found.rows,
        "rows_mismatched": found.mismatched,
        "mismatch_rate": rate(found.mismatched, found.rows),
        "rows_explained": found.explained,
        "layers": [
            {"layer": n, "rows": rows, "rows_mismatched": wrong, "mismatch_rate": rate(wrong, rows)}
            for n, rows, wrong in layers
        ],
        "hypotheses": [
            {
                "code": s.code,
                "hypothesis": s.name,
                "rows": s.rows,
                "mismatch_rate": s.rate,
                "mismatch_rate_before": s.rate_before,
            }
            for s in found.scores
        ],
        "permutations": [{"layer": n, "to": list(to)} for n, to in found.permutations],
    }


def check_document(
    result: CheckResult, reference: tuple[DumpMeta, int] | None = None, *, fail_on: str = "error"
) -> Document:
    """The routectl.check/1 document; ``reference`` is the other dump's meta and sample count."""
    worst = SEVERITIES.index(fail_on)
    failed = any(SEVERITIES.index(f.kind.severity) >= worst for f in result.findings)
    document: dict[str, Any] = {
        "schema": "routectl.check/1",
        "dump": dump_document(result.meta, result.samples),
        "reference": None if reference is None else dump_document(*reference),
        "tokens": result.tokens,
        "rows": result.rows,
        "counts": {f"{name}s": result.count(name) for name in reversed(SEVERITIES)},
        "findings": [_finding(f) for f in result.findings],
        "explanation": _explanation(result.explanation),
        "verdict": {"fail_on": fail_on, "exit_code": int(failed)},
    }
    return finite(document)  # type: ignore[no-any-return]


def explain_page(kind: FindingKind) -> str:
    """One kind of finding, as ``check --explain`` prints it."""
    lines = [
        f"{kind.code}  {kind.title} ({kind.severity})",
        "",
        f"cause     {kind.cause}",
        f"do        {kind.action}",
    ]
    if kind.upstream:
        lines.append(f"seen in   {', '.join(kind.upstream)}")
    return "\n".join(lines)


def findings_markdown() -> str:
    """The table of docs/checks.md."""
    lines = ["| code | severity | finding | likely cause | what to do | seen in |"]
    lines.append("|---|---|---|---|---|---|")
    for kind in FINDINGS:
        seen = ", ".join(f"`{issue}`" for issue in kind.upstream)
        cells = (kind.code, kind.severity, kind.title, kind.cause, kind.action, seen)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
