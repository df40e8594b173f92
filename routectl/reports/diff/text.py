"""Documents as terminal text: verdict first, then what was compared, tables, examples.

Everything is read off the JSON document.
"""

from collections.abc import Callable

from rich.console import Console

from ...ops.adding.fewest import FEWEST
from ..text.cells import cells_of
from ..text.pictures import print_heatmap, spark_column
from ..text.tables import (
    Column,
    Headline,
    print_layers,
    print_line,
    print_lines,
    print_table,
    print_text,
    under_verdict,
)
from ..text.wording import (
    amount,
    dump_line,
    failure_text,
    figure,
    layers_text,
    logprob_figure,
    part_text,
    percent,
    plural,
    rates_text,
    too_few_text,
)
from .figures import LogprobFigures
from .flips import example_margins, flip_columns, margin_lines
from .schema import DiffDocument, RowFigures, SequenceFigures

__all__ = ["diff_headline", "diff_verdict", "print_diff", "render_diff", "unmatched_text"]


def unmatched_text(samples: int, layers: int, rows: int) -> str:
    """What one side alone has, in words; empty where there is nothing."""
    parts = [f"{plural(samples, 'sample')} without a partner"] if samples else []
    parts += [f"{plural(layers, 'layer')} of one side alone"] if layers else []
    parts += [f"{plural(rows, 'row')} lost on one side"] if rows else []
    return ", ".join(parts)


def _reach(doc: DiffDocument) -> str:
    """What a reader of the first line must not overlook: how much was not compared."""
    alone = unmatched_text(
        doc["samples"]["only_old"] + doc["samples"]["only_new"],
        len(doc["layers_only_old"]) + len(doc["layers_only_new"]),
        doc.get("rows_lost_old", 0) + doc.get("rows_lost_new", 0),
    )
    coverage = doc["coverage_rate"]
    parts = [alone, "" if coverage in (None, 1) else f"coverage {percent(coverage)}"]
    if "margins" in doc and doc["rows_mismatched"]:
        parts.insert(0, plural(doc["margins"]["clear_flips"], "clear flip"))
    return "".join(f"; {part}" for part in parts if part)


def diff_verdict(doc: DiffDocument) -> tuple[str, str]:
    """The verdict of a routectl.diff/1 document: a word, and the counts behind it."""
    word, text = _verdict(doc)
    return word, text + _reach(doc)


def _verdict(doc: DiffDocument) -> tuple[str, str]:
    """The word, and how many rows differ."""
    verdict = doc["verdict"]
    count = f"{amount(doc['rows_mismatched'])} of {plural(doc['rows'], 'row')}"
    share = "" if not doc["rows_mismatched"] else f" ({percent(doc['mismatch_rate'])})"
    if verdict["incomparable_layers"]:
        return "INCOMPARABLE", f"nothing compared in {layers_text(verdict['incomparable_layers'])}"
    if verdict["failed"]:
        return (
            "OVER",
            f"{plural(len(verdict['failed']), 'threshold')} crossed; {count}{share} differ",
        )
    if not doc["rows_mismatched"]:
        same = not any(verdict.get("unmatched", {}).values())
        return "SAME" if same else "DIFFERS", f"0 of {plural(doc['rows'], 'row')} differ"
    word = "WITHIN" if verdict["exit_code"] == 0 else "DIFFERS"
    return word, (
        f"{count}{share}, in {amount(doc['tokens_mismatched'])} of "
        f"{plural(doc['tokens'], 'token')} ({percent(doc['token_mismatch_rate'])})"
    )


def _left_over(doc: DiffDocument) -> list[str]:
    """What was not compared, each with its count."""
    s = doc["samples"]
    parts = [
        (s["only_old"], "sample", "only in OLD"),
        (s["only_new"], "sample", "only in NEW"),
        (s["conflicts"], "id", "on both sides with other tokens"),
        (s["without_routes"], "pair", "without routes on a side"),
        (s["nothing_in_common"], "pair", "with no position in common"),
        (doc["rows_only_old"] - doc["rows_missing"], "row", "only in OLD"),
        (doc["rows_only_new"] - doc["rows_missing"], "row", "only in NEW"),
        (doc["rows_missing"], "row", "without a route on a side"),
        (doc.get("rows_lost_old", 0), "row", "of OLD lost in NEW"),
        (doc.get("rows_lost_new", 0), "row", "of NEW lost in OLD"),
    ]
    lines = [f"{plural(n, what)} {how}" for n, what, how in parts if n > 0]
    sides = (
        ("OLD", doc["layers_only_old"], doc["old"]["skipped"]),
        ("NEW", doc["layers_only_new"], doc["new"]["skipped"]),
    )
    for side, only, skipped in sides:
        if only:
            lines.append(f"{layers_text(only)} only in {side}")
        if skipped:
            lines.append(f"{plural(len(skipped), 'file')} of {side} skipped")
    if s["starts_inferred"]:
        lines.append(f"{plural(s['starts_inferred'], 'start')} inferred from the row count")
    return lines


def _layer_table(console: Console, doc: DiffDocument) -> None:
    rows: list[RowFigures] = [*doc["layers"], doc]
    swaps = max((i for r in rows for i, n in enumerate(r["swaps"]) if n), default=0)

    def cells(render: Callable[[RowFigures], str]) -> list[str]:
        return [render(r) for r in rows]

    columns = [
        Column("layer", [*(str(layer["layer"]) for layer in doc["layers"]), "all"]),
        Column("rows", cells(lambda r: amount(r["rows"]))),
        Column("mismatched", cells(lambda r: amount(r["rows_mismatched"]))),
        Column("rate", cells(lambda r: percent(r["mismatch_rate"]))),
        Column("overlap", cells(lambda r: percent(r["overlap_rate"])), 2),
        *(
            Column(f"{n} differ", [amount(r["swaps"][n]) for r in rows], 4 + n)
            for n in range(1, min(swaps, 3) + 1)
        ),
        *([Column("more", cells(lambda r: amount(sum(r["swaps"][4:]))), 7)] if swaps > 3 else []),
        *flip_columns(rows),
        Column("order", cells(lambda r: amount(r["order_mismatches"])), 3),
        Column("load shift", cells(lambda r: percent(r["load_shift"])), 4),
    ]
    columns += spark_column(console, cells_of(doc), columns, "by position", 4)
    rates = [layer["mismatch_rate"] for layer in doc["layers"]]
    print_layers(console, columns, rates, rates_text, "bold")


def _spread(doc: DiffDocument) -> list[tuple[str, str]]:
    """The one-line answers under the table."""
    depth = doc["tokens_by_differing_layers"]
    parts = [f"{n}: {amount(tokens)}" for n, tokens in enumerate(depth) if tokens]
    lines = [("depth", "tokens by differing layers  " + _cut(parts))]
    first = [
        f"{f['layer']}: {amount(f['tokens'])}"
        for f in doc["tokens_by_first_differing_layer"]
        if f["tokens"]
    ]
    if first:
        lines.append(("first", "tokens by first differing layer  " + _cut(first)))
    places = [
        f"{p['place']} {percent(p['mismatch_rate'])} of {amount(p['rows'])}"
        for p in doc["places"]
        if p["rows"]
    ]
    lines.append(("place", "  ".join(places)))
    bins = [f"{b['from']}+: {percent(b['mismatch_rate'])}" for b in doc["positions"]]
    lines.append(("position", _cut(bins, 14)))
    s = doc["sequences"]
    lines.append(
        (
            "sequence",
            f"{amount(s['mismatched'])} of {amount(s['compared'])} differ; mean "
            f"{percent(s['mean'])}, p50 {percent(s['p50'])}, p90 {percent(s['p90'])}, p99 "
            f"{percent(s['p99'])}{_within(s)}, max {percent(s['max'])}",
        )
    )
    lines += _intervals(doc)
    lines += margin_lines(doc)
    d = doc["logprobs"]
    if d is not None:
        alone = d.get("tokens_of_one_side", 0)
        logged = "token_mult_prob_error" in d  # not in reports of before
        lines.append(
            (
                "log-probs",
                f"{plural(d['tokens'], 'token')}: k1 {logprob_figure(d, 'k1')}, k3 "
                f"{logprob_figure(d, 'k3')}, mean |d| {logprob_figure(d, 'mean_abs_d')}, max |d| "
                f"{logprob_figure(d, 'max_abs_d')}, F({d['tau']:g}) {percent(d['f_tau'])}"
                + (f"; {plural(alone, 'more token')} on one side alone" if alone else ""),
            )
        )
        lines += [("as logged", _as_logged(d))] if logged else []
    return lines


def _as_logged(d: LogprobFigures) -> str:
    """What trainers log of the same tokens, by the names that they have for it."""
    told = d.get("not_finite", {})
    named = {
        "token_mult_prob_error": d["token_mult_prob_error"],
        "chi2": d["chi2"],
        "pearson_probs": d["pearson_probs"],
    }
    figures = [
        f"{name} {told.get(name) or ('undefined' if value is None else figure(value))}"
        for name, value in named.items()
    ]
    return ", ".join([*figures, f"equal {percent(d['equal_rate'])}"])


def _within(s: SequenceFigures) -> str:
    """How far off the quantiles may be, where they may be."""
    error = s.get("quantile_error", 0.0)
    return f" (each within {percent(error)} of itself)" if error else ""


def _intervals(doc: DiffDocument) -> list[tuple[str, str]]:
    """Where the rates lie, as far as other samples may tell."""
    found = doc.get("intervals")
    if found is None:
        return []
    rates = (("rows", found["mismatch_rate"]), ("tokens", found["token_mismatch_rate"]))
    told = [f"{what} {percent(r['low'])} to {percent(r['high'])}" for what, r in rates if r]
    if found["clusters"] < FEWEST and doc["rows_mismatched"]:
        return [("interval", f"none: {too_few_text(found['clusters'], 'sample')}")]
    return [("interval", f"{100 * found['level']:g} %: {', '.join(told)}")] if told else []


def _cut(parts: list[str], limit: int = 10) -> str:
    more = f"  … {len(parts) - limit} more" if len(parts) > limit else ""
    return "  ".join(parts[:limit]) + more


def _examples(console: Console, doc: DiffDocument) -> None:
    worst = doc["sequences"]["worst"]
    if worst:
        console.print()
        print_table(
            console,
            [
                Column("worst samples", [w["sample"] for w in worst]),
                Column("rows", [amount(w["rows"]) for w in worst], 2),
                Column("mismatched", [amount(w["rows_mismatched"]) for w in worst]),
                Column("rate", [percent(w["mismatch_rate"]) for w in worst]),
                Column("tokens", [amount(w["tokens_mismatched"]) for w in worst], 1),
            ],
        )
    if doc["examples"]:
        console.print()
        rows = doc["examples"]
        sets = [(set(e["old"]), set(e["new"])) for e in rows]
        print_table(
            console,
            [
                Column("first mismatches", [e["sample"] for e in rows]),
                Column("position", [str(e["position"]) for e in rows]),
                Column("layer", [str(e["layer"]) for e in rows]),
                *example_margins(rows),
                Column("only old", [_ids(a - b) for a, b in sets], words=True),
                Column("only new", [_ids(b - a) for a, b in sets], words=True),
                Column("both", [_ids(a & b) for a, b in sets], 1, words=True),
            ],
        )


def _ids(ids: set[int]) -> str:
    return " ".join(map(str, sorted(ids))) or "-"


_STYLES = {"SAME": "bold green", "WITHIN": "bold green", "DIFFERS": "bold yellow"}


def diff_headline(doc: DiffDocument) -> Headline:
    """The verdict as a line."""
    word, text = diff_verdict(doc)
    return Headline(word, _STYLES.get(word, "bold red"), text + part_text(doc))


def render_diff(doc: DiffDocument, console: Console) -> None:
    """Print a routectl.diff/1 document."""
    with under_verdict(console, diff_headline(doc)):
        print_diff(doc, console)


def print_diff(doc: DiffDocument, console: Console) -> None:
    """What follows the verdict."""
    for failure in doc["verdict"]["failed"]:
        print_text(console, f"  {failure_text(failure)}", 4, "red")
    print_line(console, "old", dump_line(doc["old"]))
    print_line(console, "new", dump_line(doc["new"]))
    rules = ", ".join(f"{n} by {rule}" for rule, n in doc["samples"]["matched_by"].items())
    print_line(
        console,
        "compared",
        f"{plural(doc['samples']['compared'], 'sample')} ({rules}), "
        f"{doc['token_selection']} tokens, {layers_text([m['layer'] for m in doc['layers']])}, "
        f"top-{doc['old']['top_k']} of {doc['old']['num_experts']}; "
        f"coverage {percent(doc['coverage_rate'])}, overlap {percent(doc['overlap_rate'])} "
        f"(chance {percent(doc['chance_overlap_rate'])})",
    )
    for text in _left_over(doc):
        print_line(console, "left out", text)
    for rerun in doc.get("noise", ()):
        rate = f"{percent(rerun['mismatch_rate'])} of {plural(rerun['rows'], 'row')}"
        print_line(console, "noise", f"{rate} differ in a rerun of OLD: {rerun['name']}")
    console.print()
    _layer_table(console, doc)
    print_heatmap(console, cells_of(doc), "mismatch by layer and position")
    console.print()
    print_lines(console, _spread(doc))
    _examples(console, doc)
