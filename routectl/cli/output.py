"""Where reports go: stdout or a file, as JSON or as text; and how long work shows itself."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from ..dump import Dump, Sample
    from ..reports.diff.document import Document

__all__ = [
    "check_output",
    "counting",
    "counting_samples",
    "emit",
    "note",
    "pictured",
    "progress_line",
    "tokens_rate",
    "watching",
]


_ESTIMATE_S = 600  # seconds of the past that the time left is judged by


def note(message: str) -> None:
    """One line on stderr: what was written, what was skipped."""
    print(f"routectl: {message}", file=sys.stderr)


def check_output(path: Path | None, force: bool) -> Path | None:
    """The file that a report goes to, None for stdout; refused before any work is done."""
    if path is None or str(path) == "-":
        return None
    from ..files import refuse_existing

    refuse_existing(path, force=force)
    return path


def emit(
    document: "Document",
    render: "Callable[[Document, Console], None]",
    *,
    as_json: bool,
    plain: bool = False,
    output: Path | None = None,
    force: bool = False,
) -> None:
    """Print a document, or write it whole to ``output``; ``plain`` as a pipe would get it."""
    import io

    from ..files import replacing
    from ..reports.document import to_json

    if output is None and as_json:
        sys.stdout.write(to_json(document))
        return
    from ..reports.text.tables import open_console

    if output is None:
        render(document, open_console(sys.stdout, plain=plain))
        return
    if as_json:
        text = to_json(document)
    else:
        page = io.StringIO()
        render(document, open_console(page))
        text = page.getvalue()
    with replacing(output, force=force) as stream:
        stream.write(text.encode())
    note(f"wrote {output}")


def pictured(as_json: bool, plain: bool, output: Path | None) -> bool:
    """Whether a report goes to a terminal, where pictures are drawn."""
    return output is None and not (as_json or plain) and sys.stdout.isatty()


@contextmanager
def progress_line(
    what: str, unit: str
) -> Iterator[Callable[[float, int, Callable[[float], str]], None] | None]:
    """A progress line on stderr: units done, a rate, time left; None where that is no terminal.

    What it gives takes the units done, those in all, and what to say after so many seconds.
    """
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
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, speed_estimate_period=_ESTIMATE_S
    ) as progress:
        task = progress.add_task(what, total=None, rate="")

        def show(done: float, total: int, words: Callable[[float], str]) -> None:
            elapsed = progress.tasks[0].elapsed or 0.0
            rate = words(elapsed) if elapsed else ""
            progress.update(task, completed=done, total=total, rate=rate)

        yield show


@contextmanager
def counting(
    what: str, total: int, unit: str, rate: Callable[[float], str]
) -> Iterator[Callable[[int], None]]:
    """A progress line that counts: each call is one unit more, of that much work.

    ``rate`` words work a second.
    """
    with progress_line(what, unit) as show:
        units = work_done = 0
        if show is not None:
            show(0, total, lambda elapsed: "")

        def advance(work: int) -> None:
            nonlocal units, work_done
            units, work_done = units + 1, work_done + work
            if show is not None:
                passes = max(1, -(-units // max(total, 1)))  # a dump may be read again
                show(units, passes * total, lambda elapsed: rate(work_done / elapsed))

        yield advance


def tokens_rate(tokens: float) -> str:
    """Tokens a second, in words."""
    return f"{tokens:,.0f} tokens/s"


@contextmanager
def counting_samples(what: str, total: int) -> "Iterator[Callable[[Sample], None]]":
    """A progress line that counts the samples that it is told of."""
    with counting(what, total, "samples", tokens_rate) as advance:

        def on_sample(sample: "Sample") -> None:
            advance(0 if sample.routes is None else sample.routes.num_tokens)

        yield on_sample


@contextmanager
def watching(dump: "Dump", what: str, passes: int = 1) -> "Iterator[Dump]":
    """The dump, read so many times, with a progress line on stderr on a terminal."""
    with counting_samples(what, passes * len(dump)) as on_sample:
        yield dump.watched(on_sample)
