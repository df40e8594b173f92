"""A prediction's document as terminal text; everything is read off the document."""

from collections.abc import Sequence

from rich.console import Console

from ...ops.adding.fewest import FEWEST
from ..text.tables import Column, Headline, print_line, print_table, print_text, under_verdict
from ..text.wording import amount, layers_text, percent, plural, too_few_text
from .schema import FigureEntry, KindFigures, PredictDocument, PredictionFigures

__all__ = ["prediction_headline", "render_prediction"]

_STYLES = {"BETTER": "bold green", "MIXED": "bold yellow", "UNDECIDED": "bold yellow"}


def prediction_headline(doc: PredictDocument) -> Headline:
    """The verdict as a line."""
    word, text = _verdict(doc)
    return Headline(word, _STYLES.get(word, "bold red"), text)


def render_prediction(doc: PredictDocument, console: Console) -> None:
    """Print a routectl.predict/1 document."""
    with under_verdict(console, prediction_headline(doc)):
        _print_body(doc, console)


def _print_body(doc: PredictDocument, console: Console) -> None:
    """What follows the verdict."""
    for failure in doc["verdict"]["failed"]:
        of_gain = failure["threshold"].startswith("gain")
        value = _points(failure["value"]) if of_gain else percent(failure["value"])
        what = f"{'gain' if of_gain else 'replace rate'} is {value} at {failure['version']}"
        print_text(console, f"  {failure['threshold']}: {what}", 4, "red")
    before = "" if doc["previous"] is None else f", extrapolated from {doc['previous']}"
    print_line(console, "inputs", f"{doc['inputs']}  (of {doc['old']}{before})")
    for later in doc["later"]:
        seen = ", which the predictor was fitted to" if later["fitted"] else ""
        print_line(
            console,
            "later",
            f"{later['version']}, lag {later['lag']}{seen}; hidden states {later['hidden_states']}",
        )
    p = doc["predictor"]
    zero = [one["layer"] for one in p["layers"] if one["ridge"] is None]
    print_line(
        console,
        "predictor",
        f"{p['old']} to {', '.join(p['later'])}, fitted on {plural(p['tokens'], 'token')} of "
        f"{plural(p['sequences'] - p['held'], 'sequence')}"
        + (f"; zero in {layers_text(zero)}" if zero else ""),
    )
    print_line(
        console,
        "judged on",
        f"{plural(doc['tokens'], 'token')} of {plural(doc['sequences'], 'sequence')} that it was "
        f"not fitted on ({amount(doc['tokens_left_out'])} left out), {layers_text(doc['layers'])}, "
        f"top-{doc['top_k']}",
    )
    console.print()
    names = [f"{doc['old']} > {one['version']}" for one in doc["comparisons"]]
    _table(console, "version", doc["comparisons"], names)
    _replaced(console, doc, names)
    for name, one in zip(names, doc["comparisons"], strict=True):
        console.print()
        _table(console, name, one["layers"], [f"layer {row['layer']}" for row in one["layers"]])


def _verdict(doc: PredictDocument) -> tuple[str, str]:
    judged, beats = doc["verdict"]["judged"], doc["verdict"]["beats"]
    rows = [one for one in doc["comparisons"] if one["version"] in judged]
    gains = ", ".join(
        f"{_points(one['predicted']['gain']['value'])} at {one['version']}" for one in rows
    )
    fitted = all(later["fitted"] for later in doc["later"])
    where = " (versions that it was fitted to)" if fitted else ""
    if len(beats) == len(judged):
        return "BETTER", f"predicted routes beat frozen ones{where}: accuracy {gains}"
    if doc["sequences"] < FEWEST:
        few = too_few_text(doc["sequences"], "sequence")
        return "UNDECIDED", f"accuracy {gains}{where}; {few}"
    if not beats:
        return "NO GAIN", f"predicted routes do not beat frozen ones{where}: accuracy {gains}"
    return "MIXED", (
        f"predicted routes beat frozen ones at {', '.join(beats)} alone{where}: accuracy {gains}"
    )


def _points(rate: float | None) -> str:
    """A difference of rates in percentage points, with its sign."""
    return "-" if rate is None else f"{100 * rate:+.2f} points"


def _interval(figure: FigureEntry) -> str:
    if figure["low"] is None or figure["high"] is None:
        return "-"
    return f"{100 * figure['low']:+.2f} to {100 * figure['high']:+.2f}"


def _table(
    console: Console, title: str, rows: Sequence[PredictionFigures], names: list[str]
) -> None:
    """Accuracy of each kind, what it gains over freezing, and the staleness that it removes."""
    columns = [
        Column(title, names),
        Column("stale rows", [percent(row["frozen"]["mismatch"]["value"]) for row in rows], 3),
        Column("frozen", [percent(row["frozen"]["accuracy"]["value"]) for row in rows]),
    ]
    extrapolated = [row["extrapolated"] for row in rows if "extrapolated" in row]
    if extrapolated:
        columns += _kind_columns("extrapolated", extrapolated, 0)
    columns += _kind_columns("predicted", [row["predicted"] for row in rows], 1)
    print_table(console, columns)


def _replaced(console: Console, doc: PredictDocument, names: list[str]) -> None:
    """Replace rates of frozen routes by ratio, where some slot is replaced at one below 1."""
    found = [one.get("replaced", []) for one in doc["comparisons"]]
    if not any(rate["replace_rate"] for one in found for rate in one if rate["ratio"] < 1):
        return
    console.print()
    columns = [Column("replaced, of frozen", names)]
    for n, rate in enumerate(found[0]):
        rates = [percent(one[n]["replace_rate"]) for one in found]
        columns.append(Column(f"below {rate['ratio']:g}", rates, 4 - n if n < 4 else 0))
    print_table(console, columns)


def _kind_columns(kind: str, figures: Sequence[KindFigures], rank: int) -> list[Column]:
    return [
        Column(kind, [percent(of["accuracy"]["value"]) for of in figures]),
        Column("gain", [_interval(of["gain"]) for of in figures], 2 - rank),
        Column("removed", [percent(of["removed"]["value"]) for of in figures], 5 - rank),
    ]
