"""The console, and tables that fit it.

On a terminal, tables drop their least important columns until they fit; elsewhere they are plain
fixed columns and nothing is cut.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import IO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ...visible import visible

__all__ = [
    "Column",
    "Labelled",
    "open_console",
    "print_headline",
    "print_line",
    "print_lines",
    "print_table",
]

_UNLIMITED = 100_000
_LONGEST = 8000  # characters of a labelled line: names may be many
_NAME = 200  # characters of what names a row


def open_console(stream: IO[str], *, plain: bool = False) -> Console:
    """A console that prints data as it is: no markup, and unlimited width in a pipe.

    ``plain`` prints to a terminal as to a pipe. What a stream's encoding lacks is printed as "?".
    """
    terminal = stream.isatty() and not plain
    if isinstance(stream, io.TextIOWrapper) and not stream.encoding.lower().startswith("utf"):
        stream.reconfigure(errors="replace")
    return Console(
        file=stream,
        markup=False,
        highlight=False,
        emoji=False,
        force_terminal=terminal,
        width=None if terminal else _UNLIMITED,
    )


@dataclass(frozen=True, slots=True)
class Column:
    """A table column; of the columns that do not fit, those of the highest ``rank`` go first."""

    title: str
    cells: Sequence[str]
    rank: int = 0

    @property
    def width(self) -> int:
        """Characters that the widest cell takes."""
        return max(len(cell) for cell in (self.title, *self.cells))


def print_table(console: Console, columns: Sequence[Column], last: str | None = None) -> None:
    """Print columns, right-aligned but the first, which is cut; ``last`` styles the last row."""
    names = [visible(cell, _NAME, end=_NAME // 4) for cell in columns[0].cells]
    columns = [replace(columns[0], cells=names), *columns[1:]]
    shown = list(columns)
    while sum(c.width + 2 for c in shown) > console.width + 2 and any(c.rank for c in shown):
        shown.remove(max(shown, key=lambda c: c.rank))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for i, column in enumerate(shown):
        table.add_column(column.title, justify="left" if i == 0 else "right", no_wrap=True)
    rows = list(zip(*(c.cells for c in shown), strict=True))
    for i, row in enumerate(rows):
        table.add_row(*row, style=last if i == len(rows) - 1 else None)
    console.print(table)
    if len(shown) < len(columns):
        left = ", ".join(c.title for c in columns if c not in shown)
        console.print(f"(narrow terminal, not shown: {left})", style="dim")


class Labelled(Text):
    """A line that begins with a label; ``label`` and ``words`` are its two parts."""

    def __init__(self, label: str, words: str) -> None:
        words = visible(words, _LONGEST, end=_LONGEST // 8)
        super().__init__(f"{label:<10}", style="bold")
        self.append(words, style="not bold")
        self.label, self.words = label, words


def print_headline(console: Console, word: str, style: str, text: str) -> None:
    """The first line of a report: its verdict in a styled word, and what is behind it."""
    line = Text(word, style=style)
    line.append(f"  {text}", style="not bold default")
    console.print(line, soft_wrap=True)


def print_line(console: Console, label: str, text: str) -> None:
    """A labelled line, never cut."""
    console.print(Labelled(label, text), soft_wrap=True)


def print_lines(console: Console, lines: Sequence[tuple[str, str]]) -> None:
    """Print lines, each of a label and its text."""
    for label, text in lines:
        print_line(console, label, text)
