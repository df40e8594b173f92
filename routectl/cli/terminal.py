"""The terminal: notes and progress lines on stderr, documents on stdout."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..jobs.progress import Progress
from ..visible import visible

if TYPE_CHECKING:
    from rich.console import Console

    from ..jobs.progress import Show
    from ..reports.document import Document

__all__ = ["TERMINAL", "emit", "note", "progress_line"]

_ESTIMATE_S = 600  # seconds of the past that the time left is judged by
_WIDEST = 60  # characters of what a progress line is about


def note(message: str) -> None:
    """One line on stderr: what was written, what was skipped."""
    print(f"routectl: {visible(message, end=1000)}", file=sys.stderr)


@contextmanager
def progress_line(what: str, unit: str) -> "Iterator[Show | None]":
    """A progress line on stderr: units done, a rate, time left; None where that is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit, markup=False),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, speed_estimate_period=_ESTIMATE_S
    ) as progress:
        task = progress.add_task(visible(what, _WIDEST), total=None, rate="")

        def show(done: float, total: int, words: Callable[[float], str]) -> None:
            elapsed = progress.tasks[0].elapsed or 0.0
            rate = words(elapsed) if elapsed else ""
            progress.update(task, completed=done, total=total, rate=rate)

        yield show


def emit(
    document: "Document",
    render: "Callable[[Any, Console], None]",
    *,
    as_json: bool,
    plain: bool = False,
) -> None:
    """Print a document on stdout; ``plain`` as a pipe would get it."""
    from ..reports.document import to_json, visible_document
    from ..reports.text.tables import open_console

    if as_json:
        sys.stdout.write(to_json(document))
    else:
        render(visible_document(document), open_console(sys.stdout, plain=plain))


TERMINAL = Progress(note, progress_line)
