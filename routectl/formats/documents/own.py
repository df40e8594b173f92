"""What routectl wrote and is no dump: what each is, and the command that reads it."""

import re
from pathlib import Path

from ...files.reading import open_regular

__all__ = ["Own", "own_arrays", "own_document", "own_folder", "own_text"]

Own = tuple[str, str]  # what it is, and as a hint what reads it
_SCHEMA = re.compile(r"routectl\.([a-z_]+)/\d+")
_VERBS = {  # whose reports are of a schema that is not named as the verb
    "staleness_series": "staleness",
    "checkpoint": "show",
    "outline": "show",
    "loads": "show",
    "beside": "report",
}
_REPORTS = frozenset(
    (
        *("diff", "check", "staleness", "show", "predict", "recompute", "verify", "ci", "cache"),
        *_VERBS,
    )
)
_FOLDER = (
    "routectl verify FOLDER --against DUMP holds the folder against its dump, routectl unpack "
    "FOLDER --save NAME.parquet makes a dump of it"
)
_REPORT = "routectl report FILE shows it again"
_OTHERS = {
    "pack": ("the manifest of a folder that routectl pack wrote", _FOLDER),
    "baseline": ("a baseline of routectl ci", "routectl ci reads it, where its config names it"),
    "watch": ("lines that routectl watch printed", "docs/json.md says what is in them"),
    "written": ("what routectl said that it wrote", "docs/json.md says what is in it"),
}
_ARRAYS = {
    "pack": ("a rank file of routectl pack", _FOLDER),
    "router_inputs": ("router inputs of routectl recompute", "routectl predict takes them"),
    "predictor": ("a predictor of routectl predict", "routectl predict takes it"),
}
_BEGIN = 64  # characters of a text, or bytes of a manifest, within which a schema is
_PAGE = b'<span class="brand">routectl</span>'
_MARKDOWN = re.compile(rb"### [A-Z]{2,}\b[^\n]*\n\n- \*\*")
_DATA = "routectl report reads the .json of it, which -o NAME.json writes"


def own_document(schema: object) -> Own | None:
    """What a JSON object with this ``schema`` is; None where it is none of routectl's."""
    found = _SCHEMA.fullmatch(schema) if isinstance(schema, str) else None
    if found is None:
        return None
    if found[1] in _REPORTS:
        return f"a report of routectl {_VERBS.get(found[1], found[1])}", _REPORT
    return _OTHERS.get(found[1])


def own_arrays(texts: dict[str, str]) -> Own | None:
    """What a file of arrays with these texts is, whose beginning has a schema."""
    for text in texts.values():
        found = _SCHEMA.search(text, 0, _BEGIN)
        if found is not None and found[1] in _ARRAYS:
            return _ARRAYS[found[1]]
    return None


def own_folder(path: Path) -> Own | None:
    """What a folder with this path is: one of ``pack``; None where it is none, or no folder."""
    manifest = path / "manifest.json"
    if not path.is_dir() or not manifest.is_file():
        return None
    with open_regular(manifest) as file:
        found = _SCHEMA.search(file.read(_BEGIN).decode("ascii", "replace"))
    if found is None or found[1] != "pack":
        return None
    return "a folder that routectl pack wrote", _FOLDER


def own_text(head: bytes) -> Own | None:
    """What a text that begins so is: a report as a page or as Markdown."""
    if head.startswith(b"<!doctype html>") and _PAGE in head:
        return "a report of routectl as a page, for a browser", _DATA
    return ("a report of routectl as Markdown", _DATA) if _MARKDOWN.match(head) else None
