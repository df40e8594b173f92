"""A report in ten lines: what --summary prints.

The seam: ``cli/voices.py`` wraps the render of a document in ``ten_lines`` where --summary is
given, for stdout; no command and no render knows of it.
"""

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from ..text.recorded import Render, printed_parts
from ..text.tables import Labelled, Table, TextLine
from ..text.wrapping import wrapped
from .lines import summary_of

__all__ = ["LINES", "ten_lines"]

LINES = 10
_MORE = Labelled("more", "without --summary: every figure, by layer")
_WHOLE = ("ALARM", "advice", "gain")  # what is not cut, however narrow a terminal is


def ten_lines(render: Render) -> Render:
    """A render of the same documents that prints at most ``LINES`` lines, the verdict first.

    Then come what was compared, the figures that matter, the worst layer or the first finding, and
    how to see more. Of a document without a summary of its own these are the first lines. In a
    terminal so narrow that lines are broken, alarms and advice are whole all the same.
    """

    def short(document: Any, console: Console) -> None:
        lines = summary_of(document)
        if lines is None:
            parts = printed_parts(document, render)
            lines = [
                part if isinstance(part, TextLine) else TextLine(part)
                for part in parts
                if not (part is None or isinstance(part, Table))
            ]
        verdict = len(wrapped(lines[0].text, console.width, lines[0].hang))
        _print_at_most(console, [*lines[: max(LINES - verdict, 1)], _MORE])

    return short


def _print_at_most(console: Console, lines: Sequence[TextLine]) -> None:
    """Lines in so much room; where a terminal breaks them into more, the later ones are cut."""
    broken = [wrapped(line.text, console.width, line.hang) for line in lines]
    spare = LINES - len(lines)
    for line, parts in zip(lines, broken, strict=True):
        is_whole = isinstance(line, Labelled) and line.label in _WHOLE
        room = len(parts) if is_whole else 1 + min(spare, len(parts) - 1)
        spare = max(spare - room + 1, 0)
        if room == len(parts):
            console.print(line, soft_wrap=True)
            continue
        *whole, cut = parts[:room]
        last = wrapped(cut, console.width - 2, line.hang)[0].append(" …")
        for part in (*whole, last):
            console.print(part, soft_wrap=True)
