"""Small pictures of counts on a terminal: sparklines, and a heatmap of layer by position.

They are drawn with what the terminal has: colours, else shades, else plain characters. Nothing is
drawn in a pipe, in a file, or under --plain. Shape suffixes: L layers, C columns.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.text import Text

from .cells import Cells, Rates
from .tables import Column, Labelled, print_text
from .wording import percent

__all__ = ["Ink", "ink_of", "print_heatmap", "spark_column"]

_ASCII = ".:-=+*#%@"
_LABEL = 10  # as wide as the labels of lines
_LEAST = 48  # columns below which a heatmap says nothing
_STRETCH = 4  # columns that one bin takes at most
_LINES = 32
_PAIRED_FROM = 13  # layers from which two share a line
_SPARK = (12, 40)
# of xterm's 256 colours; ascending lightness, hues as in matplotlib's viridis
_RAMP = (234, 54, 61, 67, 73, 78, 149, 191, 229)
_PAINTED = ("256", "truecolor")


@dataclass(frozen=True, slots=True)
class Ink:
    """What a terminal draws with. The first of each is for none, the others ascend.

    bars are for sparklines, shades and colours for cells; colours are none where there are none.
    """

    bars: str
    shades: str
    colours: tuple[Color, ...] = ()


def ink_of(console: Console) -> Ink | None:
    """What a console draws with; None for one that is no terminal."""
    if not console.is_terminal:
        return None
    if console.is_dumb_terminal or not console.encoding.startswith("utf"):
        return Ink(_ASCII, _ASCII)
    painted = console.color_system in _PAINTED and not console.no_color
    return Ink("·▁▂▃▄▅▆▇█", "·░▒▓█", tuple(map(Color.from_ansi, _RAMP)) if painted else ())


def _tier(share: float, tiers: int) -> int:
    """0 for no mismatch at all, else 1 to ``tiers``, the last from share 1 on; -1 without rows."""
    if np.isnan(share):
        return -1
    return int(min(max(np.ceil(tiers * share), 1), tiers)) if share else 0


def _drawn(shares: Iterable[float], glyphs: str) -> str:
    """A glyph a share, a blank where there are no rows."""
    tiers = [_tier(share, len(glyphs) - 1) for share in shares]
    return "".join(" " if tier < 0 else glyphs[tier] for tier in tiers)


def spark_column(
    console: Console, cells: Cells | None, others: Sequence[Column], name: str, rank: int
) -> list[Column]:
    """A column of sparklines, one a layer and one of all, in the room that others leave; or none.

    Its title says what full height is, where that fits.
    """
    ink = ink_of(console)
    if ink is None or cells is None:
        return []
    room = console.width - sum(column.width + 2 for column in others)
    width = min(max(room, _SPARK[0], len(name)), _SPARK[1])
    width = min(width, max(_STRETCH * cells.num_bins, _SPARK[0]))
    whole = cells.together(len(cells.layers))
    rates_LC, top = cells.drawn(width)
    rates = (*rates_LC, *whole.drawn(width)[0])
    lines = [_drawn(rates_C / (top or 1), ink.bars) for rates_C in rates]
    long = f"{name}, to {percent(top)}"
    return [Column(long if len(long) <= width else name, lines, rank)]


def print_heatmap(console: Console, cells: Cells | None, what: str) -> None:
    """Mismatch rates by layer and position, under a line that has the scale; a blank line first.

    Shades are by the square root of the rate, since few cells are as bad as the worst. Two layers
    share a line where there are many. On a narrow terminal a line says what is not shown.
    """
    ink = ink_of(console)
    if ink is None or cells is None:
        return
    room = console.width - _LABEL
    if room < _LEAST:
        print_text(console, f"(narrow terminal, not shown: {what})", 1, "dim")
        return
    columns = min(room, _STRETCH * cells.num_bins)
    a_line = 2 if ink.colours and len(cells.layers) >= _PAIRED_FROM else 1
    of_group = -(-len(cells.layers) // (a_line * _LINES))
    grouped = cells.together(of_group)
    rates_LC, top = grouped.drawn(columns)
    head, legend = Labelled("where", what).text, _legend(ink, top)
    gap = "  " if head.cell_len + legend.cell_len + 2 <= console.width else "\n" + " " * _LABEL
    console.print()
    console.print(Text.assemble(head, gap, legend), soft_wrap=True)
    step = a_line * of_group
    shares_LC = np.sqrt(rates_LC / (top or 1))
    for i, line in enumerate(_lines(shares_LC, ink, a_line)):
        first, *rest = cells.layers[i * step : (i + 1) * step]
        label = f"{first}-{rest[-1]}" if rest else str(first)
        console.print(Text(f"{label:>{_LABEL - 2}}  ").append_text(line), no_wrap=True)
    console.print(f"{'position':<{_LABEL}}{_axis(cells, columns)}", style="dim", no_wrap=True)


def _legend(ink: Ink, top: float) -> Text:
    """The scale: none, the tiers up to a quarter of the top, and those up to the top."""
    tiers = [Text(" ", Style(bgcolor=c)) for c in ink.colours] or [Text(c) for c in ink.shades]
    half = len(tiers) // 2 + 1
    lower, upper = Text().join(tiers[:half]), Text().join(tiers[half:])
    return Text.assemble("0 % ", lower, f" {percent(top / 4)} ", upper, f" {percent(top)}")


def _lines(shares_LC: Rates, ink: Ink, a_line: int) -> Iterator[Text]:
    """A line of cells for each layer, or for each two."""
    if not ink.colours:
        yield from (Text(_drawn(shares, ink.shades)) for shares in shares_LC)
        return
    tiers_LC = [[_tier(share, len(_RAMP) - 1) for share in shares] for shares in shares_LC.tolist()]
    for i in range(0, len(tiers_LC), a_line):
        upper = tiers_LC[i]
        lower = upper if a_line == 1 else [*tiers_LC, [-1] * len(upper)][i + 1]
        line = Text()
        for pair in zip(upper, lower, strict=True):
            line.append(*_painted(pair, ink.colours))
        yield line


def _painted(pair: tuple[int, int], colours: tuple[Color, ...]) -> tuple[str, Style]:
    """One character for two cells, one over the other; -1 is left as the terminal is."""
    above, below = (None if tier < 0 else colours[tier] for tier in pair)
    if above == below:
        return " ", Style(bgcolor=above)
    if above is None:
        return "▄", Style(color=below)
    return "▀", Style(color=above, bgcolor=below)


def _axis(cells: Cells, columns: int) -> str:
    """Positions under the columns that they begin in, as many as fit."""
    end = cells.num_bins * cells.bin_width
    ticks = max(1, columns // 16)
    text = ""
    for i in range(ticks):
        column = columns * i // ticks
        bin_index = column * cells.num_bins // columns
        text = f"{text:<{column}}{bin_index * cells.bin_width:,}"
    last = f"{end - 1:,}"
    room = columns - len(last)
    return f"{text:<{room}}{last}" if len(text) + 2 <= room else text
