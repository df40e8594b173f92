"""A recompute's document as terminal text: what was written, then the dump against it."""

from typing import cast

from rich.console import Console

from ..diff.schema import DiffDocument
from ..diff.text import diff_verdict, print_diff
from ..text.tables import Column, Headline, print_line, print_table, print_text, under_verdict
from ..text.wording import amount, bytes_text, failure_text, percent, plural
from .schema import RecomputeDocument

__all__ = ["recompute_headline", "recompute_verdict", "render_recompute"]

_ABOUT = ("model_type", "dtype", "device", "attention", "experts", "recipe")


def recompute_verdict(doc: RecomputeDocument) -> tuple[str, str]:
    """The verdict of a routectl.recompute/1 document: a word, and the figures behind it."""
    verdict = doc["verdict"]
    if not doc["comparisons"]:
        return "WRITTEN", f"nothing was compared: {doc['not_compared']}"
    shares = []
    for one in doc["comparisons"]:
        diff = one["diff"]
        share = f"{percent(diff['mismatch_rate'])} of {plural(diff['rows'], 'row')}"
        told = f"{one['mode']}: " if doc["comparisons"][1:] else ""
        shares.append(f"{told}{share}")
    text = f"the dump differs in {', '.join(shares)}"
    if verdict["failed"]:
        crossed = f"{len(verdict['failed'])} of {plural(len(verdict['thresholds']), 'threshold')}"
        return "OVER", f"{crossed} crossed; {text}"
    if not verdict["thresholds"]:
        return "MEASURED", text
    return ("WITHIN" if verdict["exit_code"] == 0 else "DIFFERS"), text


_STYLES = {"WRITTEN": "bold yellow", "MEASURED": "bold green", "WITHIN": "bold green"}


def recompute_headline(doc: RecomputeDocument) -> Headline:
    """The verdict as a line."""
    word, text = recompute_verdict(doc)
    return Headline(word, _STYLES.get(word, "bold red"), text)


def render_recompute(doc: RecomputeDocument, console: Console) -> None:
    """Print a routectl.recompute/1 document."""
    with under_verdict(console, recompute_headline(doc)):
        _print_body(doc, console)


def _print_body(doc: RecomputeDocument, console: Console) -> None:
    """What follows the verdict."""
    for failure in doc["verdict"]["failed"]:
        print_text(console, f"  {failure['mode']}: {failure_text(failure)}", 4, "red")
    about = [doc["provenance"][name] for name in _ABOUT if name in doc["provenance"]]
    print_line(console, "weights", f"{doc['checkpoint']}  ({', '.join(about)})")
    if doc["inputs"] is not None:
        print_line(console, "inputs", doc["inputs"])
    for file in doc["files"]:
        size = f"{plural(file['samples'], 'sample')}, {plural(file['tokens'], 'token')}"
        told = f"{file['mode']}, {size}, {bytes_text(file['file_bytes'])}"
        print_line(console, "written", f"{file['path']}  ({told})")
    if doc["noise"]:
        console.print()
        _noise_table(console, doc)
    for place, one in enumerate(doc["comparisons"]):
        console.print()
        pictured = {"detail": doc["detail"]} if place == 0 and "detail" in doc else {}
        diff = cast("DiffDocument", {**one["diff"], **pictured})
        print_line(console, one["mode"], diff_verdict(diff)[1])
        print_diff(diff, console)


def _noise_table(console: Console, doc: RecomputeDocument) -> None:
    runs = doc["noise"]
    print_table(
        console,
        [
            Column("noise floor", [run["name"] for run in runs]),
            Column("rows", [amount(run["rows"]) for run in runs], 1),
            Column("changed", [amount(run["rows_mismatched"]) for run in runs]),
            Column("rate", [percent(run["mismatch_rate"]) for run in runs]),
        ],
    )
    for run in runs:
        if run["refused"] is not None:
            print_line(console, "not run", f"{run['name']}: {run['refused']}")
