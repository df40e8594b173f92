"""``routectl report RESULT.json``: a saved report again, in every voice."""

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FormatError, RoutectlError
from ..files.places import place_of
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
    expert loads, the worst sequences token by token. Two reports of one command are laid side by
    side: figures of both, and the layers where they part. For --junit, --badge and --github, a
    case is a report, of several too.
    """
    from ..reports.page.page import VIEWED, render_of

    asked, voices = line.request(_Saved), line.voices
    paths = [place_of(name) for name in asked.result]
    voices.refuse()
    asked.services.refuse(voices)
    asked.dashboards.refuse(voices)
    services = asked.services.junit or asked.services.github or asked.dashboards.badge
    if paths[1:] and (asked.dashboards.scalars or (services and (voices.html or voices.target))):
        raise RoutectlError(
            "-o and --html beside --junit, --github or --badge, and dashboards, are of one report: "
            "got several RESULTs"
        )
    if paths[2:] and not services:
        raise RoutectlError(f"two reports are laid side by side: got {len(paths)} RESULTs")
    found = [(path, voices.reduced(read_report(path, *VIEWED))) for path in paths]
    if paths[1:] and not services:
        return _beside(found, voices)
    sayings: list[Saying] = []
    for path, document in found:
        _whole(path, document, partial(_check, document))
    _whole(paths[0], found[0][1], lambda: sayings.extend(_served(found, asked, voices)))
    for path, document in found:
        _whole(path, document, partial(voices.tell, document, render_of(document)))
    say_all(sayings)
    return 0


def _beside(found: _Found, voices: "Voices") -> int:
    """Two reports of one kind: figures of both, and where they part."""
    from ..reports.beside.document import beside_document
    from ..reports.document import visible_document
    from ..reports.page.page import render_of

    made: list[Document] = []
    for path, document in found:
        _whole(path, document, partial(_check, document))
    a, b = ((str(path), visible_document(document)) for path, document in found)
    _whole(*found[0], lambda: made.append(beside_document(a, b, render_of(a[1]))))
    voices.tell(made[0], render_of(made[0]))
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
