"""A document's main table as CSV: layers of a diff, findings of a check, runs of a ci.

RFC 4180, in UTF-8: a head, then a line a row; figures as in the document, undefined ones empty.
"""

import csv
import io
import re
from collections.abc import Iterator
from typing import Any

from ...visible import visible
from ..document import Document

__all__ = ["csv_table", "main_table"]

_TABLES = {  # the key of a document's main table; others are one row of what they say themselves
    "routectl.diff/1": "layers",
    "routectl.check/1": "findings",
    "routectl.staleness/1": "comparisons",
    "routectl.staleness_series/1": "steps",
    "routectl.show/1": "layers",
    "routectl.checkpoint/1": "layer_bytes",
    "routectl.predict/1": "comparisons",
    "routectl.pack/1": "files",
    "routectl.ci/1": "runs",
    "routectl.recompute/1": "comparisons",
    "routectl.cache/1": "entries",
    "routectl.beside/1": "figures",
}
_FORMULA = re.compile(r"\s*[=+\-@＝＋－＠]")  # what a spreadsheet would run


def main_table(document: Document) -> tuple[list[str], list[list[Any]]]:
    """Names of columns, and rows of str, int, float, bool or None.

    A figure within another has a dotted name, ``margins.tie_rate``. Of lists, those of plain
    values are text with a space between; tables within a row are left out.
    """
    key = _TABLES.get(document["schema"])
    entries = [document] if key is None else document[key]
    rows = [dict(_flat(entry)) for entry in entries]
    names = list(dict.fromkeys(name for row in rows for name in row))
    return names, [[row.get(name) for name in names] for row in rows]


def _flat(entry: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in entry.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{name}.")
        elif not isinstance(value, list | tuple):
            yield f"{before}{name}", value
        elif not any(isinstance(one, dict | list | tuple) for one in value):
            yield f"{before}{name}", " ".join(map(str, value))


def csv_table(document: Document) -> str:
    """The main table as CSV; text is visible, and what a spreadsheet would run is quoted."""
    names, rows = main_table(document)
    page = io.StringIO()
    writer = csv.writer(page)
    writer.writerow(map(_cell, names))
    writer.writerows([_cell(value) for value in row] for row in rows)
    return page.getvalue()


def _cell(value: Any) -> Any:
    if not isinstance(value, str):
        return str(value).lower() if isinstance(value, bool) else value
    return f"'{visible(value)}" if _FORMULA.match(value) else visible(value)
