"""A dump read in shards, cut where its reader's batches begin, and what they add up to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from ...dump import Dump
from ...ops.check.alone.results import Power
from ...ops.summary import Summary, SummaryPartial
from ..progress import SILENT, Progress
from ..reading import Reading, reachable
from ..shards.share import share_of
from ..shards.work import Opened, Shard, cut_runs, sample_bytes

__all__ = ["CountedDump", "ShowWork", "open_guessing", "show_work"]

OnRead = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, eq=False)
class CountedDump:
    """What samples of a dump come to; lift, how far its routes follow its tokens, is in one part.

    It is of some samples of the whole dump, whose number does not grow.
    """

    summary: SummaryPartial
    lift: Power | None = None

    def __add__(self, other: "CountedDump") -> "CountedDump":
        return CountedDump(self.summary + other.summary, self.lift or other.lift)

    def result(self) -> tuple[Summary, Power | None]:
        """Of a whole. Raises FormatError where its reader refused every sample."""
        return self.summary.result(), self.lift


@dataclass(frozen=True, slots=True)
class _Span:
    """What a shard is of: samples, and whether it tells the lift of the dump."""

    samples: range
    lift: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class ShowWork:
    """Samples of one dump, which each process opens once.

    place is the part that is read, from 1, and of how many. on_read, of this process alone, is told
    of tokens in routes and samples as they are read.
    """

    opened: Opened[Dump]
    place: tuple[int, int] = (1, 1)
    on_read: OnRead | None = None
    doing: str = "reading"

    @property
    def identity(self) -> tuple[Any, ...]:
        """What says which samples are read: see ``digest_of``."""
        dump = self.opened()
        meta = dump.meta
        sizes = (len(dump), meta.file_bytes, meta.num_experts, meta.top_k, meta.layers_L)
        return sample_bytes(dump), *sizes

    def cut(self, most: int) -> Sequence[Shard]:
        """Batches in order, about as many bytes of each shard; the lift in the first part's last.

        A shard of its own has the lift where there are several.
        """
        dump = self.opened()
        starts = range(len(dump)) if dump.starts is None else dump.starts.tolist()
        bounds = [*starts, len(dump)]
        totals = np.concatenate([[0], np.cumsum(sample_bytes(dump))])[bounds]
        weights_B = np.diff(totals)
        batches = range(len(weights_B))
        if self.place[1] > 1:
            parts, at = share_of(cut_runs(weights_B, self.place[1], 1), self.place)
            batches = parts[at]
        runs = cut_runs(weights_B[batches.start : batches.stop], max(1, most - 1))
        shards = []
        for run in runs:
            begin, end = batches.start + run.start, batches.start + run.stop
            span = range(bounds[begin], bounds[end])
            name = f"{dump.meta.path}: samples {span.start} to {span.stop - 1}"
            shards.append(Shard(name, int(totals[end] - totals[begin]), len(span), _Span(span)))
        if self.place[0] == 1 and most == 1:
            shards[0] = replace(shards[0], of=replace(shards[0].of, lift=True))
        elif self.place[0] == 1:
            nothing = range(len(dump), len(dump))
            shards.append(Shard(f"{dump.meta.path}: its tokens", 1, 0, _Span(nothing, lift=True)))
        return shards

    def partial(self, shard: Shard) -> CountedDump:
        """What the samples of a shard come to."""
        from ...ops.check.alone.alone import measure_lift
        from ...ops.summary import summarize_part

        dump, of = self.opened(), shard.of
        summary = summarize_part(dump, of.samples, self.on_read)
        return CountedDump(summary, measure_lift(dump) if of.lift else None)


def open_guessing(path: str, reading: Reading, progress: Progress = SILENT) -> Dump:
    """A dump; where nothing tells its model, as what it looks like."""
    from ...formats.documents.facts import Guess

    return reading.open(path, Guess(), progress)


def show_work(
    path: str,
    reading: Reading,
    opened: Dump,
    place: tuple[int, int] = (1, 1),
    on_read: OnRead | None = None,
) -> ShowWork:
    """The work of reading a part of a dump, which this process has opened."""
    return ShowWork(
        Opened(partial(open_guessing, reachable(path), reading), opened), place, on_read
    )
