"""A document as one HTML file that needs nothing else: docs/report.md.

The file holds the report as HTML, for readers without scripts, and the document itself as data,
which the scripts in assets/ draw. What is in a document is hostile: it is escaped here, and the
scripts only ever set text.
"""

import base64
import hashlib
import html
import json
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import PurePath
from string import Template

from ...errors import FormatError
from ...visible import quoted
from ..beside.text import render_beside
from ..cache.text import render_cache
from ..check.text import render_check
from ..ci.text import render_ci
from ..diff.text import render_diff
from ..document import Document, visible_document
from ..pack.text import render_verified
from ..predict.text import render_prediction
from ..recompute.text import render_recompute
from ..show.loads import render_loads
from ..show.outline import render_outline
from ..show.text import render_checkpoint, render_summary
from ..staleness.series_text import render_series
from ..staleness.text import render_staleness
from ..text.recorded import Render
from ..text.wording import bytes_text, plural
from .markup import report_markup

__all__ = ["VIEWED", "html_page", "render_of", "with_texts"]

_VIEWS: tuple[tuple[str, Render], ...] = (
    ("routectl.diff/1", render_diff),
    ("routectl.check/1", render_check),
    ("routectl.staleness/1", render_staleness),
    ("routectl.staleness_series/1", render_series),
    ("routectl.show/1", render_summary),
    ("routectl.outline/1", render_outline),
    ("routectl.loads/1", render_loads),
    ("routectl.checkpoint/1", render_checkpoint),
    ("routectl.predict/1", render_prediction),
    ("routectl.verify/1", render_verified),
    ("routectl.recompute/1", render_recompute),
    ("routectl.ci/1", render_ci),
    ("routectl.beside/1", render_beside),
    ("routectl.cache/1", render_cache),
)
VIEWED = tuple(schema for schema, _ in _VIEWS)
_ASSETS = files(__package__) / "assets"
_SCRIPTS = (
    "data.js",
    "marks.js",
    "counts.js",
    "heatmap.js",
    "charts.js",
    "diff.js",
    "spread.js",
    "tokens.js",
    "check.js",
    "shown.js",
    "staleness.js",
    "verdicts.js",
    "beside.js",
    "main.js",
)
_AS_TEXT = ("routectl.check/1", "routectl.ci/1", "routectl.verify/1")
_INLINE = {ord(c): f"\\u{ord(c):04x}" for c in "<>&"}
_LONGEST_TITLE = 120


def render_of(doc: Document) -> Render:
    """The terminal view of a document. Raises FormatError for a schema that has none."""
    schema = doc.get("schema")
    for name, render in _VIEWS:
        if schema == name:
            return render
    raise FormatError(f"got schema {quoted(schema)}, expected one of {', '.join(VIEWED)}")


def with_texts(doc: Document, decode: Callable[[Sequence[int]], list[str]]) -> Document:
    """The document with the texts of the tokens of its worst sequences beside their ids."""
    detail = doc.get("detail")
    if detail is None or "sequences" not in detail:
        return doc
    sequences = [
        s if s["token_ids"] is None else {**s, "token_texts": decode(s["token_ids"])}
        for s in detail["sequences"]
    ]
    return {**doc, "detail": {**detail, "sequences": sequences}}


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text("utf-8")


def _title(doc: Document) -> str:
    """The verb and the file names that the page is about."""
    verb = str(doc["schema"]).removeprefix("routectl.").partition("/")[0]
    keys = ("old", "new", "dump", "reference")
    paths = [doc[key]["path"] for key in keys if isinstance(doc.get(key), dict)]
    if doc["schema"] == "routectl.beside/1":
        paths = [doc[side]["path"] for side in ("a", "b")]
    alone = (doc.get(key) for key in ("path", "folder", "config", "inputs", "series"))
    paths = paths or [next((path for path in alone if isinstance(path, str)), "")]
    return f"routectl {verb}: {' and '.join(paths)}"[:_LONGEST_TITLE]


def _heading(doc: Document, verdict: str) -> tuple[str, str]:
    """The word of a verdict, and the rest of its line; of what has none, its name and size."""
    if verdict:
        word, _, words = verdict.partition("  ")
        return word, words.strip()
    if doc["schema"] == "routectl.cache/1":
        return _name(doc["folder"]), f"{len(doc['entries']):,} kept, {bytes_text(doc['bytes'])}"
    return _name(doc["path"]), f"{plural(doc['samples'], 'sample')}, the model not known"


def _name(path: str) -> str:
    return PurePath(path).name or path


def html_page(doc: Document) -> str:
    """One HTML file: the report as text and tables, the data, and the scripts that draw it.

    Nothing is fetched when it is opened: a content security policy allows the one script that has
    the hash of ours, and no address at all. Raises FormatError for a schema without a view.
    """
    shown = visible_document(doc)
    verdict, compared, rest = report_markup(shown, render_of(doc))
    if doc["schema"] == "routectl.ci/1":  # its first lines are its runs
        compared, rest = "", compared + rest
    word, words = _heading(shown, verdict)
    script = "\n".join(map(_asset, _SCRIPTS))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return Template(_asset("page.html")).substitute(
        title=html.escape(_title(shown)),
        word=html.escape(word),
        words=html.escape(words),
        compared=compared,
        rest=rest,
        schema=str(doc["schema"]),
        figures="The report as text" if doc["schema"] in _AS_TEXT else "All figures",
        style=_asset("page.css"),
        data=json.dumps(doc, separators=(",", ":"), allow_nan=False).translate(_INLINE),
        digest=digest,
        script=script,
    )
