"""``routectl report RESULT.json``: a saved report again, in every voice."""

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FormatError, RoutectlError
from ..jobs.options import argument
from ..jobs.saved import read_report
from .desk import CommandLine, desk
from .services import Dashboards, Saying, Services, say_all

if TYPE_CHECKING:
    from ..reports.document import Document
    from .voices import Voices

__all__ = ["report_command"]

_Found = list[tuple[Path, Any]]  # documents by path
_DAMAGED = (ArithmeticError, AttributeError, IndexError, KeyError, TypeError, ValueError)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Saved:
    """Reports to be shown again."""

    result: tuple[str, ...] = argument(
        metavar="RESULT", help="What -o NAME.json wrote, or --json printed."
    )
    services: Services = field(default_factory=Services)
    dashboards: Dashboards = field(default_factory=Dashboards)


@desk(_Saved, "html tokenizer as_json summary no_tokens output force")
def report_command(line: CommandLine) -> int:
    """Show a saved report again: as text, as a page, to CI services and dashboards.

    What -o NAME.json wrote has all that a page shows: where rows differ by layer and position,
    expert loads, the worst sequences token by token. Of several reports, JUnit, the badge and
    annotations have a case each.
    """
    from ..reports.page.page import VIEWED, render_of

    asked, voices = line.request(_Saved), line.voices
    paths = [Path(name) for name in asked.result]
    voices.refuse()
    asked.services.refuse(voices)
    asked.dashboards.refuse(voices)
    if paths[1:] and (voices.html or voices.target or asked.dashboards.scalars):
        raise RoutectlError("-o, --html and dashboards are of one report: got several RESULTs")
    found = [(path, voices.reduced(read_report(path, *VIEWED))) for path in paths]
    sayings: list[Saying] = []
    for path, document in found:
        _whole(path, document, partial(_check, document))
    _whole(paths[0], found[0][1], lambda: sayings.extend(_served(found, asked, voices)))
    for path, document in found:
        _whole(path, document, partial(voices.tell, document, render_of(document)))
    say_all(sayings)
    return 0


def _whole(path: Path, document: "Document", say: Callable[[], None]) -> None:
    """Say something of a report. Raises FormatError where the report lacks what that needs."""
    from rich.errors import ConsoleError

    try:
        say()
    except (*_DAMAGED, ConsoleError) as error:
        missing = isinstance(error, KeyError) and error.args and isinstance(error.args[0], str)
        told = f": no {error.args[0]} in it" if missing else ""
        raise FormatError(f"{path}: not a whole report of {document['schema']}{told}") from None


def _check(document: "Document") -> None:
    """Render it whole, before a line of it is shown."""
    from ..reports.page.page import render_of
    from ..reports.text.tables import open_console

    render_of(document)(document, open_console(io.StringIO()))


def _served(found: _Found, asked: _Saved, voices: "Voices") -> list[Saying]:
    """What other programs are to read of the reports."""
    from ..reports.ci.saved import runs_of_reports
    from ..reports.page.page import render_of

    services, dashboards = asked.services, asked.dashboards
    runs: Document = None
    if services.junit or services.github or dashboards.badge:
        runs = runs_of_reports([(str(p), doc, render_of(doc)) for p, doc in found])
    return [
        *services.sayings(runs, voices),
        *dashboards.sayings(runs, found[0][1], voices),
    ]
