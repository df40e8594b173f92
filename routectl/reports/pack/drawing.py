"""A layout drawn in the terminal: which token sits where, rank by rank."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.text import Text

from ...layouts.packing import Packing, Share
from ...layouts.runs import Run
from ..text.tables import print_text

__all__ = ["draw_layout"]

_COLOURS = ("cyan", "yellow", "green", "magenta", "blue", "red")
_CELLS = 512  # rows of a rank up to which each is drawn; runs are named beyond
_DOTS = 16  # places of padding in a row up to which each is drawn
_PADDING, _SHADE = "·", "on grey30"
# Where no rank is picked: groups of ranks that are drawn, ranks of each, samples that a heading
# names, characters of a row.
_GROUPS, _RANKS, _NAMES, _ROOM = 3, 4, 8, 320


class _Picked(NamedTuple):
    """Ranks and micro-batches that were asked for, and which sizes they are of."""

    ranks: Mapping[str, int]

    def has(self, name: str, rank: int) -> bool:
        return self.ranks.get(name, rank) == rank

    def any_of(self, *names: str) -> bool:
        return any(name in self.ranks for name in names)


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


def _print_row(
    console: Console, label: str, cells: Iterator[tuple[str, str]], width: int, whole: bool
) -> None:
    """A labelled row of cells, broken to the console's width under its label.

    Unless ``whole``, what is beyond a few lines is counted.
    """
    lines, used, room = [Text(f"{label:<9}")], 10, _ROOM
    for text, style in cells:
        size = max(width, len(text)) + 1
        if room < size and not whole:
            lines.append(Text(f"{'':<9} ... and {1 + sum(1 for _ in cells):,} more"))
            break
        if used + size > console.width and used > 10:
            lines.append(Text(" " * 9))
            used = 10
        lines[-1].append(text.rjust(size), style=style)
        used, room = used + size, room - size
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


def _draw_rows(packing: Packing, console: Console, picked: _Picked, cp_ranks: list[int]) -> None:
    """One micro-batch: its stream and what each of these CP ranks, and their tp ranks, hold."""
    whole = bool(picked.ranks)
    ranks = [(c, t) for c in cp_ranks for t in range(packing.tp) if picked.has("tp", t)]
    shown = ranks if picked.any_of("cp", "tp") else ranks[:_RANKS]
    width = max((len(_place(i, n - 1)) for i, n in enumerate(packing.lens)), default=1)
    held = []
    if packing.num_local_rows <= _CELLS:
        held = [list(_cells(packing.local_rows(*rank))) for rank in shown]
    most = max((sum(max(width, len(text)) + 1 for text, _ in row) for row in held), default=0)
    small = bool(held) and (whole or most <= _ROOM)
    if small and packing.form == "thd" and not picked.any_of("cp", "tp"):
        _print_row(console, "stream", _stream(packing), width, whole)
    for i, rank in enumerate(shown):
        cells = iter(held[i]) if small else _spans(packing.runs(*rank), packing.num_rows(rank[1]))
        label = f"cp{rank[0]} tp{rank[1]}"
        _print_row(console, label, cells, width if small else 1, whole)
    if len(shown) < len(ranks):
        left = f"... and {len(ranks) - len(shown)} more ranks"
        print_text(console, f"{left}: --rank cp=C,tp=T draws one", 2)


def _heading(share: Share, title: str) -> str:
    """The samples of a micro-batch, and how much of it is padding."""
    one = share.packing
    rows = one.num_local_rows * one.cp
    tokens = sum(one.num_routes(i) for i in range(len(one.lens)))
    names = [f"{_name(i)} = sample {s}" for i, s in enumerate(share.samples)]
    if len(names) > _NAMES:
        names = [f"{len(names)} samples: {names[0]}", *names[1 : _NAMES - 1], "...", names[-1]]
    return f"{title}{', '.join(names) or 'no samples'}; {rows - tokens} of {rows} rows are padding"


def _groups(packing: Packing, picked: _Picked) -> Iterator[tuple[int, int, Share]]:
    """Micro-batch, first of its ranks among dp x cp, and share of each group that is picked."""
    for m in range(packing.num_micro_batches):
        first = 0
        while first < packing.dp * packing.cp:
            share = packing.share(m, *divmod(first, packing.cp))
            ranks = range(first, first + share.packing.cp)
            if picked.has("mb", m) and any(_is_picked(packing, picked, g) for g in ranks):
                yield m, first, share
            first += share.packing.cp


def _is_picked(packing: Packing, picked: _Picked, rank: int) -> bool:
    """Whether one of the dp x cp ranks is among those asked for."""
    dp, cp = divmod(rank, packing.cp)
    return picked.has("dp", dp) and picked.has("cp", cp)


def _layers(chunk: Sequence[int]) -> str:
    """The layers of a virtual chunk, which are neighbours."""
    ends = dict.fromkeys((*chunk[:1], *chunk[-1:]))
    return "-".join(map(str, ends)) or "none"


def draw_layout(packing: Packing, console: Console, ranks: Mapping[str, int] | None = None) -> None:
    """Draw a Packing: sizes, then micro-batches, then the layers of the stages.

    Samples are letters, then s26, s27, ...; a0 is token 0 of sample a, s26.0 of sample 26, a dot
    is padding. A token whose route no rank holds is struck out in the stream. Beyond 512 rows a
    rank, or a few lines, runs of tokens are named instead. The first micro-batches, ranks and lines
    are drawn and the others counted; ``ranks`` (mb, dp, cp, tp, pp) picks what is drawn, and whole.
    """
    picked = _Picked(ranks or {})
    sizes = f"tp {packing.tp}, cp {packing.cp}, dp {packing.dp}"
    console.print(f"{packing.framework}, {packing.form}: {sizes}", style="bold")
    groups = list(_groups(packing, picked))
    shown = groups if picked.any_of("mb", "dp") else groups[:_GROUPS]
    for m, first, share in shown:
        title = "" if packing.plan is None else f"micro-batch {m}, ranks from {first}: "
        print_text(console, _heading(share, title), 2)
        cp_ranks = [c for c in range(share.packing.cp) if _is_picked(packing, picked, first + c)]
        _draw_rows(share.packing, console, picked, cp_ranks)
    if len(shown) < len(groups):
        left = f"... and {len(groups) - len(shown):,} more micro-batches of ranks"
        print_text(console, f"{left}: --rank mb=M,dp=D draws one", 2)
    if packing.pipeline is not None:
        for stage in range(packing.pipeline.pp):
            if picked.has("pp", stage):
                chunks = packing.pipeline.stage_layers(stage)
                texts = (_layers(chunk) for chunk in chunks)
                print_text(console, f"{f'pp{stage}':<9} layers {' | '.join(texts)}", 10)
