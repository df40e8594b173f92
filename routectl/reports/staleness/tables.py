"""The tables of a routectl.staleness/1 document, as columns."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from ..document import IntervalEntry
from ..text.tables import Column
from ..text.wording import amount, figure, logprob_figure, percent
from .schema import ComparisonEntry, ExpertEntry, StalenessDocument
from .shift import RouterShiftEntry

__all__ = [
    "comparison_columns",
    "expert_columns",
    "flips_columns",
    "headlines",
    "layer_columns",
    "level_text",
    "logprob_columns",
    "pair_columns",
    "position_columns",
    "range_text",
    "shift_columns",
]

Part = TypeVar("Part")
Cell = Callable[[ComparisonEntry], str]
_INTERVALS = 5  # comparisons up to which intervals are shown by layer; the document has all


def headlines(doc: StalenessDocument) -> list[ComparisonEntry]:
    """The comparisons side by side: mismatch, staleness by lag, total; free ones first of each."""
    of_kind = {
        kind: [c for c in doc["comparisons"] if c["kind"] == kind] for kind in ("mismatch", "total")
    }
    by_lag = sorted(doc["by_lag"], key=lambda c: (c["lag"], c["mode"] == "forced"))
    return [*of_kind["mismatch"], *by_lag, *of_kind["total"]]


def level_text(doc: StalenessDocument) -> str:
    """The level of the intervals, as the title of their columns."""
    return f"{100 * doc['level']:g} %"


def range_text(interval: IntervalEntry | None, rates: bool = True) -> str:
    """An interval of a rate, or of another figure; - where there is none."""
    if interval is None:
        return "-"
    low, high = interval["low"], interval["high"]
    return f"{100 * low:.2f}-{100 * high:.2f} %" if rates else f"{low:.3g}-{high:.3g}"


def _modes(doc: StalenessDocument) -> bool:
    """Whether there are two modes to tell apart."""
    return len({c["mode"] for c in doc["comparisons"]}) > 1


def _short(c: ComparisonEntry) -> str:
    return f"lag {c['lag']}" if c["kind"] == "staleness" else str(c["kind"])


def _titles(doc: StalenessDocument) -> list[str]:
    """A column title for each headline."""
    modes = _modes(doc)
    return [f"{_short(c)} {c['mode']}" if modes else _short(c) for c in headlines(doc)]


def _first(
    doc: StalenessDocument, parts: Sequence[ComparisonEntry], title: str = "comparison"
) -> list[Column]:
    """What a row of a table is: kind and lag, and the mode where there are two."""
    names = [f"staleness, lag {c['lag']}" if c["kind"] == "staleness" else c["kind"] for c in parts]
    columns = [Column(title, names)]
    return [*columns, Column("mode", [c["mode"] for c in parts])] if _modes(doc) else columns


def _columns(
    parts: Sequence[Part], described: Sequence[tuple[str, Callable[[Part], str], int]]
) -> list[Column]:
    return [Column(title, [cell(c) for c in parts], rank) for title, cell, rank in described]


def _swaps(number: int) -> Cell:
    return lambda c: amount(c["swaps"][number])


def comparison_columns(doc: StalenessDocument) -> list[Column]:
    """The routes of the comparisons side by side."""
    parts, level = headlines(doc), level_text(doc)
    swaps = max((i for c in parts for i, n in enumerate(c["swaps"]) if n), default=0)
    described: list[tuple[str, Cell, int]] = [
        ("rows", lambda c: amount(c["rows"]), 3),
        ("mismatched", lambda c: amount(c["rows_mismatched"]), 2),
        ("rate", lambda c: percent(c["mismatch_rate"]), 0),
        (level, lambda c: range_text(c["intervals"]["mismatch_rate"]), 0),
        ("overlap", lambda c: percent(c["overlap_rate"]), 4),
        (level, lambda c: range_text(c["intervals"]["overlap_rate"]), 8),
        ("tokens", lambda c: percent(c["token_mismatch_rate"]), 1),
        (level, lambda c: range_text(c["intervals"]["token_mismatch_rate"]), 7),
    ]
    described += [(f"{n} differ", _swaps(n), 4 + n) for n in range(1, min(swaps, 3) + 1)]
    if swaps > 3:
        described.append(("more", lambda c: amount(sum(c["swaps"][4:])), 9))
    described.append(("load shift", lambda c: percent(c["load_shift"]), 6))
    return [*_first(doc, parts), *_columns(parts, described)]


def logprob_columns(doc: StalenessDocument) -> list[Column]:
    """The log-prob figures of the comparisons that have any; empty when none has."""
    parts, level = [c for c in headlines(doc) if c["logprobs"] is not None], level_text(doc)
    sums = [c["logprobs"] for c in parts if c["logprobs"] is not None]
    if not sums:
        return []
    return [
        *_first(doc, parts, "log-probs"),
        Column("tokens", [amount(s["tokens"]) for s in sums], 2),
        Column("k1", [logprob_figure(s, "k1") for s in sums], 3),
        Column("k3", [logprob_figure(s, "k3") for s in sums], 0),
        Column(level, [range_text(c["intervals"]["k3"], rates=False) for c in parts], 1),
        Column("mean |d|", [logprob_figure(s, "mean_abs_d") for s in sums], 4),
        Column(f"F({sums[0]['tau']:g})", [percent(s["f_tau"]) for s in sums], 0),
        Column(level, [range_text(c["intervals"]["f_tau"]) for c in parts], 1),
    ]


def shift_columns(doc: StalenessDocument) -> list[Column]:
    """Router shift by lag; empty where no routes carry gate log-probabilities."""
    parts = [c for c in headlines(doc) if "router_shift" in c]
    shifts = [c["router_shift"] for c in parts]
    if not shifts:
        return []
    ranges = [range_text(s["interval"], rates=False) for s in shifts]
    below = [percent(s["below_rate"]) for s in shifts]
    return [
        *_first(doc, parts, "router shift"),
        Column("tokens", [amount(s["tokens"]) for s in shifts], 2),
        Column("gamma", [figure(s["mean_gamma"]) for s in shifts], 0),
        Column(level_text(doc), ranges, 1),
        Column("p01", [figure(s["p01"]) for s in shifts], 3),
        Column("p10", [figure(s["p10"]) for s in shifts], 3),
        Column("p50", [figure(s["p50"]) for s in shifts], 3),
        Column(f"below {shifts[0]['floor']:g}", below, 0),
        Column("confidence", [_confidence(s) for s in shifts], 2),
    ]


def _confidence(shift: RouterShiftEntry) -> str:
    """Routing confidence at the older and at the newer weights; of reports of before none."""
    if "confidence_old" not in shift:
        return "-"
    return f"{percent(shift['confidence_old'])} to {percent(shift['confidence_new'])}"


def pair_columns(doc: StalenessDocument) -> list[Column]:
    """Staleness of each pair of versions; empty where each lag has one pair alone."""
    if all(len(c["pairs"]) == 1 for c in doc["by_lag"]):
        return []
    parts = [c for c in doc["comparisons"] if c["kind"] == "staleness"]
    described: list[tuple[str, Cell, int]] = [
        ("lag", lambda c: str(c["lag"]), 0),
        ("rows", lambda c: amount(c["rows"]), 2),
        ("mismatched", lambda c: amount(c["rows_mismatched"]), 1),
        ("rate", lambda c: percent(c["mismatch_rate"]), 0),
        (level_text(doc), lambda c: range_text(c["intervals"]["mismatch_rate"]), 0),
        ("tokens", lambda c: percent(c["token_mismatch_rate"]), 3),
    ]
    names = Column("versions", [f"{c['old']} / {c['new']}" for c in parts])
    modes = [Column("mode", [c["mode"] for c in parts])] if _modes(doc) else []
    return [names, *modes, *_columns(parts, described)]


def layer_columns(doc: StalenessDocument) -> list[Column]:
    """The rate of each comparison by layer, its interval where they are few, and half-lives."""
    parts, drift = headlines(doc), doc["drift"]
    layers = sorted({layer["layer"] for c in parts for layer in c["layers"]})
    columns = [Column("layer", [*map(str, layers), "all"])]
    for rank, (title, c) in enumerate(zip(_titles(doc), parts, strict=True)):
        of = {layer["layer"]: layer for layer in c["layers"]}
        found = [of.get(layer) for layer in layers]
        rates = [None if p is None else p["mismatch_rate"] for p in found]
        ranges = [None if p is None else p.get("mismatch_interval") for p in found]
        rates.append(c["mismatch_rate"])
        ranges.append(c["intervals"]["mismatch_rate"])
        columns.append(Column(title, [percent(r) for r in rates], rank))
        if len(parts) <= _INTERVALS:
            columns.append(Column(level_text(doc), [range_text(r) for r in ranges], 100 + rank))
    lives = {h["layer"]: h["updates"] for h in drift["half_lives"]}
    if any(updates is not None for updates in lives.values()):
        cells = [figure(lives.get(layer)) for layer in (*layers, None)]
        columns.append(Column("half-life", cells, 1))
    return columns


def position_columns(doc: StalenessDocument) -> list[Column]:
    """The rate of each comparison by absolute position."""
    parts = headlines(doc)
    froms = sorted({b["from"] for c in parts for b in c["positions"]})
    rows = {f: [b["rows"] for c in parts for b in c["positions"] if b["from"] == f] for f in froms}
    rates = [{b["from"]: b["mismatch_rate"] for b in c["positions"]} for c in parts]
    return [
        Column("position", [f"{f}+" for f in froms]),
        Column("rows", [amount(max(rows[f])) for f in froms], 50),
        *(
            Column(title, [percent(of.get(f)) for f in froms], rank)
            for rank, (title, of) in enumerate(zip(_titles(doc), rates, strict=True))
        ),
    ]


def flips_columns(doc: StalenessDocument) -> list[Column]:
    """The margins of what flips; empty when no side of a comparison has margins."""
    parts = [c for c in headlines(doc) if "margins" in c]
    margins = [c["margins"] for c in parts]
    if not margins:
        return []
    spread = [m["mismatched_margin"] for m in margins]
    return [
        *_first(doc, parts, "flips"),
        Column("ties", [amount(m["ties"]) for m in margins], 2),
        Column(f"near <= {doc['eps']:g}", [amount(m["near_ties"]) for m in margins], 1),
        Column("clear", [amount(m["clear_flips"]) for m in margins], 0),
        Column("of rows", [percent(m["clear_rate"]) for m in margins], 0),
        Column("unknown", [amount(m["margin_unknown"]) for m in margins], 3),
        Column("margin p50", [figure(s["p50"]) for s in spread], 4),
        Column("margin p99", [figure(s["p99"]) for s in spread], 5),
        Column("margin max", [figure(s["max"]) for s in spread], 6),
    ]


def expert_columns(doc: StalenessDocument) -> list[Column]:
    """The experts that move most; empty when none moved."""
    experts, between = doc["drift"]["experts"], doc["drift"]["experts_between"]
    if not experts or between is None:
        return []
    old, new = between
    described: list[tuple[str, Callable[[ExpertEntry], str], int]] = [
        ("layer", lambda e: str(e["layer"]), 0),
        (f"entered in {new}", lambda e: amount(e["entered"]), 0),
        (f"left since {old}", lambda e: amount(e["left"]), 0),
        ("of rows", lambda e: percent(e["moved_rate"]), 0),
        (f"load {old}", lambda e: percent(e["load_old"] / e["rows"]), 1),
        (f"load {new}", lambda e: percent(e["load_new"] / e["rows"]), 1),
    ]
    names = Column("moving experts", [str(e["expert"]) for e in experts])
    return [names, *_columns(experts, described)]
