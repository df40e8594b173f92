"""``routectl report RESULT.json -o page.html``."""

import io
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

    from ..reports.page.page import VIEWED, render_of
    from ..reports.text.tables import open_console

    result, voices = line.request(_Saved).result, line.voices
    paged = voices.target is not None and voices.target.suffix in (".html", ".htm")
    replace(voices, tokenizer=None).refuse()
    document = read_report(result, *VIEWED)
    render = render_of(document)
    try:
        render(document, open_console(io.StringIO()))  # whole, before a line of it is shown
        if paged:
            page = replace(voices, html=voices.target, output=None)
            page.refuse()
            page.page(document)
        elif voices.tokenizer is not None:
            raise RoutectlError("--tokenizer is for a page", hint="-o NAME.html writes one")
        else:
            voices.tell(document, render)
    except (*_DAMAGED, ConsoleError) as error:
        missing = isinstance(error, KeyError) and error.args and isinstance(error.args[0], str)
        told = f": no {error.args[0]} in it" if missing else ""
        raise FormatError(f"{result}: not a whole report of {document['schema']}{told}") from None
    return 0
