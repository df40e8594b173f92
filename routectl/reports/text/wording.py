"""Numbers and names as the terminal shows them."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...ops.adding.fewest import FEWEST

if TYPE_CHECKING:
    from ..document import DumpEntry, FailureEntry

__all__ = [
    "amount",
    "bytes_text",
    "dump_line",
    "engine_text",
    "failure_text",
    "figure",
    "figures",
    "layers_text",
    "logprob_figure",
    "part_text",
    "percent",
    "plural",
    "rates_text",
    "shrunk_text",
    "too_few_text",
]

_UNITS = ("B", "kB", "MB", "GB", "TB")
_FAR = 100  # figures of a column that differ by such a factor have no decimals in common


def amount(number: int) -> str:
    """12345 as 12,345."""
    return f"{number:,}"


def plural(number: int, noun: str) -> str:
    """A count with its noun: 1 row, 2 rows, 3 batches, 4 entries."""
    if number == 1:
        return f"1 {noun}"
    if noun.endswith("ry"):
        return f"{number:,} {noun[:-1]}ies"
    return f"{number:,} {noun}{'es' if noun.endswith('ch') else 's'}"


def too_few_text(clusters: int, noun: str) -> str:
    """Why there are no intervals: 2 sequences are too few, from 8 on there is one."""
    are = "is" if clusters == 1 else "are"
    return f"{plural(clusters, noun)} {are} too few, from {FEWEST} on there are intervals"


def part_text(document: Mapping[str, Any]) -> str:
    """What ends the verdict of an answer that is of a part alone."""
    part = document.get("part")
    return "" if part is None else f"; part {part['part']} of {part['of']}"


def percent(rate: float | None) -> str:
    """A rate as a percentage; it reads 0 % and 100 % only when it is exactly that."""
    if rate is None:
        return "-"
    value = 100 * rate + 0.0  # never -0
    if value and abs(value) < 0.005:
        return "<0.01 %"
    if value != 100 and round(value, 2) == 100:
        return ">99.99 %"
    return f"{value:.2f} %"


def rates_text(rates: Sequence[float]) -> str:
    """What of some layers differs: 0.01 % to 3.20 % of rows differ, in 2 of them none."""
    low, high, same = min(rates), max(rates), sum(not rate for rate in rates)
    if same == len(rates):
        return "in which no row differs"
    some = percent(high) if low == high else f"{percent(low)} to {percent(high)}"
    return f"{some} of rows differ" + (f", in {amount(same)} of them none" if same else "")


def failure_text(failure: "FailureEntry") -> str:
    """A threshold that was crossed: figure and limit in the threshold's own unit, and where.

    ``mismatch@*:3%: 3.03 % over 3 % in layer 5``, with as many digits as tell the two apart.
    """
    layer = "" if failure["layer"] is None else f" in layer {failure['layer']}"
    value, limit, text = failure["value"], failure["limit"], failure["threshold"]
    unit, scale = (" %", 100) if text.endswith("%") else ("", 1)
    bound = None if limit is None else f"{_limit(scale * limit)}{unit}"
    if value is None:
        told = failure.get("not_finite")
        found = f"{failure['metric']} is not finite{f' ({told})' if told else ''}"
        return f"{text}: {found}{layer}{'' if bound is None else f', limit {bound}'}"
    if bound is None or limit is None:
        return f"{text}: {scale * value:.4g}{unit}{layer}"
    side = "over" if value > limit else "under"
    return f"{text}: {_apart(scale * value, scale * limit)}{unit} {side} {bound}{layer}"


def _limit(number: float) -> str:
    return f"{number:,.0f}" if number == round(number) else f"{number:.6g}"


def _apart(value: float, limit: float) -> str:
    """A number that is not the limit: a count whole, others with three digits or as many as show on
    which side of it they are.
    """
    if value == round(value):
        return f"{value:,.0f}"
    shown = ""
    for digits in range(3, 18):
        shown = f"{value:.{digits}g}"
        if (float(shown) - limit) * (value - limit) > 0:
            break
    return shown


def figure(number: float | None) -> str:
    """A figure with four significant digits, - when undefined."""
    return "-" if number is None else f"{number + 0.0:.4g}"  # never -0


def figures(numbers: Sequence[float | None]) -> list[str]:
    """A column of figures: with as many decimals each, so that their points stand in a line.

    As ``figure`` has them where they are too far apart for that.
    """
    sizes = [abs(n) for n in numbers if n]
    if not sizes or max(sizes) >= _FAR * min(sizes) or not 1e-3 <= max(sizes) < 1e5:
        return [figure(n) for n in numbers]
    decimals = max(3 - math.floor(math.log10(max(sizes))), 0)
    return ["-" if n is None else f"{n + 0.0:.{decimals}f}" for n in numbers]


def logprob_figure(figures: Mapping[str, Any], name: str) -> str:
    """A figure of log-probs by its key, of which one without a number is not finite."""
    if figures[name] is not None:
        return figure(figures[name])
    told: str = figures.get("not_finite", {}).get(name, "not finite")
    return told


def bytes_text(size: int | None) -> str:
    """A size in decimal units."""
    if size is None:
        return "-"
    value, unit = float(size), 0
    while value >= 1000 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.3g} {_UNITS[unit]}" if unit else f"{size} B"


def shrunk_text(before: int | None, after: int) -> str:
    """What a size became: 268 kB to 20.2 kB (13.3 x); without a ratio where one is not known."""
    ratio = f" ({before / after:.3g} x)" if before and after else ""
    return f"{bytes_text(before)} to {bytes_text(after)}{ratio}"


def layers_text(layers: Sequence[int]) -> str:
    """Layer numbers with runs joined: layers 0-3, 7."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    parts = [f"{r[0]}-{r[-1]}" if len(r) > 1 else str(r[0]) for r in runs]
    return f"layer{'' if len(layers) == 1 else 's'} {', '.join(parts) or 'none'}"


def engine_text(dump: "DumpEntry") -> str:
    """The engine of a dump and its version, as far as they are known."""
    return " ".join(word for word in (dump["engine"], dump["engine_version"]) if word)


def dump_line(dump: "DumpEntry") -> str:
    """A dump of a document: its path, engine, format and how many samples it has."""
    about = [engine_text(dump), dump["format"]]
    what = ", ".join(part for part in (*about, plural(dump["samples"], "sample")) if part)
    return f"{dump['path']}  ({what})"
