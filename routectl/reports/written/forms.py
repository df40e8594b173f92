"""A report as a file: the suffix of its name says which form it has."""

import io
from pathlib import PurePath
from typing import TYPE_CHECKING

from ...errors import RoutectlError
from ..document import Document, to_json, visible_document

if TYPE_CHECKING:
    from ..text.recorded import Render

__all__ = ["SUFFIXES", "WITH_DETAIL", "check_suffix", "report_as"]

SUFFIXES = (".json", ".html", ".txt", ".md", ".csv")
WITH_DETAIL = (".json", ".html")  # that have ``detail``, where the document has it


def check_suffix(path: PurePath) -> str:
    """The suffix of a report's name. Raises RoutectlError where a report has no such form."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise RoutectlError(
            f"-o {path}: a report is one of {', '.join(SUFFIXES)}; - is stdout",
            hint="a dump, a folder or a predictor is written with --save DST",
        )
    return suffix


def report_as(suffix: str, document: Document, render: "Render") -> bytes:
    """A document in the form of a suffix, in UTF-8; ``render`` prints it as text.

    .json   the whole document, ``detail`` too: ``routectl report`` makes the others of it
    .html   the page; .txt the text that a pipe gets
    .md     the text as Markdown, for a comment on GitHub
    .csv    the main table
    """
    if suffix == ".json":
        text = to_json(document)
    elif suffix == ".html":
        from ..page.page import html_page

        text = html_page(document)
    elif suffix == ".md":
        from ..text.markdown import markdown_report

        text = markdown_report(document, render)
    elif suffix == ".csv":
        from ..text.main_table import csv_table

        text = csv_table(document)
    else:
        from ..text.tables import open_console

        page = io.StringIO()
        render(visible_document(document), open_console(page))
        text = page.getvalue()
    return text.encode()
