"""Findings as terminal text: the verdict, what was looked at, each finding; a line of watch."""

from rich.console import Console
from rich.text import Text

from ...ops.check.book.words import word_of
from ..document import DumpEntry
from ..text.tables import Column, Headline, print_line, print_table, print_text, under_verdict
from ..text.wording import amount, engine_text, layers_text, part_text, percent, plural
from .candidates import candidates_sentence, print_candidates
from .schema import (
    CheckDocument,
    ExplanationEntry,
    FindingEntry,
    FindingPlace,
    SeverityCounts,
    TokensEntry,
    WatchDocument,
)

__all__ = [
    "check_headline",
    "check_verdict",
    "checked_rows",
    "finding_size",
    "place_text",
    "render_check",
    "unseen_text",
    "watch_text",
]

_STYLES = {
    "error": "bold red",
    "warning": "bold yellow",
    "undecided": "bold yellow",
    "note": "bold",
}
_VERDICTS = {
    "FAULTY": "bold red",
    "DOUBTFUL": "bold yellow",
    "UNDECIDED": "bold yellow",
    "CLEAN": "bold green",
}
_HYPOTHESES = 6


def _word(counts: SeverityCounts) -> str:
    """The verdict: what is worst, in one word."""
    worst = {"error": counts["errors"], "warning": counts["warnings"]}
    return word_of({**worst, "undecided": counts["undecided"]})


def _said(counts: SeverityCounts) -> list[str]:
    """How many findings of each severity that has any."""
    said = [plural(counts[key], key[:-1]) for key in ("errors", "warnings") if counts[key]]
    said += [f"{counts['undecided']} undecided"] if counts["undecided"] else []
    return said + ([plural(counts["notes"], "note")] if counts["notes"] else [])


def check_verdict(doc: CheckDocument) -> tuple[str, str]:
    """The verdict of a routectl.check/1 document: a word, and findings by severity."""
    found = ", ".join(_said(doc["counts"])) or "nothing found"
    made = doc.get("candidates")
    return _word(doc["counts"]), found if made is None else f"{candidates_sentence(made)}; {found}"


def check_headline(doc: CheckDocument) -> Headline:
    """The verdict as a line."""
    word, text = check_verdict(doc)
    return Headline(word, _VERDICTS[word], text + part_text(doc))


def render_check(doc: CheckDocument, console: Console) -> None:
    """Print a routectl.check/1 document."""
    with under_verdict(console, check_headline(doc)):
        _print_body(doc, console)


def _print_body(doc: CheckDocument, console: Console) -> None:
    """What follows the verdict."""
    print_line(console, "dump", _dump_line(doc["dump"]))
    if doc["reference"] is not None:
        print_line(console, "against", _dump_line(doc["reference"]))
    looked = (
        plural(doc["dump"]["samples"], "sample"),
        plural(doc["tokens"], "token"),
        checked_rows(doc),
    )
    print_line(console, "checked", ", ".join(looked))
    if doc["by_tokens"] is not None:
        print_line(console, "by tokens", _tokens_text(doc["by_tokens"]))
    if unseen_text(doc):
        print_line(console, "unseen", unseen_text(doc))
    if doc["explanation"] is not None:
        print_line(console, "mismatch", _mismatch_text(doc["explanation"]))
    if "candidates" in doc:
        print_candidates(doc["candidates"], console)
    for finding in doc["findings"]:
        _finding(console, finding)
    if doc["explanation"] is not None:
        _hypotheses(console, doc["explanation"])


def checked_rows(doc: CheckDocument) -> str:
    """How many rows were checked, of those that their tokens and layers make."""
    every = plural(doc["tokens"] * len(doc["dump"]["layers"]), "row")
    checked = amount(doc["rows"])
    return every if every.startswith(f"{checked} ") else f"{checked} of {every}"


def unseen_text(doc: CheckDocument) -> str:
    """What a dump that is clean by itself may hide; nothing where it was held against others."""
    alone = doc["reference"] is None and "candidates" not in doc
    if not alone or _word(doc["counts"]) != "CLEAN":
        return ""
    return (
        "what is wrong alike in every sample, such as renumbered experts; what is wrong in a tenth "
        "or more of them may be missed: --against shows both"
    )


def _tokens_text(told: TokensEntry) -> str:
    """What a dump's own tokens could tell of its rows, in words."""
    if told["reason"] is not None:
        return f"nothing can be told: {told['reason']}"
    bits = [layer["bits"] for layer in told["layers"]]
    text = (
        f"{plural(told['rows'], 'row')} of tokens, {sum(bits) / len(bits):.2f} bits an id above "
        f"its layer ({min(bits):.2f} to {max(bits):.2f})"
    )
    if told["smallest_run"] is None:
        return text
    return f"{text}; {plural(told['smallest_run'], 'row')} of other tokens in a row would show"


def _dump_line(dump: DumpEntry) -> str:
    engine = engine_text(dump)
    about = [engine] if engine else []
    about += [dump["format"], layers_text(dump["layers"])]
    about += [f"top-{dump['top_k']} of {dump['num_experts']}"]
    return f"{dump['path']}  ({', '.join(about)})"


def _mismatch_text(found: ExplanationEntry) -> str:
    text = (
        f"{amount(found['rows_mismatched'])} of {plural(found['rows'], 'row')} differ "
        f"({percent(found['mismatch_rate'])})"
    )
    if found["rows_explained"]:
        text += f"; {amount(found['rows_explained'])} are explained below"
    return text


def _hypotheses(console: Console, found: ExplanationEntry) -> None:
    """What was tried, and what it would leave of the mismatch."""
    tried = found["hypotheses"][:_HYPOTHESES]
    if not tried:
        return
    console.print()
    print_table(
        console,
        [
            Column("what was done", [h["hypothesis"] for h in tried]),
            Column("code", [h["code"] for h in tried]),
            Column("rows tried", [amount(h["rows"]) for h in tried]),
            Column("as it is", [percent(h["mismatch_rate_before"]) for h in tried]),
            Column("left", [percent(h["mismatch_rate"]) for h in tried]),
        ],
    )
    if any(h["rows"] > found["rows"] for h in tried):
        told = "those that both sides have with it undone; a row that is tried twice counts twice"
        print_line(console, "tried", told)


def _finding(console: Console, finding: FindingEntry) -> None:
    console.print()
    detail = f": {finding['detail']}" if finding["detail"] else ""
    head = Text(f"{finding['code']}  {finding['severity']}", style=_STYLES[finding["severity"]])
    head.append(f"  {finding['title']}{detail}", style="not bold default")
    print_text(console, head, len(finding["code"]) + 2)
    parts = finding_size(finding)
    if parts:
        print_line(console, "in", ", ".join(parts))
    if finding["places"]:
        print_line(console, "first", "; ".join(map(place_text, finding["places"])))
    print_line(console, "cause", finding["cause"])
    print_line(console, "do", finding["action"])
    if finding["upstream"]:
        print_line(console, "seen in", ", ".join(finding["upstream"]))


def finding_size(finding: FindingEntry) -> list[str]:
    """How much a finding is of: rows, samples and layers, those that there are."""
    parts = [plural(finding["rows"], "row")] if finding["rows"] else []
    parts += [plural(finding["samples"], "sample")] if finding["samples"] else []
    return parts + ([layers_text(finding["layers"])] if finding["layers"] else [])


def place_text(place: FindingPlace) -> str:
    """A place of a finding in words."""
    text = f"sample {place['sample']}"
    if place["position"] is not None:
        text += f" position {place['position']}"
    text = text if place["layer"] is None else f"{text} layer {place['layer']}"
    return f"{text} ({place['note']})" if place["note"] else text


def watch_text(doc: WatchDocument) -> str:
    """The line of a terminal: time of day, verdict, file, samples, counts, the worst finding."""
    clock = doc["time"][11:19]
    if doc["error"] is not None:
        return f"{clock}  UNCHECKED  {doc['file']}  {doc['error']}"
    counts, worst = doc["counts"], doc["worst"]
    first = f"{clock}  {_word(counts):<9}  {doc['file']}  {plural(doc['samples'], 'sample')}"
    line = ", ".join([first, *_said(counts)])
    if worst is None:
        return line
    rows = f" ({plural(worst['rows'], 'row')})" if worst["rows"] else ""
    return f"{line}  {worst['code']} {worst['title']}{rows}"
