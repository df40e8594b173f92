"""``routectl report RESULT.json -o page.html``."""

from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import FormatError, RoutectlError
from ..jobs.options import argument
from ..jobs.saved import read_report
from .desk import CommandLine, desk

__all__ = ["report_command"]

_DAMAGED = (ArithmeticError, AttributeError, IndexError, KeyError, TypeError, ValueError)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Saved:
    """A report to be shown again."""

    result: Path = argument(metavar="RESULT", help="What --json printed, saved.")


@desk(_Saved, "plain output tokenizer no_tokens force")
def report_command(line: CommandLine) -> int:
    """Show a saved report again: as text, or with -o NAME.html as a page.

    The page of a diff or of a dump shows most when the report was made with --json --detail: where
    rows differ by layer and position, expert loads, the worst sequences token by token.
    """
    from rich.errors import ConsoleError

    from ..reports.page.page import render_of

    result, voices = line.request(_Saved).result, line.voices
    paged = voices.target is not None and voices.target.suffix in (".html", ".htm")
    replace(voices, tokenizer=None).refuse()
    document = read_report(result)
    try:
        render = render_of(document)
    except FormatError as error:
        raise FormatError(f"{result}: {error}") from None
    try:
        if paged:
            page = replace(voices, html=voices.target, output=None)
            page.refuse()
            page.page(document)
        elif voices.tokenizer is not None:
            raise RoutectlError("--tokenizer is for a page", hint="-o NAME.html writes one")
        else:
            voices.tell(document, render)
    except (*_DAMAGED, ConsoleError):
        raise FormatError(f"{result}: not a whole report of {document['schema']}") from None
    return 0
