"""The tables of a routectl.staleness/1 document, as columns."""

from collections.abc import Callable, Sequence
from typing import Any

from ..diff.document import Document
from ..text.tables import Column
from ..text.wording import amount, figure, percent

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

Cell = Callable[[Document], str]
_INTERVALS = 5  # comparisons up to which intervals are shown by layer; the document has all


def headlines(doc: Document) -> list[Document]:
    """The comparisons side by side: mismatch, staleness by lag, total; free ones first of each."""
    of_kind = {
        kind: [c for c in doc["comparisons"] if c["kind"] == kind] for kind in ("mismatch", "total")
    }
    by_lag = sorted(doc["by_lag"], key=lambda c: (c["lag"], c["mode"] == "forced"))
    return [*of_kind["mismatch"], *by_lag, *of_kind["total"]]


def level_text(doc: Document) -> str:
    """The level of the intervals, as the title of their columns."""
    return f"{100 * doc['level']:g} %"


def range_text(interval: Document | None, rates: bool = True) -> str:
    """An interval of a rate, or of another figure; - where there is none."""
    if interval is None:
        return "-"
    low, high = interval["low"], interval["high"]
    return f"{100 * low:.2f}-{100 * high:.2f} %" if rates else f"{low:.3g}-{high:.3g}"


def _modes(doc: Document) -> bool:
    """Whether there are two modes to tell apart."""
    return len({c["mode"] for c in doc["comparisons"]}) > 1


def _short(c: Document) -> str:
    return f"lag {c['lag']}" if c["kind"] == "staleness" else str(c["kind"])


def _titles(doc: Document) -> list[str]:
    """A column title for each headline."""
    modes = _modes(doc)
    return [f"{_short(c)} {c['mode']}" if modes else _short(c) for c in headlines(doc)]


def _first(doc: Document, parts: Sequence[Document]) -> list[Column]:
    """What a row of a table is: kind and lag, and the mode where there are two."""
    names = [f"staleness, lag {c['lag']}" if c["kind"] == "staleness" else c["kind"] for c in parts]
    columns = [Column("comparison", names)]
    return [*columns, Column("mode", [c["mode"] for c in parts])] if _modes(doc) else columns


def _columns(parts: Sequence[Document], described: Sequence[tuple[str, Cell, int]]) -> list[Column]:
    return [Column(title, [cell(c) for c in parts], rank) for title, cell, rank in described]


def _swaps(number: int) -> Cell:
    return lambda c: amount(c["swaps"][number])


def comparison_columns(doc: Document) -> list[Column]:
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


def logprob_columns(doc: Document) -> list[Column]:
    """The log-prob figures of the comparisons that have any; empty when none has."""
    parts, level = [c for c in headlines(doc) if c["logprobs"] is not None], level_text(doc)
    if not parts:
        return []
    tau = f"F({parts[0]['logprobs']['tau']:g})"
    described: list[tuple[str, Cell, int]] = [
        ("tokens", lambda c: amount(c["logprobs"]["tokens"]), 2),
        ("k1", lambda c: figure(c["logprobs"]["k1"]), 3),
        ("k3", lambda c: figure(c["logprobs"]["k3"]), 0),
        (level, lambda c: range_text(c["intervals"]["k3"], rates=False), 1),
        ("mean |d|", lambda c: figure(c["logprobs"]["mean_abs_d"]), 4),
        (tau, lambda c: percent(c["logprobs"]["f_tau"]), 0),
        (level, lambda c: range_text(c["intervals"]["f_tau"]), 1),
    ]
    first = [
        Column("log-probs", c.cells) if c.title == "comparison" else c for c in _first(doc, parts)
    ]
    return [*first, *_columns(parts, described)]


def shift_columns(doc: Document) -> list[Column]:
    """Router shift by lag; empty where no routes carry gate log-probabilities."""
    parts = [c for c in headlines(doc) if "router_shift" in c]
    if not parts:
        return []

    def of(key: str) -> Cell:
        return lambda c: figure(c["router_shift"][key])

    described: list[tuple[str, Cell, int]] = [
        ("tokens", lambda c: amount(c["router_shift"]["tokens"]), 2),
        ("gamma", of("mean_gamma"), 0),
        (level_text(doc), lambda c: range_text(c["router_shift"]["interval"], rates=False), 1),
        *((key, of(key), 3) for key in ("p01", "p10", "p50")),
        (
            f"below {parts[0]['router_shift']['floor']:g}",
            lambda c: percent(c["router_shift"]["below_rate"]),
            0,
        ),
    ]
    first = [
        Column("router shift", c.cells) if c.title == "comparison" else c
        for c in _first(doc, parts)
    ]
    return [*first, *_columns(parts, described)]


def pair_columns(doc: Document) -> list[Column]:
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


def layer_columns(doc: Document) -> list[Column]:
    """The rate of each comparison by layer, its interval where they are few, and half-lives."""
    parts, drift = headlines(doc), doc["drift"]
    layers = sorted({layer["layer"] for c in parts for layer in c["layers"]})
    columns = [Column("layer", [*map(str, layers), "all"])]
    for rank, (title, c) in enumerate(zip(_titles(doc), parts, strict=True)):
        of = {layer["layer"]: layer for layer in c["layers"]}
        found = [of.get(layer, {}) for layer in layers]
        rates = [*(p.get("mismatch_rate") for p in found), c["mismatch_rate"]]
        ranges = [*(p.get("mismatch_interval") for p in found), c["intervals"]["mismatch_rate"]]
        columns.append(Column(title, [percent(r) for r in rates], rank))
        if len(parts) <= _INTERVALS:
            columns.append(Column(level_text(doc), [range_text(r) for r in ranges], 100 + rank))
    lives = {h["layer"]: h["updates"] for h in drift["half_lives"]}
    if any(updates is not None for updates in lives.values()):
        cells = [figure(lives.get(layer)) for layer in (*layers, None)]
        columns.append(Column("half-life", cells, 1))
    return columns


def position_columns(doc: Document) -> list[Column]:
    """The rate of each comparison by absolute position."""
    parts = headlines(doc)
    froms = sorted({b["from"] for c in parts for b in c["positions"]})
    of = [{b["from"]: b for b in c["positions"]} for c in parts]
    most = [max(bins[f]["rows"] for bins in of if f in bins) for f in froms]
    return [
        Column("position", [f"{f}+" for f in froms]),
        Column("rows", [amount(n) for n in most], 50),
        *(
            Column(title, [percent(bins.get(f, {}).get("mismatch_rate")) for f in froms], rank)
            for rank, (title, bins) in enumerate(zip(_titles(doc), of, strict=True))
        ),
    ]


def flips_columns(doc: Document) -> list[Column]:
    """The margins of what flips; empty when no side of a comparison has margins."""
    parts = [c for c in headlines(doc) if "margins" in c]
    if not parts:
        return []

    def spread(key: str) -> Cell:
        return lambda c: figure(c["margins"]["mismatched_margin"][key])

    described: list[tuple[str, Cell, int]] = [
        ("ties", lambda c: amount(c["margins"]["ties"]), 2),
        (f"near <= {doc['eps']:g}", lambda c: amount(c["margins"]["near_ties"]), 1),
        ("clear", lambda c: amount(c["margins"]["clear_flips"]), 0),
        ("of rows", lambda c: percent(c["margins"]["clear_rate"]), 0),
        ("unknown", lambda c: amount(c["margins"]["margin_unknown"]), 3),
        *((f"margin {key}", spread(key), 4 + i) for i, key in enumerate(("p50", "p99", "max"))),
    ]
    first = [Column("flips", c.cells) if c.title == "comparison" else c for c in _first(doc, parts)]
    return [*first, *_columns(parts, described)]


def expert_columns(doc: Document) -> list[Column]:
    """The experts that move most; empty when none moved."""
    experts: list[dict[str, Any]] = doc["drift"]["experts"]
    if not experts:
        return []
    old, new = doc["drift"]["experts_between"]
    described: list[tuple[str, Cell, int]] = [
        ("layer", lambda e: str(e["layer"]), 0),
        (f"entered in {new}", lambda e: amount(e["entered"]), 0),
        (f"left since {old}", lambda e: amount(e["left"]), 0),
        ("of rows", lambda e: percent(e["moved_rate"]), 0),
        (f"load {old}", lambda e: percent(e["load_old"] / e["rows"]), 1),
        (f"load {new}", lambda e: percent(e["load_new"] / e["rows"]), 1),
    ]
    names = Column("moving experts", [str(e["expert"]) for e in experts])
    return [names, *_columns(experts, described)]
