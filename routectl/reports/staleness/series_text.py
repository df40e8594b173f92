"""A routectl.staleness_series/1 document as terminal text: verdict, a row a step, slopes."""

from rich.console import Console

from ..diff.document import Document
from ..text.tables import Column, print_line, print_table
from ..text.wording import figure, percent, plural
from .text import print_failures, print_verdict

__all__ = ["render_series"]

_PLAIN = ("k3", "total_k3", "half_life")
_TITLES = {"f2": "F(2)", "total_f2": "total F(2)", "total_k3": "total k3", "half_life": "half-life"}


def _title(name: str) -> str:
    return _TITLES.get(name, name.removeprefix("staleness@").replace("lag", "lag "))


def _cell(name: str, value: float | None) -> str:
    return figure(value) if name in _PLAIN else percent(value)


def _slope(name: str, value: float | None) -> str:
    """A slope per step, in the figure's unit, with its sign."""
    if value is None:
        return "-"
    return f"{value:+.3g}" if name in _PLAIN else f"{100 * value:+.3g} %"


def _columns(doc: Document) -> list[Column]:
    trends = doc["trends"]
    steps = doc["steps"]
    columns = [Column("step", [*(str(point["step"]) for point in steps), "per step"])]
    for rank, trend in enumerate(trends):
        name = trend["figure"]
        cells = [_cell(name, point["figures"].get(name)) for point in steps]
        columns.append(Column(_title(name), [*cells, _slope(name, trend["slope"])], rank))
    alarms = [str(len(point["alarms"])) for point in steps]
    return [*columns, Column("alarms", [*alarms, "-"], 90)]


def render_series(doc: Document, console: Console) -> None:
    """Print a routectl.staleness_series/1 document."""
    steps = doc["steps"]
    first, last = steps[0]["step"], steps[-1]["step"]
    text = f"{plural(len(steps), 'step')}, {first} to {last}"
    if doc["verdict"]["thresholds"]:
        text += "; thresholds are of the last step"
    if doc["skipped"]:
        left = len(doc["skipped"])
        text += f"; {left} {'entry' if left == 1 else 'entries'} left out"
    print_verdict(console, doc["verdict"], text)
    print_failures(console, doc["verdict"])
    print_line(console, "series", doc["path"])
    for entry in doc["skipped"]:
        print_line(console, "left out", f"{entry['entry']}: {entry['reason']}")
    console.print()
    print_table(console, _columns(doc), "bold")
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
