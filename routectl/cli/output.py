"""Where reports go: stdout or a file, as JSON or as text; and how long work shows itself."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from ..dump import Dump, Sample
    from ..reports.document import Document

__all__ = ["check_output", "emit", "note", "watching"]


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
    output: Path | None,
    force: bool,
) -> None:
    """Print a document, or write it whole to ``output``."""
    import io

    from ..files import replacing
    from ..reports.document import to_json

    if output is None and as_json:
        sys.stdout.write(to_json(document))
        return
    from ..reports.tables import open_console

    if output is None:
        render(document, open_console(sys.stdout))
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


@contextmanager
def watching(dump: "Dump", what: str) -> "Iterator[Dump]":
    """The dump, with a progress line on stderr (samples, tokens/s, time left) on a terminal."""
    if not sys.stderr.isatty():
        yield dump
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
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("samples"),
        TextColumn("{task.fields[rate]}"), TimeRemainingColumn(),
    )  # fmt: skip
    progress = Progress(*columns, console=Console(stderr=True), transient=True)
    with progress:
        task = progress.add_task(what, total=len(dump), rate="")
        seen = 0

        def on_sample(sample: "Sample") -> None:
            nonlocal seen
            seen += 0 if sample.routes is None else sample.routes.num_tokens
            elapsed = progress.tasks[0].elapsed or 0.0
            speed = f"{seen / elapsed:,.0f} tokens/s" if elapsed else ""
            progress.update(task, advance=1, rate=speed)

        yield dump.watched(on_sample)
