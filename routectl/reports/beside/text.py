"""Two reports side by side, for the terminal."""

from collections.abc import Sequence

from rich.console import Console

from ..text.tables import Column, Headline, print_line, print_table, under_verdict
from ..text.wording import amount, figure, percent, plural
from .schema import BesideDocument, BesideSide, LayerFigure, PairedFigure

__all__ = ["render_beside"]

_MOST = 6  # layer figures, those that part


def render_beside(doc: BesideDocument, console: Console) -> None:
    """Print a routectl.beside/1 document."""
    count = doc["figures_differing"]
    word, style = ("APART", "bold yellow") if count else ("ALIKE", "bold green")
    words = f"{amount(count)} of {plural(len(doc['figures']), 'figure')} differ"
    with under_verdict(console, Headline(word, style, words)):
        _print_body(doc, console)


def _print_body(doc: BesideDocument, console: Console) -> None:
    """What follows the verdict."""
    _side(console, "A", doc["a"])
    _side(console, "B", doc["b"])
    console.print()
    figures = doc["figures"]
    rates = [f["rate"] for f in figures]
    print_table(console, _columns("figure", [f["name"] for f in figures], figures, rates))
    parting = [f for f in doc["layer_figures"] if f["worst"]]
    for one in parting[:_MOST]:
        console.print()
        _layers(console, one)
    if len(parting) > _MOST:
        names = ", ".join(f["name"] for f in parting[_MOST:])
        print_line(console, "also", f"layers part in {names}")


def _side(console: Console, name: str, side: BesideSide) -> None:
    """A report by its verdict, or by its first line where it has none."""
    about = side["verdict"] or next(iter(side["about"]), "")
    print_line(console, name, f"{side['path']}  {about}".rstrip())


def _layers(console: Console, one: LayerFigure) -> None:
    """The layers in which two reports part most."""
    by_layer = {pair["layer"]: pair for pair in one["layers"]}
    pairs = [by_layer[layer] for layer in one["worst"]]
    names = [f"layer {pair['layer']}" for pair in pairs]
    print_table(console, _columns(one["name"], names, pairs, [one["rate"]] * len(pairs)))


def _columns(
    title: str, names: list[str], pairs: Sequence[PairedFigure], rates: list[bool]
) -> list[Column]:
    told = list(zip(pairs, rates, strict=True))
    return [
        Column(title, names),
        Column("A", [_figure(pair["a"], rate) for pair, rate in told]),
        Column("B", [_figure(pair["b"], rate) for pair, rate in told]),
        Column("B - A", [_difference(pair["difference"], rate) for pair, rate in told]),
    ]


def _figure(value: float | None, rate: bool) -> str:
    """A share in percent, a count whole, another number in a few digits."""
    if value is None or rate:
        return percent(value)
    return amount(int(value)) if value == int(value) else figure(value)


def _difference(value: float | None, rate: bool) -> str:
    if value is None:
        return "-"
    if value == 0:
        return "0"
    sign = "+" if value > 0 else "-"
    return f"{sign}{100 * abs(value):.2f} points" if rate else f"{sign}{_figure(abs(value), False)}"
