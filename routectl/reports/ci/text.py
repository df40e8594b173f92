"""A routectl.ci/1 document as terminal text: a line a check, then what failed."""

from rich.console import Console
from rich.text import Text

from ..diff.document import Document
from .document import ci_verdict

__all__ = ["render_ci"]

_STYLES = {"passed": "green", "failed": "bold red", "trouble": "bold yellow"}


def render_ci(doc: Document, console: Console) -> None:
    """Print a routectl.ci/1 document."""
    console.print(Text("  ".join(ci_verdict(doc)), style="bold"))
    width = max(len(run["name"]) for run in doc["runs"])
    for run in doc["runs"]:
        line = Text(f"{run['status']:<8}", style=_STYLES[run["status"]])
        line.append(
            f"  {run['name']:<{width}}  {run['verb']:<9}  {run['summary']}", "not bold default"
        )
        console.print(line, soft_wrap=True)
    for run in doc["runs"]:
        if run["status"] == "passed" or not run["details"]:
            continue
        console.print()
        console.print(Text(run["name"], style="bold"), soft_wrap=True)
        for detail in run["details"]:
            console.print(f"  {detail}", soft_wrap=True)
