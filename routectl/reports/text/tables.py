"""The console, and what fits it: a verdict, labelled lines, tables.

On a terminal lines are broken between words and continued under their text; a table breaks names
and lists, then leaves its least important columns out, until it fits. Elsewhere a line is one line,
columns are as wide as they are, and nothing is cut.
"""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import IO, Any, cast

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.text import Text

from ...visible import visible
from .wrapping import wrapped

__all__ = [
    "Column",
    "Headline",
    "Labelled",
    "Table",
    "TextLine",
    "open_console",
    "print_layers",
    "print_line",
    "print_lines",
    "print_table",
    "print_text",
    "under_verdict",
]

_UNLIMITED = 100_000
_LONGEST = 8000  # characters of a labelled line: names may be many
_LABEL = 10
_SCREEN = 40  # lines after which the verdict is said again
_NAME = 200  # characters of what names a row
_MANY = 24  # layers of which a terminal gets some: so many
_WORST = 12
_GAP = 2
_NARROW = 12  # columns that a name is given at least


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


class TextLine:
    """A line to be printed, continued ``hang`` columns from the left where it is broken."""

    def __init__(self, text: Text | str, hang: int = 2, style: str = "") -> None:
        self.text = Text(text, style) if isinstance(text, str) else text
        self.hang = hang

    def __str__(self) -> str:
        return self.text.plain

    @property
    def style(self) -> str:
        """The style of the whole line."""
        return str(self.text.style)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        """Lines of the console's width."""
        yield from wrapped(self.text, console.width, self.hang)


class Labelled(TextLine):
    """A line that begins with a label; ``label`` and ``words`` are its two parts."""

    def __init__(self, label: str, words: str, style: str = "bold") -> None:
        words = visible(words, _LONGEST, end=_LONGEST // 8)
        wide = f"{label}  " if len(label) >= _LABEL else f"{label:<{_LABEL}}"
        text = Text(wide, style=style)
        super().__init__(text.append(words, style="not bold default"), _LABEL)
        self.label, self.words = label, words


def print_text(console: Console, text: Text | str, hang: int = 2, style: str = "") -> None:
    """A line as it is, broken where the console needs it."""
    console.print(TextLine(text, hang, style), soft_wrap=True)


class Headline(TextLine):
    """The first line of a report: its verdict in a styled word, and what is behind it."""

    def __init__(self, word: str, style: str, text: str) -> None:
        line = Text(word, style=style)
        super().__init__(line.append(f"  {text}", style="not bold default"), cell_len(word) + 2)


@contextmanager
def under_verdict(console: Console, verdict: Headline) -> Iterator[None]:
    """The verdict, what is printed within, and the verdict again where that was long."""
    own, counted = console.file, _Counted(console.file)
    console.file = cast("IO[str]", counted)
    try:
        console.print(verdict, soft_wrap=True)
        yield
    finally:
        console.file = own
    if counted.lines > _SCREEN:
        console.print()
        console.print(verdict, soft_wrap=True)


class _Counted:
    """A stream that counts the lines that are written to it."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream, self.lines = stream, 0

    def write(self, text: str) -> int:
        """Write them."""
        self.lines += text.count("\n")
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def print_line(console: Console, label: str, text: str, style: str = "bold") -> None:
    """A labelled line, never cut; the style is its label's."""
    console.print(Labelled(label, text, style), soft_wrap=True)


def print_lines(console: Console, lines: Iterable[tuple[str, str]]) -> None:
    """Print lines, each of a label and its text."""
    for label, text in lines:
        print_line(console, label, text)


@dataclass(frozen=True, slots=True)
class Column:
    """A table column; of the columns that do not fit, those of the highest ``rank`` go first.

    Cells of ``words`` may be broken between words; others are figures, which never are.
    """

    title: str
    cells: Sequence[str]
    rank: int = 0
    words: bool = False

    @property
    def width(self) -> int:
        """Columns that the widest cell takes."""
        return max(cell_len(cell) for cell in (self.title, *self.cells))


@dataclass(frozen=True, slots=True)
class Table:
    """A table to be printed, right-aligned but its first column; ``last`` styles its last row.

    The first column names the rows, and may be broken as those of words are.
    """

    columns: Sequence[Column]
    last: str | None = None

    @property
    def heads(self) -> list[str]:
        """The titles of its columns."""
        return [column.title for column in self.columns]

    def rows(self) -> Iterator[tuple[str, ...]]:
        """The cells of each row."""
        return zip(*(column.cells for column in self.columns), strict=True)

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[Text | TextLine]:
        """The lines of the table, and one that says what was left out."""
        shown, widths = _fitting(self.columns, console.width)
        yield from _row_lines([c.title for c in shown], widths, "bold")
        for i in range(len(self.columns[0].cells)):
            style = self.last if i == len(self.columns[0].cells) - 1 else None
            yield from _row_lines([c.cells[i] for c in shown], widths, style)
        left = dict.fromkeys(c.title for c in self.columns if c not in shown)
        if left:
            yield TextLine(f"(narrow terminal, not shown: {', '.join(left)})", 1, "dim")


def print_table(console: Console, columns: Sequence[Column], last: str | None = None) -> None:
    """Print columns as a table."""
    names = [visible(cell, _NAME, end=_NAME // 4) for cell in columns[0].cells]
    first = replace(columns[0], cells=names, words=True)
    console.print(Table([first, *columns[1:]], last), soft_wrap=True)


def print_layers(
    console: Console,
    columns: Sequence[Column],
    scores: Sequence[float | None],
    told: Callable[[Sequence[float]], str],
    last: str | None = None,
) -> None:
    """A table with a row a layer: a terminal gets those of the greatest scores where they are many.

    ``scores`` has one for each layer; rows after them, of all layers, are always there. ``told``
    words the scores of the layers that are not.
    """
    number = len(scores)
    if not console.is_terminal or number <= _MANY:
        print_table(console, columns, last)
        return
    order = sorted(range(number), key=lambda i: -(scores[i] or 0))
    kept = [*sorted(order[:_WORST]), *range(number, len(columns[0].cells))]
    print_table(console, [replace(c, cells=[c.cells[i] for i in kept]) for c in columns], last)
    left = told([scores[i] or 0 for i in order[_WORST:]])
    more = f"({number - _WORST} more layers, {left}: --json and -o have them)"
    print_text(console, more, 1, "dim")


def _fitting(columns: Sequence[Column], room: int) -> tuple[list[Column], list[int]]:
    """The columns that fit so much room, and how wide each is."""
    shown = list(columns)
    for least in (max(room // 3, _NARROW), _NARROW):  # what is broken, is broken that narrow
        ranked = sorted((c for c in shown if c.rank), key=lambda c: -c.rank)
        while _taken(shown, least) > room and ranked:
            shown.remove(ranked.pop(0))
    while _taken(shown, _NARROW) > room and len(shown) > 2:
        shown.pop()
    least = max(room // 3, _NARROW) if _taken(shown, max(room // 3, _NARROW)) <= room else _NARROW
    widths = [_least(c, least) for c in shown]
    spare = max(room - sum(widths) - _GAP * (len(shown) - 1), 0)
    for i, column in enumerate(shown):
        more = min(column.width - widths[i], spare)
        widths[i], spare = widths[i] + more, spare - more
    return shown, widths


def _least(column: Column, least: int) -> int:
    """How narrow a column may be."""
    return min(column.width, least) if column.words else column.width


def _taken(columns: Sequence[Column], least: int) -> int:
    return sum(_least(c, least) + _GAP for c in columns) - _GAP


def _row_lines(cells: Sequence[str], widths: Sequence[int], style: str | None) -> Iterator[Text]:
    """A row, on as many lines as its longest cell takes."""
    broken = [wrapped(cell, width, 1) for cell, width in zip(cells, widths, strict=True)]
    for i in range(max(map(len, broken))):
        line = ""
        for column, (lines, width) in enumerate(zip(broken, widths, strict=True)):
            text = lines[i].plain if i < len(lines) else ""
            blank = " " * (width - cell_len(text))
            line += " " * _GAP + blank + text if column else text + blank
        yield Text(line.rstrip(), style or "")
