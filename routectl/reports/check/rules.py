"""Every finding in words: a list of them, one of them whole, the table of docs/checks.md."""

from ...ops.check.book.findings import FINDINGS
from ...ops.check.book.kind import FindingKind

__all__ = ["findings_markdown", "rule_page", "rules_page"]


def rules_page(begins: str = "") -> str:
    """A line for each finding whose code begins so: its code, severity and title."""
    return "\n".join(
        f"{kind.code}  {kind.severity:<9}  {kind.title}"
        for kind in FINDINGS
        if kind.code.startswith(begins)
    )


def rule_page(kind: FindingKind) -> str:
    """One kind of finding: what it is, its likely cause and what to do."""
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
