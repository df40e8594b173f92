"""A layout drawn in the terminal: which token sits where, rank by rank."""

import itertools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.text import Text

from ...layouts.packing import Packing
from ...layouts.runs import Run
from ..text.tables import print_text

__all__ = ["draw_layout"]

_COLOURS = ("cyan", "yellow", "green", "magenta", "blue", "red")
_CELLS = 512  # rows of a rank up to which each is drawn; runs are named beyond
_DOTS = 16  # places of padding in a row up to which each is drawn
_PADDING, _SHADE = "·", "on grey30"


def _name(sample: int) -> str:
    """a, b, ... z, then s26, s27, ..."""
    return chr(ord("a") + sample) if sample < 26 else f"s{sample}"


def _place(sample: int, positions: int | str) -> str:
    """a0 is token 0 of sample a; s26.0 that of sample 26, whose name ends in a number."""
    return f"{_name(sample)}{'' if sample < 26 else '.'}{positions}"


def _padding(places: int) -> Iterator[tuple[str, str]]:
    """A dot for each place of padding, or their number where they are many."""
    many = places > _DOTS
    yield from ([(f"{_PADDING}x{places}", _SHADE)] if many else [(_PADDING, _SHADE)] * places)


def _cells(rows_R2: NDArray[np.int64]) -> Iterator[tuple[str, str]]:
    """Each row as (text, style): a0 is token 0 of sample a."""
    for is_padding, group in itertools.groupby(rows_R2.tolist(), key=lambda row: row[0] < 0):
        if is_padding:
            yield from _padding(len(list(group)))
            continue
        for sample, position in group:
            yield _place(sample, position), _COLOURS[sample % len(_COLOURS)]


def _spans(runs: list[Run], rows: int) -> Iterator[tuple[str, str]]:
    """Runs as (text, style): a0-99 are tokens 0 to 99 of sample a; then how many rows are padding.

    In S-major order samples take turns row by row: a0-99/2 is on every second row.
    """
    for run in sorted(runs):
        last = run.position + run.size - 1
        turns = "" if run.step == 1 else f"/{run.step}"
        style = _COLOURS[run.sample % len(_COLOURS)]
        yield _place(run.sample, f"{run.position}-{last}{turns}"), style
    padding = rows - sum(run.size for run in runs)
    if padding:
        yield f"{_PADDING}x{padding}", _SHADE


def _print_row(console: Console, label: str, cells: Iterator[tuple[str, str]], width: int) -> None:
    """A labelled row of cells, broken to the console's width under its label."""
    lines, used = [Text(f"{label:<9}")], 10
    for text, style in cells:
        size = max(width, len(text)) + 1
        if used + size > console.width and used > 10:
            lines.append(Text(" " * 9))
            used = 10
        lines[-1].append(text.rjust(size), style=style)
        used += size
    for line in lines:
        console.print(line, soft_wrap=True)


def _stream(packing: Packing) -> Iterator[tuple[str, str]]:
    """The stream before CP: each sample's tokens, those without a row of their own, padding."""
    edges = packing.cu_seqlens_padded.tolist()
    for i, tokens in enumerate(packing.lens):
        colour = _COLOURS[i % len(_COLOURS)]
        for position in range(tokens):
            routed = position < packing.num_routes(i)
            yield _place(i, position), colour if routed else f"dim strike {colour}"
        yield from _padding(edges[i + 1] - edges[i] - tokens)
    if len(edges) > len(packing.lens) + 1:
        yield from _padding(edges[-1] - edges[-2])


def _draw_rows(packing: Packing, console: Console) -> None:
    """One micro-batch: its stream and what each (cp, tp) rank holds of it."""
    small = packing.num_local_rows <= _CELLS
    width = max((len(_place(i, n - 1)) for i, n in enumerate(packing.lens)), default=1)
    if small and packing.form == "thd":
        _print_row(console, "stream", _stream(packing), width)
    for cp_rank in range(packing.cp):
        for tp_rank in range(packing.tp):
            rank = (cp_rank, tp_rank)
            cells = (
                _cells(packing.local_rows(*rank))
                if small
                else _spans(packing.runs(*rank), packing.num_rows(tp_rank))
            )
            _print_row(console, f"cp{cp_rank} tp{tp_rank}", cells, width if small else 1)


def draw_layout(packing: Packing, console: Console) -> None:
    """Draw a Packing: sizes, then every micro-batch, then the layers of the stages.

    Samples are letters, then s26, s27, ...; a0 is token 0 of sample a, s26.0 of sample 26, a dot
    is padding. A token whose route no rank holds is struck out in the stream. Beyond 512 rows a
    rank, runs of tokens are named instead.
    """
    sizes = f"tp {packing.tp}, cp {packing.cp}, dp {packing.dp}"
    console.print(f"{packing.framework}, {packing.form}: {sizes}", style="bold")
    for m in range(packing.num_micro_batches):
        shown = set()
        for g in range(packing.dp * packing.cp):
            share = packing.share(m, *divmod(g, packing.cp))
            if packing.plan is not None and (g - share.cp_rank) in shown:
                continue
            shown.add(g - share.cp_rank)
            one = share.packing
            rows = one.num_local_rows * one.cp
            tokens = sum(one.num_routes(i) for i in range(len(one.lens)))
            title = "" if packing.plan is None else f"micro-batch {m}, ranks from {g}: "
            pad = f"{rows - tokens} of {rows} rows are padding"
            names = ", ".join(f"{_name(i)} = sample {s}" for i, s in enumerate(share.samples))
            print_text(console, f"{title}{names or 'no samples'}; {pad}")
            _draw_rows(one, console)
            if packing.plan is None:
                break
    if packing.pipeline is not None:
        for stage in range(packing.pipeline.pp):
            chunks = packing.pipeline.stage_layers(stage)
            texts = (f"{c[0]}-{c[-1]}" if c else "none" for c in chunks)
            print_text(console, f"{f'pp{stage}':<9} layers {' | '.join(texts)}", 10)
