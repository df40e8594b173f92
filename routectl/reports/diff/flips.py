"""Margins in the documents of a diff, and the lines of them on the terminal."""

from typing import Any

from ...margins import MARGIN_EDGES
from ...ops.diff.flips import Flips, MarginCounts
from ...ops.diff.measures import Measures, rate
from ..text.tables import Column
from ..text.wording import amount, figure, percent, plural

__all__ = [
    "example_margins",
    "flip_columns",
    "making_lines",
    "margin_document",
    "margin_lines",
    "sides_document",
]

_QUANTILES = (0.5, 0.9, 0.99, 1.0)


def margin_document(m: Measures) -> dict[str, Any]:
    """The mismatched rows of a layer, or of all, by margin; None without margins."""
    flips = m.flips
    assert flips is not None
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
        "mismatched_margin": _quantiles(flips),
    }


def _quantiles(flips: Flips) -> dict[str, float | None]:
    names = ("p50", "p90", "p99", "max")
    return {name: flips.quantile(q) for name, q in zip(names, _QUANTILES, strict=True)}


def sides_document(counts: MarginCounts, layer: int | None = None) -> dict[str, Any]:
    """The distribution of each side's own margin, empty bins left out; null for a side without."""
    which = slice(None) if layer is None else slice(layer, layer + 1)
    above = (None, *MARGIN_EDGES)
    to = (*MARGIN_EDGES, None)
    sides: dict[str, Any] = {}
    for side, name in enumerate(("old", "new")):
        rows_B = counts.rows_2LB[side, which].sum(axis=0).tolist()
        flips_B = counts.flips_2LB[side, which].sum(axis=0).tolist()
        bins = [
            {
                "above": above[i],
                "to": to[i],
                "rows": rows_B[i],
                "rows_mismatched": flips_B[i],
                "mismatch_rate": rate(flips_B[i], rows_B[i]),
            }
            for i in range(len(to))
            if rows_B[i]
        ]
        sides[name] = bins or None
    return sides


def margin_lines(doc: dict[str, Any]) -> list[tuple[str, str]]:
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
    for side in ("old", "new"):
        bins = m[side] or []
        if bins:
            parts = [
                f"{_label(b)}: {percent(b['mismatch_rate'])} of {amount(b['rows'])}" for b in bins
            ]
            lines.append(("margin", f"mismatch by margin of {side.upper()}  " + "  ".join(parts)))
    return lines


def flip_columns(rows: list[dict[str, Any]]) -> list[Column]:
    """Mismatched rows by margin, columns of the layer table; none without margins."""
    if "margins" not in rows[-1]:
        return []
    names = (("tie", "ties", 3), ("near", "near_ties", 2), ("clear", "clear_flips", 0))
    return [
        Column(title, [amount(r["margins"][key]) for r in rows], rank) for title, key, rank in names
    ]


def example_margins(rows: list[dict[str, Any]]) -> list[Column]:
    """The margins of example rows, a column a side that knows any."""
    columns = [
        Column(f"margin {side}", [figure(r.get(f"margin_{side}")) for r in rows], 2)
        for side in ("old", "new")
    ]
    return [c for c in columns if set(c.cells) != {"-"}]


def making_lines(doc: dict[str, Any]) -> list[tuple[str, str]]:
    """What a routectl.show/1 document says of margins, slot order and how the dump was made."""
    dump, lines = doc["dump"], []
    if "margins" in dump:
        known = plural(doc["rows_with_margin"], "row")
        lines.append(("margins", f"of {known}, {amount(doc['ties'])} at a tie"))
    if "order" in dump:
        lines.append(("order", f"ids by {dump['order']}"))
    made = ", ".join(f"{name} {value}" for name, value in dump.get("provenance", {}).items())
    return [*lines, ("made by", made)] if made else lines


def _label(b: dict[str, Any]) -> str:
    if b["to"] == 0:
        return "0"
    return f">{b['above']:g}" if b["to"] is None else f"<={b['to']:g}"
