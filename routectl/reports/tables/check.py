"""The tables of a check."""

from ...ops.check.book.results import CheckResult
from ...ops.diff.measures import rate
from .frame import LAYER, POSITION, ArrowColumn, Frame, Rows, counted_columns

__all__ = ["CHECK_FRAMES"]

_CODE = ArrowColumn("code", "string", "", "docs/checks.md")


def _findings(result: CheckResult, eps: float) -> Rows:
    for f in result.findings:
        kind = f.kind
        yield (
            f.code,
            kind.severity,
            kind.title,
            f.detail or None,
            f.rows,
            f.samples,
            f.layers,
            f.cause,
            f.action,
            kind.upstream,
        )


def _places(result: CheckResult, eps: float) -> Rows:
    for f in result.findings:
        for p in f.places:
            yield f.code, p.sample, p.position, p.layer, p.note or None


def _layers(result: CheckResult, eps: float) -> Rows:
    found = result.explanation
    if found is not None:
        for layer, rows, wrong in zip(found.layers, found.rows_L, found.mismatched_L, strict=True):
            yield layer, rows, wrong, rate(wrong, rows)


CHECK_FRAMES = (
    Frame(
        "findings",
        "a finding",
        (
            _CODE,
            ArrowColumn("severity", "string", "", "error, warning, undecided or note"),
            ArrowColumn("title", "string", "", "what the code means"),
            ArrowColumn("detail", "string", "", "what tells it from others of its code"),
            ArrowColumn("rows", "int64", "rows", "0 of a finding of whole samples"),
            ArrowColumn("samples", "int64", "samples", "each counted once"),
            ArrowColumn("layers", "list<int64>", "", "where it is, from 0"),
            ArrowColumn("cause", "string", "", "what usually makes it"),
            ArrowColumn("action", "string", "", "what to do"),
            ArrowColumn("upstream", "list<string>", "", "issues of engines and trainers"),
        ),
        _findings,
    ),
    Frame(
        "places",
        "one of the first places of a finding",
        (
            _CODE,
            ArrowColumn("sample", "string", "", "its id, or its place"),
            POSITION,
            LAYER,
            ArrowColumn("note", "string", "", "what is known of this place alone"),
        ),
        _places,
    ),
    Frame(
        "layers",
        "a layer compared with the reference; empty without one",
        (LAYER, *counted_columns()),
        _layers,
    ),
)
