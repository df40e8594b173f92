"""The console, and tables that fit it.

On a terminal, tables drop their least important columns until they fit; elsewhere they are plain
fixed columns and nothing is cut.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = ["Column", "open_console", "print_line", "print_table"]

_UNLIMITED = 100_000


def open_console(stream: IO[str]) -> Console:
    """A console that prints data as it is: no markup, and unlimited width in a pipe."""
    width = None if stream.isatty() else _UNLIMITED
    return Console(file=stream, markup=False, highlight=False, emoji=False, width=width)


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
    """Print columns, right-aligned but the first; ``last`` styles the last row."""
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


def print_line(console: Console, label: str, text: str) -> None:
    """A labelled line, never cut."""
    line = Text(f"{label:<10}", style="bold")
    line.append(text, style="not bold")
    console.print(line, soft_wrap=True)
