"""Margins in the documents of a diff, and the lines of them on the terminal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...margins import MARGIN_EDGES
from ...ops.diff.flips import MarginCounts
from ...ops.diff.measures import Measures, rate
from ..text.wording import amount, figure, percent, plural
from .schema import ComparedFigures, ExampleEntry, MarginBin, MarginFigures, RowFigures

if TYPE_CHECKING:
    from ..text.tables import Column

__all__ = [
    "example_margins",
    "flip_columns",
    "margin_figures",
    "margin_lines",
]

_QUANTILES = (0.5, 0.9, 0.99, 1.0)


def margin_figures(m: Measures, counts: MarginCounts, layer: int | None = None) -> MarginFigures:
    """The mismatched rows of a layer, by its index, or of all, by margin."""
    flips = m.flips
    assert flips is not None
    p50, p90, p99, largest = (flips.quantile(q) for q in _QUANTILES)
    return {
        "rows_with_margin": flips.rows,
        "margin_coverage_rate": m.margin_coverage_rate,
        "ties": flips.ties,
        "near_ties": flips.near,
        "clear_flips": flips.clear,
        "margin_unknown": m.rows_mismatched - flips.mismatched,
        "tie_rate": m.tie_rate,
        "near_rate": m.near_rate,
        "clear_rate": m.clear_rate,
        "mismatched_margin": {"p50": p50, "p90": p90, "p99": p99, "max": largest},
        "old": _side(counts, 0, layer),
        "new": _side(counts, 1, layer),
    }


def _side(counts: MarginCounts, side: int, layer: int | None) -> list[MarginBin] | None:
    """The distribution of one side's own margin, empty bins left out; None for one without."""
    which = slice(None) if layer is None else slice(layer, layer + 1)
    rows_B = counts.rows_2LB[side, which].sum(axis=0).tolist()
    flips_B = counts.flips_2LB[side, which].sum(axis=0).tolist()
    edges = zip((None, *MARGIN_EDGES), (*MARGIN_EDGES, None), rows_B, flips_B, strict=True)
    bins: list[MarginBin] = [
        {
            "above": above,
            "to": to,
            "rows": rows,
            "rows_mismatched": flips,
            "mismatch_rate": rate(flips, rows),
        }
        for above, to, rows, flips in edges
        if rows
    ]
    return bins or None


def margin_lines(doc: ComparedFigures) -> list[tuple[str, str]]:
    """Two kinds of lines: what the mismatched rows are, and the mismatch by each side's margin."""
    m = doc.get("margins")
    if m is None:
        return []
    spread = m["mismatched_margin"]
    unknown = m["margin_unknown"]
    lines = [
        (
            "flips",
            f"{amount(m['ties'])} at a tie, {amount(m['near_ties'])} near-ties (margin <= "
            f"{m['eps']:g}), {amount(m['clear_flips'])} clear"
            + (f", {amount(unknown)} of unknown margin" if unknown else "")
            + (
                f"; margin p50 {figure(spread['p50'])}, p99 {figure(spread['p99'])}, max "
                f"{figure(spread['max'])}"
                if spread["p50"] is not None
                else ""
            )
            + (
                ""
                if m["margin_coverage_rate"] == 1
                else f"; margins of {plural(m['rows_with_margin'], 'row')} known"
            ),
        )
    ]
    for side, bins in (("OLD", m["old"]), ("NEW", m["new"])):
        parts = [
            f"{_label(b)}: {percent(b['mismatch_rate'])} of {amount(b['rows'])}" for b in bins or ()
        ]
        if parts:
            lines.append(("margin", f"mismatch by margin of {side}  " + "  ".join(parts)))
    return lines


def flip_columns(rows: Sequence[RowFigures]) -> "list[Column]":
    """Mismatched rows by margin, columns of the layer table; none without margins."""
    from ..text.tables import Column

    margins = [r["margins"] for r in rows if "margins" in r]
    if not margins:
        return []
    return [
        Column("tie", [amount(m["ties"]) for m in margins], 3),
        Column("near", [amount(m["near_ties"]) for m in margins], 2),
        Column("clear", [amount(m["clear_flips"]) for m in margins], 0),
    ]


def example_margins(rows: Sequence[ExampleEntry]) -> "list[Column]":
    """The margins of example rows, a column a side that knows any."""
    from ..text.tables import Column

    columns = [
        Column("margin old", [figure(r.get("margin_old")) for r in rows], 2),
        Column("margin new", [figure(r.get("margin_new")) for r in rows], 2),
    ]
    return [c for c in columns if set(c.cells) != {"-"}]


def _label(b: MarginBin) -> str:
    if b["to"] == 0:
        return "0"
    return f">{b['above']:g}" if b["to"] is None else f"<={b['to']:g}"
