"""What a run of routectl ci came to, in words; a routectl.ci/1 document as terminal text."""

from rich.console import Console
from rich.text import Text

from ...ops.check.book.kind import SEVERITIES
from ..check.schema import CheckDocument, FindingEntry
from ..check.text import check_verdict, finding_size, place_text
from ..diff.schema import DiffDocument
from ..diff.text import diff_verdict, unmatched_text
from ..staleness.schema import StalenessDocument
from ..staleness.text import staleness_headline, uncovered_text, verdict_word
from ..text.tables import Headline, print_text, under_verdict
from ..text.wording import failure_text, plural
from .schema import CiDocument

__all__ = ["ci_headline", "ci_verdict", "render_ci", "run_details", "run_summary"]

Verdicts = DiffDocument | CheckDocument | StalenessDocument
_VERDICTS = {"PASSED": "bold green", "FAILED": "bold red", "TROUBLE": "bold yellow"}
_STYLES = {"passed": "green", "failed": "bold red", "trouble": "bold yellow"}


def ci_verdict(document: CiDocument) -> tuple[str, str]:
    """The verdict in a word, and how many passed."""
    counts = document["counts"]
    word = ("PASSED", "FAILED", "TROUBLE")[document["verdict"]["exit_code"]]
    parts = [f"{counts['passed']} of {plural(len(document['runs']), 'check')} passed"]
    parts += [f"{counts['failed']} failed"] if counts["failed"] else []
    parts += [f"{counts['trouble']} could not be run"] if counts["trouble"] else []
    return word, ", ".join(parts)


def run_summary(document: Verdicts) -> str:
    """The verdict line of the verb's own report."""
    if document["schema"] == "routectl.diff/1":
        return "  ".join(diff_verdict(document))
    if document["schema"] == "routectl.check/1":
        return "  ".join(check_verdict(document))
    return f"{verdict_word(document['verdict'])}  {staleness_headline(document)}"


def run_details(document: Verdicts) -> list[str]:
    """A line for every crossed threshold, what was lost, and every finding that fails."""
    if document["schema"] == "routectl.check/1":
        worst = SEVERITIES.index(document["verdict"]["fail_on"])
        found = (f for f in document["findings"] if SEVERITIES.index(f["severity"]) >= worst)
        return [_finding(f) for f in found]
    crossed = [failure_text(f) for f in document["verdict"]["failed"]]
    lost = document["verdict"]["unmatched"]
    if document["schema"] == "routectl.diff/1":
        lines = [unmatched_text(**lost)]
    else:
        lines = [uncovered_text(lost)]
        if document["verdict"]["fail_on"]:
            lines += [f"alarm: {f['text']}" for f in document["advice"]["findings"] if f["alarm"]]
    return [*crossed, *(line for line in lines if line)]


def _finding(finding: FindingEntry) -> str:
    detail = f": {finding['detail']}" if finding["detail"] else ""
    parts = finding_size(finding)
    parts += [f"first: {place_text(finding['places'][0])}"] if finding["places"] else []
    text = f"{finding['code']} {finding['severity']}: {finding['title']}{detail}"
    return f"{text} ({', '.join(parts)})" if parts else text


def ci_headline(doc: CiDocument) -> Headline:
    """The verdict as a line."""
    word, text = ci_verdict(doc)
    return Headline(word, _VERDICTS[word], text)


def render_ci(doc: CiDocument, console: Console) -> None:
    """Print a routectl.ci/1 document."""
    with under_verdict(console, ci_headline(doc)):
        _print_runs(doc, console)


def _print_runs(doc: CiDocument, console: Console) -> None:
    """A line for each run, then what is wrong with those that did not pass."""
    width = max(len(run["name"]) for run in doc["runs"])
    for run in doc["runs"]:
        line = Text(f"{run['status']:<8}", style=_STYLES[run["status"]])
        named = f"  {run['name']:<{width}}  {run['verb'] or '-':<9}  "
        line.append(named + run["summary"], "not bold default")
        wide = len(named) + 8
        print_text(console, line, wide if 2 * wide < console.width else 10)
    for run in doc["runs"]:
        if run["status"] == "passed" or not run["details"]:
            continue
        console.print()
        print_text(console, run["name"], style="bold")
        for detail in run["details"]:
            print_text(console, f"  {detail}", 4)
