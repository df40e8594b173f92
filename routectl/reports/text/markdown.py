"""A report as Markdown that GitHub shows: what is printed line by line becomes lists and tables."""

import html
import re
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from ..document import Document, visible_document
from .recorded import Render, printed_parts
from .tables import Labelled, Table

__all__ = ["html_text", "markdown_report", "markdown_text"]

_MARKS = "|`*_[]\\~#!:."
_PLAIN = re.compile(r"((?<!www)\.|(?<=\w)_(?=\w)|:(?= |$))", re.IGNORECASE)
_BEGIN = re.compile(r"[-+=]|\d+[.)]")


def html_text(text: str, marks: str = "") -> str:
    """HTML that mentions nobody: GitHub looks for @ in what Markdown came to, but not in code.

    ``marks`` are characters that stand as numbers.
    """
    shown = "".join(f"&#{ord(c)};" if c in marks else html.escape(c, quote=False) for c in text)
    return shown.replace("@", "<code>@</code>")


def markdown_text(text: str) -> str:
    """Text as it is, in a line or a cell: no markup of it counts, and no address is a link.

    A dot that is not of ``www.``, an underscore within a word, and a colon with nothing after it
    are no markup.
    """
    parts = _PLAIN.split(text)
    return "".join(p if i % 2 else html_text(p, _MARKS) for i, p in enumerate(parts))


def _line(text: str) -> str:
    """Text that begins a line, where a dash or a number would begin a list."""
    begin = _BEGIN.match(text)
    if begin is None:
        return markdown_text(text)
    last = begin.end() - 1
    return f"{markdown_text(text[:last])}&#{ord(text[last])};{markdown_text(text[last + 1 :])}"


def markdown_report(document: Document, render: Render) -> str:
    """The report of a document: its first line as the heading, then lists and tables."""
    printed = printed_parts(visible_document(document), render)
    first = "routectl" if type(printed[0]) is Labelled else str(printed.pop(0)).strip()
    return "\n\n".join([f"### {_line(first)}", *_blocks(printed)]) + "\n"


def _blocks(printed: list[Any]) -> Iterator[str]:
    """Labelled lines that follow each other are one list; a table is one; else a paragraph."""
    for kind, group in groupby(printed, type):
        if kind is Labelled:
            yield "\n".join(
                f"- **{markdown_text(p.label)}** {markdown_text(p.words)}"
                if p.label
                else f"- {_line(p.words)}"
                for p in group
            )
        elif kind is Table:
            yield from map(_table, group)
        elif kind is not type(None):
            yield from (_line(str(part).strip()) for part in group)


def _table(table: Table) -> str:
    """A table whose figures stand right."""
    marks = ["---", *("---:" for _ in table.heads[1:])]
    return "\n".join([_row(table.heads), f"|{'|'.join(marks)}|", *map(_row, table.rows())])


def _row(cells: Any) -> str:
    return f"| {' | '.join(map(markdown_text, cells))} |"
