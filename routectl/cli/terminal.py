"""The terminal: notes and progress lines on stderr, documents on stdout."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from ..jobs.progress import Progress
from ..visible import visible

if TYPE_CHECKING:
    from rich.console import Console

    from ..jobs.progress import Show
    from ..reports.document import Document

__all__ = ["TERMINAL", "answer", "emit", "note", "progress_line", "say", "told_now_and_then"]

_ESTIMATE_S = 600  # seconds of the past that the time left is judged by
_WIDE, _BAR = 100, 20  # columns of a terminal beyond which a progress line has a bar, and its own
_LEAST = 8  # columns of what it is about
_QUIET_S, _SILENT_S = 30, 300  # between two notes of how far something is: at least, at most


def say(prefix: str, message: str) -> None:
    """A line on stderr, continued under itself where a terminal is narrower."""
    line = f"{prefix}: {visible(message, end=1000)}"
    print(_fitted(line, sys.stderr, len(prefix) + 2), file=sys.stderr)


def answer(text: str) -> None:
    """Lines on stdout, each continued under its text where a terminal is narrower."""
    for line in text.split("\n"):
        print(_fitted(line, sys.stdout, 10))
    sys.stdout.flush()


def _fitted(line: str, stream: IO[str], hang: int) -> str:
    """A line as a stream takes it: broken where that is a narrower terminal."""
    if not stream.isatty():
        return line
    from rich.console import Console

    from ..reports.text.wrapping import broken

    return broken(line, Console(file=stream).width, hang)


def note(message: str) -> None:
    """One line on stderr: what was written, what was skipped."""
    say("routectl", message)


@contextmanager
def progress_line(what: str, unit: str) -> "Iterator[Show]":
    """How far something is, on stderr: a line that is drawn again; notes where it is no terminal.

    It has units done, a rate, and the time left.
    """
    if not sys.stderr.isatty():
        yield told_now_and_then(what, unit, note)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.table import Column

    console = Console(stderr=True)
    bar = _BAR if console.width > _WIDE else 0
    text = TextColumn("{task.fields[line]}", markup=False, table_column=Column(no_wrap=True))
    with Progress(
        *([BarColumn(bar)] if bar else []),
        text,
        console=console,
        transient=True,
        speed_estimate_period=_ESTIMATE_S,
    ) as progress:
        task = progress.add_task("", total=None, line=visible(what, console.width))

        def show(done: float, total: int, words: Callable[[float], str]) -> None:
            progress.update(task, completed=done, total=total)
            now = progress.tasks[0]
            rate = words(now.elapsed) if now.elapsed else ""
            parts = _parts(unit, done, total, rate, now.time_remaining)
            progress.update(task, line=_cut(what, parts, console.width - bar - 2))

        yield show


def _parts(unit: str, done: float, total: int, rate: str, left_s: float | None) -> list[str]:
    """What is done, how fast, and how long it takes yet."""
    share = f" ({100 * done / total:.0f} %)" if total else ""
    left = "" if left_s is None else f"{_time_text(left_s)} left"
    return [f"{done:,.0f} of {total:,} {unit}{share}", *rate.split(", "), left]


def _cut(what: str, parts: list[str], width: int) -> str:
    """A line of what fits: what is done first, then the time left, then the rest in its order."""
    room = width - len(parts[0]) - 1
    head = f"{visible(what, room - 1) if len(what) > room else what} " if room > _LEAST else ""
    room = width - len(head) - len(parts[0])
    kept = set()
    for i in (len(parts) - 1, *range(1, len(parts) - 1)):
        if parts[i] and len(parts[i]) + 2 <= room:
            kept.add(i)
            room -= len(parts[i]) + 2
    return head + ", ".join([parts[0], *(part for i, part in enumerate(parts) if i in kept)])


def told_now_and_then(
    what: str,
    unit: str,
    told: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
) -> "Show":
    """What tells, a line at a time, how far something is: of long work alone, in a log.

    A line comes when a tenth more is done, or when five minutes have gone by; never within 30 s of
    the start or of another.
    """
    begun = clock()
    last_s, last_done = begun, 0.0

    def show(done: float, total: int, words: Callable[[float], str]) -> None:
        nonlocal last_s, last_done
        now = clock()
        if now - last_s < _QUIET_S:
            return
        if done - last_done < total / 10 and now - last_s < _SILENT_S:
            return
        last_s, last_done = now, done
        elapsed = now - begun
        left_s = elapsed * (total - done) / done if done else None
        parts = _parts(unit, done, total, words(elapsed), left_s)
        told(f"{what} {', '.join(part for part in parts if part)}")

    return show


def _time_text(seconds: float) -> str:
    """A stretch of time in two units at most: 45 s, 12 min, 3 h 5 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def emit(
    document: "Document",
    render: "Callable[[Any, Console], None]",
    *,
    as_json: bool,
    plain: bool = False,
) -> None:
    """Print a document on stdout; ``plain`` as a pipe would get it."""
    from ..reports.document import to_json, visible_document

    if as_json:
        sys.stdout.write(to_json(document))
    else:
        from ..reports.text.tables import open_console

        render(visible_document(document), open_console(sys.stdout, plain=plain))


TERMINAL = Progress(note, progress_line)
