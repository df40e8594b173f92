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
from string import Template

from ...errors import FormatError
from ...visible import quoted
from ..cache.text import render_cache
from ..check.text import render_check
from ..ci.text import render_ci
from ..diff.text import render_diff
from ..document import Document, visible_document
from ..pack.text import render_verified
from ..predict.text import render_prediction
from ..recompute.text import render_recompute
from ..show.text import render_checkpoint, render_summary
from ..staleness.text import render_series, render_staleness
from ..text.recorded import Render
from .markup import report_markup

__all__ = ["VIEWED", "html_page", "render_of", "with_texts"]

_VIEWS: tuple[tuple[str, Render], ...] = (
    ("routectl.diff/1", render_diff),
    ("routectl.check/1", render_check),
    ("routectl.staleness/1", render_staleness),
    ("routectl.staleness_series/1", render_series),
    ("routectl.show/1", render_summary),
    ("routectl.checkpoint/1", render_checkpoint),
    ("routectl.predict/1", render_prediction),
    ("routectl.verify/1", render_verified),
    ("routectl.recompute/1", render_recompute),
    ("routectl.ci/1", render_ci),
    ("routectl.cache/1", render_cache),
)
VIEWED = tuple(schema for schema, _ in _VIEWS)
_ASSETS = files(__package__) / "assets"
_SCRIPTS = (
    "data.js",
    "marks.js",
    "heatmap.js",
    "charts.js",
    "diff.js",
    "spread.js",
    "tokens.js",
    "staleness.js",
    "others.js",
    "main.js",
)
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
    dumps = [doc[key] for key in ("old", "new", "dump", "reference") if doc.get(key)]
    paths = [dump["path"] for dump in dumps] or [str(doc.get("path") or "")]
    return f"routectl {verb}: {' and '.join(paths)}"[:_LONGEST_TITLE]


def html_page(doc: Document) -> str:
    """One HTML file: the report as text and tables, the data, and the scripts that draw it.

    Nothing is fetched when it is opened: a content security policy allows the one script that has
    the hash of ours, and no address at all. Raises FormatError for a schema without a view.
    """
    shown = visible_document(doc)
    verdict, compared, rest = report_markup(shown, render_of(doc))
    word, _, words = verdict.partition("  ")
    script = "\n".join(map(_asset, _SCRIPTS))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    title = _title(shown)
    return Template(_asset("page.html")).substitute(
        title=html.escape(title),
        word=html.escape(word or title.partition(":")[0]),
        words=html.escape(words.strip()),
        compared=compared,
        rest=rest,
        schema=str(doc["schema"]),
        style=_asset("page.css"),
        data=json.dumps(doc, separators=(",", ":"), allow_nan=False).translate(_INLINE),
        digest=digest,
        script=script,
    )
