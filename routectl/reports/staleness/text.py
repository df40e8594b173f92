"""The report of staleness as terminal text: verdict, comparisons, where, drift, advice."""

from rich.console import Console

from ...ops.adding.fewest import FEWEST
from ..diff.schema import UnmatchedEntry
from ..document import DumpEntry
from ..text.cells import cells_of
from ..text.pictures import print_heatmap, spark_column
from ..text.tables import (
    Column,
    Headline,
    print_layers,
    print_line,
    print_table,
    print_text,
    under_verdict,
)
from ..text.wording import (
    amount,
    engine_text,
    failure_text,
    figure,
    layers_text,
    percent,
    plural,
    rates_text,
    too_few_text,
)
from .gain import gain_columns, gain_lines
from .schema import StalenessDocument, ThresholdVerdict, VersionEntry
from .tables import (
    comparison_columns,
    expert_columns,
    flips_columns,
    headlines,
    layer_columns,
    level_text,
    logprob_columns,
    pair_columns,
    position_columns,
    range_text,
    shift_columns,
)

__all__ = [
    "drift_lines",
    "print_failures",
    "render_staleness",
    "staleness_headline",
    "staleness_verdict",
    "uncovered_text",
    "verdict_line",
    "verdict_word",
]

_MODES = {
    "free": "free: every version routes by itself",
    "forced": "forced: other layers take the dump's routes",
}
_STYLES = {"WITHIN": "bold green", "MEASURED": "bold"}


_APART = ("uncertain", "boundary", "boundary_before")
_AGAINST = {
    "boundary": "against the version that their span says",
    "boundary_before": "against the version before",
}


def _side(dump: DumpEntry) -> str:
    dtype = dump.get("provenance", {}).get("dtype")
    parts = (engine_text(dump), dtype, dump["format"], plural(dump["samples"], "sample"))
    return f"{dump['path']}  ({', '.join(part for part in parts if part)})"


def verdict_word(verdict: ThresholdVerdict) -> str:
    """The verdict in a word: what makes it exit 1, else whether anything was asked."""
    if verdict["failed"]:
        return "OVER"
    if any(verdict.get("unmatched", {}).values()):
        return "UNCOVERED"
    if verdict.get("fail_on") and verdict["alarms"]:
        return "ALARM"
    return "WITHIN" if verdict["thresholds"] else "MEASURED"


def verdict_line(verdict: ThresholdVerdict, text: str) -> Headline:
    """Whether thresholds hold, in a word, and the figures in short."""
    asked, word = len(verdict["thresholds"]), verdict_word(verdict)
    counted = "" if not asked else f"{plural(asked, 'threshold')}; "
    if verdict["failed"]:
        crossed = len({f["threshold"] for f in verdict["failed"]})
        counted = f"{crossed} of {plural(asked, 'threshold')} crossed; "
    return Headline(word, _STYLES.get(word, "bold red"), f"{counted}{text}")


def print_failures(console: Console, verdict: ThresholdVerdict) -> None:
    """A line for each figure beyond its threshold."""
    for failure in verdict["failed"]:
        print_text(console, f"  {failure_text(failure)}", 4, "red")


def staleness_headline(doc: StalenessDocument) -> str:
    """The rates of the first mode, and what was advised."""
    mode = doc["comparisons"][0]["mode"]
    rates: dict[str, list[str]] = {}
    for c in headlines(doc):
        if c["mode"] == mode:
            lag = f" at lag {c['lag']}" if c["kind"] == "staleness" else ""
            rates.setdefault(c["kind"], []).append(f"{percent(c['mismatch_rate'])}{lag}")
    alarms = sum(f["alarm"] for f in doc["advice"]["findings"])
    text = ", ".join(f"{kind} {', '.join(found)}" for kind, found in rates.items())
    if doc["advice"]["mode"] is not None:
        text += f"; replay: {doc['advice']['mode']}"
    unmatched = doc.get("unmatched")
    lost = "" if unmatched is None else uncovered_text(unmatched)
    return text + (f"; {lost}" if lost else "") + (f"; {plural(alarms, 'alarm')}" if alarms else "")


def uncovered_text(unmatched: UnmatchedEntry) -> str:
    """What of the dump no recompute covers, in words; empty where there is nothing."""
    samples, rows = unmatched["samples"], unmatched["rows"]
    parts = [f"{plural(samples, 'sample')} that a version does not cover"] if samples else []
    parts += [f"{plural(rows, 'row')} that their version lost"] if rows else []
    return ", ".join(parts)


def _compared(doc: StalenessDocument) -> str:
    c = doc["comparisons"][0]
    layers = layers_text([layer["layer"] for layer in c["layers"]])
    dump = doc["dump"]
    clusters = c["intervals"]["clusters"]
    intervals = f"intervals {level_text(doc)}, over {plural(clusters, doc['clusters'])}"
    if clusters < FEWEST:
        intervals = f"no intervals: {too_few_text(clusters, doc['clusters'])}"
    return (
        f"{doc['token_selection']} tokens, {layers}, top-{dump['top_k']} of {dump['num_experts']}; "
        f"{intervals}"
    )


def _about(console: Console, doc: StalenessDocument) -> None:
    print_line(console, "dump", _side(doc["dump"]))
    own = {(c["own"], c["mode"]): c["rows"] for c in doc["own_rows"] if c["own"] == c["version"]}
    for version in doc["versions"]:
        for mode, routes in (("free", version["free"]), ("forced", version["forced"])):
            if routes is not None:
                rows = own.get((version["name"], mode))
                made = "" if rows is None else f", made {plural(rows, 'row')} that are compared"
                lacking = _lacking(version, mode)
                print_line(console, version["name"], f"{_side(routes)} {mode}{made}{lacking}")
        for path in (
            g["r2_path"] for g in doc["gain"]["versions"] if g["version"] == version["name"]
        ):
            if path is not None:
                print_line(console, version["name"], f"{path}  forced to the routes of R2")
    print_line(console, "compared", _compared(doc))


def _lacking(version: VersionEntry, mode: str) -> str:
    """How many of the dump's samples a version lacks, in words; empty where it has all."""
    found = version.get("samples_lacking")
    number = None if found is None else found["free" if mode == "free" else "forced"]
    return f", lacks {plural(number, 'sample')} of the dump" if number else ""


def _rows_lines(doc: StalenessDocument) -> list[tuple[str, str]]:
    """Which weights made the rows, and what was set apart."""
    spans = doc["spans"]
    rows = ", ".join(f"{amount(n)} {group}" for group, n in spans["rows"].items() if n)
    counted = [
        (spans["one_version"], "of one version"),
        (spans["several_versions"], "of several"),
        (spans["without_spans"], "that do not say"),
        (spans["retracted"], "retracted"),
    ]
    samples = ", ".join(f"{amount(n)} {what}" for n, what in counted if n)
    lines = [("rows", f"{rows}; {plural(spans['samples'], 'sample')}: {samples}")]
    lines += _boundary_lines(doc)
    if spans["unknown"]:
        named = ", ".join(f"{name} ({plural(n, 'row')})" for name, n in spans["unknown"].items())
        lines.append(("unknown", f"versions that are not given: {named}"))
    for part in doc["apart"]:
        group = part["group"]
        apart = group in _APART or (group == "cached" and doc["cached_apart"])
        where = "not in the mismatch above" if apart else "in the mismatch above too"
        if group in _AGAINST:
            where = f"{_AGAINST[group]}; {where}"
        lines.append(
            (
                "boundary" if group in _AGAINST else group,
                f"{percent(part['mismatch_rate'])} of {plural(part['rows'], 'row')} mismatch "
                f"({part['mode']}; {level_text(doc)}: {range_text(part['mismatch_interval'])}); "
                f"{where}",
            )
        )
    return lines


def _boundary_lines(doc: StalenessDocument) -> list[tuple[str, str]]:
    """Rows that may be of either of two versions, and why."""
    found = doc.get("boundary")
    if found is None or not found["tokens"]:
        return []
    why = f"spans of {found['engine']} may begin one token early"
    if not found["known"]:
        engine = found["engine"] or "which engine it is, the dump does not say"
        why = f"whether spans begin early is not known ({engine}): taken so"
    rows = f"{plural(found['rows'], 'row')} of {plural(found['tokens'], 'token')}"
    return [("boundary", f"{rows} may be of either of two versions: {why}")]


def _half_life(doc: StalenessDocument) -> str:
    """The half-life of all routes in words."""
    life = doc["drift"]["half_lives"][0]
    lags = ", ".join(map(str, life["lags"]))
    about = [f"from lags {lags}" if len(life["lags"]) > 1 else f"too few points: lag {lags} alone"]
    if life["exponent"] is not None:
        about.append(f"grows as lag^{figure(life['exponent'])}")
    if life["bounds"] is not None:
        straight, walk = sorted(life["bounds"])
        about.append(f"{figure(straight)} by straight drift, {figure(walk)} by a random walk")
    if life["updates"] is None:
        return f"updates until half of the rows differ: not known ({'; '.join(about)})"
    if life["interval"] is not None:
        about.insert(0, f"{level_text(doc)}: {range_text(life['interval'], rates=False)}")
    if life["extrapolated"]:
        about.append("extrapolated")
    return f"{figure(life['updates'])} updates until half of the rows differ ({'; '.join(about)})"


def drift_lines(doc: StalenessDocument) -> list[tuple[str, str]]:
    """How fast routes move, in which layers first, and which version is nearest."""
    drift, lines = doc["drift"], []
    if drift["speeds"] and drift["mode"] is not None:
        whole = drift["speeds"][0]
        per = percent(whole["per_update"])
        bound = "" if whole["lag"] == 1 else f", or more: measured over {whole['lag']} updates"
        lines.append(("speed", f"{per} of rows per update{bound} ({_MODES[drift['mode']]})"))
        lines.append(("half-life", _half_life(doc)))
    if drift["fastest_layers"]:
        fastest = drift["fastest_layers"]
        more = f" … {len(fastest) - 8} more" if len(fastest) > 8 else ""
        lines.append(("layers", "fastest first: " + ", ".join(map(str, fastest[:8])) + more))
    for n in drift["nearest"]:
        rates = ", ".join(f"{name} {percent(r)}" for name, r in n["mismatch_rates"].items())
        lines.append(("nearest", f"rows of {n['own']} to {n['nearest']} ({n['mode']}): {rates}"))
    return lines


def _noise_lines(doc: StalenessDocument) -> list[tuple[str, str]]:
    if not doc["noise"]:
        return []
    runs = ", ".join(f"{n['name']} {percent(n['mismatch_rate'])}" for n in doc["noise"])
    rows = plural(doc["noise"][0]["rows"], "row")
    return [("noise", f"of {rows} that change with nothing but the arithmetic: {runs}")]


def _print_advice(console: Console, doc: StalenessDocument) -> None:
    for finding in doc["advice"]["findings"]:
        alarm = finding["alarm"]
        label, style = ("ALARM", "bold red") if alarm else ("advice", "bold")
        print_line(console, label, finding["text"], style)
        for said in finding["evidence"]:
            print_line(console, "", said)


def _print_columns(console: Console, columns: list[Column], last: str | None = None) -> None:
    """A table with an empty line before it; nothing without columns."""
    if columns:
        console.print()
        print_table(console, columns, last)


def _print_heatmaps(console: Console, doc: StalenessDocument) -> None:
    """Where the mismatch is, and where the staleness of the greatest lag."""
    parts = [c for c in headlines(doc) if c["mode"] == doc["comparisons"][0]["mode"]]
    stale = [c for c in parts if c["kind"] == "staleness"]
    for c in [c for c in parts if c["kind"] == "mismatch"] + stale[-1:]:
        lag = f" at lag {c['lag']}" if c["kind"] == "staleness" else ""
        print_heatmap(console, cells_of(c), f"{c['kind']}{lag} by layer and position")


def staleness_verdict(doc: StalenessDocument) -> Headline:
    """The verdict as a line."""
    return verdict_line(doc["verdict"], staleness_headline(doc))


def render_staleness(doc: StalenessDocument, console: Console) -> None:
    """Print a routectl.staleness/1 document."""
    with under_verdict(console, staleness_verdict(doc)):
        _print_body(doc, console)


def _print_body(doc: StalenessDocument, console: Console) -> None:
    """What follows the verdict."""
    print_failures(console, doc["verdict"])
    for warning in doc.get("warnings", ()):
        print_line(console, "warning", warning)
    for text in gain_lines(doc["gain"], level_text(doc)):
        print_line(console, "gain", text)
    _about(console, doc)
    _print_columns(console, comparison_columns(doc))
    _print_columns(console, logprob_columns(doc))
    _print_columns(console, gain_columns(doc["gain"], level_text(doc)))
    _print_columns(console, flips_columns(doc))
    _print_columns(console, shift_columns(doc))
    _print_columns(console, pair_columns(doc))
    by_layer = layer_columns(doc)
    total = headlines(doc)[-1]
    by_layer += spark_column(console, cells_of(total), by_layer, "total by position", 100)
    console.print()
    of = {str(layer["layer"]): layer["mismatch_rate"] for layer in total["layers"]}
    rates = [of.get(layer) for layer in by_layer[0].cells[:-1]]
    print_layers(console, by_layer, rates, rates_text, "bold")
    _print_heatmaps(console, doc)
    _print_columns(console, position_columns(doc))
    _print_columns(console, expert_columns(doc))
    console.print()
    for label, text in (*_rows_lines(doc), *drift_lines(doc), *_noise_lines(doc)):
        print_line(console, label, text)
    console.print()
    _print_advice(console, doc)
