"""A terminal report as HTML: what is printed line by line becomes lists and tables."""

import html
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from rich.text import Text

from ..document import Document
from ..text.recorded import Render, printed_parts
from ..text.tables import Labelled, Table, TextLine

__all__ = ["report_markup"]


def _cells(tag: str, cells: list[str]) -> str:
    return "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)


def _table(table: Table) -> str:
    """A table whose first column names its rows; scripts make it sortable."""
    heads = table.heads
    body = "\n".join(
        f'<tr><th scope="row">{html.escape(first)}</th>{_cells("td", rest)}</tr>'
        for first, *rest in table.rows()
    )
    name = html.escape(heads[0])
    head = "".join(f'<th scope="col">{html.escape(text)}</th>' for text in heads)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="table by {name}">'
        f'<table data-name="{name}"><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>'
        "</table></div>"
    )


def _blocks(printed: list[Any]) -> Iterator[str]:
    """Labelled lines that follow each other are one list; a table is one; else a paragraph."""
    for kind, group in groupby(printed, type):
        if kind is Labelled:
            lines = (
                f"<dt>{html.escape(p.label)}</dt><dd>{html.escape(p.words)}</dd>" for p in group
            )
            yield "<dl>" + "\n".join(lines) + "</dl>"
        elif kind is Table:
            yield from map(_table, group)
        elif kind is not type(None):
            yield "\n".join(
                f"<p{_tone(part)}>{html.escape(str(part).strip())}</p>" for part in group
            )


def _tone(part: Any) -> str:
    """The class of a line that is printed in a colour."""
    style = str(part.style).split()[-1:] if isinstance(part, Text | TextLine) else []
    return f' class="{style[0]}"' if style and style[0] in ("red", "yellow") else ""


def report_markup(doc: Document, render: Render) -> tuple[str, str, str]:
    """The first line of a report, what was compared, and the rest: text, HTML, HTML.

    The first line is text, empty where a report begins with labelled lines. The document is a
    visible one.
    """
    printed = printed_parts(doc, render)
    first = "" if type(printed[0]) is Labelled else str(printed.pop(0))
    end = printed.index(None) if None in printed else len(printed)
    return first, "\n".join(_blocks(printed[:end])), "\n".join(_blocks(printed[end:]))
