"""A series of staleness as terminal text: verdict, a row a step, slopes."""

from rich.console import Console

from ..text.tables import Column, Headline, print_line, print_table, under_verdict
from ..text.wording import figure, percent, plural
from .schema import SeriesDocument, StepEntry
from .text import print_failures, verdict_line

__all__ = ["last_step_text", "render_series", "series_verdict"]

_PLAIN = ("k3", "total_k3", "gain_r2", "gain_r3", "half_life")
_TITLES = {
    "f2": "F(2)",
    "total_f2": "total F(2)",
    "total_k3": "total k3",
    "gain_r2": "gain R2",
    "gain_r3": "gain R3",
    "half_life": "half-life",
}


def _title(name: str) -> str:
    return _TITLES.get(name, name.removeprefix("staleness@").replace("lag", "lag "))


def _cell(name: str, point: StepEntry) -> str:
    """A step's figure; one that is not finite by its name."""
    value = point["figures"].get(name)
    told = point.get("not_finite", {}).get(name)
    return told or (figure(value) if name in _PLAIN else percent(value))


def _slope(name: str, value: float | None) -> str:
    """A slope per step, in the figure's unit, with its sign."""
    if value is None:
        return "-"
    value = value + 0.0  # never -0
    return f"{value:+.3g}" if name in _PLAIN else f"{100 * value:+.3g} %"


def _step_columns(doc: SeriesDocument) -> list[Column]:
    trends = doc["trends"]
    steps = doc["steps"]
    columns = [Column("step", [*(str(point["step"]) for point in steps), "per step"])]
    for rank, trend in enumerate(trends):
        name = trend["figure"]
        cells = [_cell(name, point) for point in steps]
        columns.append(Column(_title(name), [*cells, _slope(name, trend["slope"])], rank))
    alarms = [str(len(point["alarms"])) for point in steps]
    return [*columns, Column("alarms", [*alarms, "-"], 90)]


def last_step_text(doc: SeriesDocument) -> str:
    """The figures of the last step, each with its slope."""
    last = doc["steps"][-1]
    parts = []
    for trend in doc["trends"]:
        name, slope = trend["figure"], trend["slope"]
        if name in last["figures"] and last["figures"][name] is not None:
            moving = "" if slope is None else f" ({_slope(name, slope)} a step)"
            parts.append(f"{_title(name)} {_cell(name, last)}{moving}")
    return f"step {last['step']}: " + ", ".join(parts)


def series_verdict(doc: SeriesDocument) -> Headline:
    """The verdict as a line."""
    steps = doc["steps"]
    first, last = steps[0]["step"], steps[-1]["step"]
    text = f"{plural(len(steps), 'step')}, {first} to {last}"
    if doc["verdict"]["thresholds"]:
        text += "; thresholds are of the last step"
    if doc["skipped"]:
        text += f"; {plural(len(doc['skipped']), 'entry')} left out"
    return verdict_line(doc["verdict"], text)


def render_series(doc: SeriesDocument, console: Console) -> None:
    """Print a routectl.staleness_series/1 document."""
    with under_verdict(console, series_verdict(doc)):
        _print_series(doc, console)


def _print_series(doc: SeriesDocument, console: Console) -> None:
    """What follows the verdict of a series."""
    steps = doc["steps"]
    last = steps[-1]["step"]
    print_failures(console, doc["verdict"])
    print_line(console, "series", doc["path"])
    for entry in doc["skipped"]:
        print_line(console, "left out", f"{entry['entry']}: {entry['reason']}")
    console.print()
    print_table(console, _step_columns(doc), "bold")
    if doc["crossings"]:
        console.print()
    for crossing in doc["crossings"]:
        step = crossing["first_step"]
        when = "never" if step is None else f"first at step {step}"
        print_line(console, "crossed", f"{crossing['threshold']}: {when}")
    if steps[-1]["alarms"]:
        console.print()
    for alarm in steps[-1]["alarms"]:
        print_line(console, "ALARM", f"step {last}: {alarm}")
