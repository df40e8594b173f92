"""What comes of a comparison: counts of bounded size that add up, whatever the dumps hold.

Shape suffixes: L compared layers.
"""

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ...dump import DumpMeta
from ...errors import MismatchError
from ...visible import visible
from ..adding.least import First, Worst
from ..adding.resampled import Resampled
from ..adding.spread import Spread
from .counts import Counts, SampleCounts
from .detail import Detail, Example, added_detail
from .flips import MarginCounts, added_margins
from .logprobs import LogprobCounts, LogprobSums

__all__ = ["CLUSTERED", "ComparedSample", "DiffResult", "SequenceCount", "Sequences"]

CLUSTERED = ("rows_mismatched", "rows", "tokens_mismatched", "tokens")  # columns of ``buckets``


@dataclass(frozen=True, slots=True)
class SequenceCount:
    """What one compared sample adds up to; index is that in OLD."""

    index: int
    sample: str
    tokens: int
    tokens_mismatched: int
    rows: int
    rows_mismatched: int

    @property
    def mismatch_rate(self) -> float:
        """Share of the sample's rows that are mismatched; a compared sample has rows."""
        return self.rows_mismatched / self.rows

    @property
    def rank(self) -> tuple[float, int, str, int]:
        """Ascending from the worst: by mismatch rate, mismatched rows, name, place."""
        return -self.mismatch_rate, -self.rows_mismatched, self.sample, self.index


@dataclass(frozen=True, slots=True, eq=False)
class ComparedSample:
    """A compared sample, told as it comes: it is in no result.

    swaps_LS are its rows by layer and by how many ids differ, int64; logprobs its log-prob sums.
    """

    counts: SequenceCount
    swaps_LS: NDArray[np.int64] = field(repr=False)
    logprobs: LogprobCounts = field(repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class Sequences:
    """The compared samples, one by one, in bounded memory.

    rates    how their mismatch rates are spread
    worst    those with mismatched rows, by rank
    buckets  columns CLUSTERED by bucket, for intervals: see ``adding.resampled``
    """

    rates: Spread
    worst: Worst[SequenceCount]
    buckets: Resampled

    @classmethod
    def empty(cls, limit: int) -> "Sequences":
        """None; at most ``limit`` of the worst are kept."""
        return cls(Spread(), Worst(limit), Resampled.empty(len(CLUSTERED)))

    def __add__(self, other: "Sequences") -> "Sequences":
        return Sequences(
            self.rates + other.rates, self.worst + other.worst, self.buckets + other.buckets
        )


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class DiffResult:
    """The outcome of a comparison; it holds counts, so results of shards add up with ``+``.

    Any cut, order and tree gives one result. match counts the pairs per joining rule. layers are
    the compared ones; layers_only_old and layers_only_new those that one side alone has. first
    are the first mismatched rows, at most as many as were asked for. margins is None when no
    compared sample has margins; detail is None unless it was asked for. each has every compared
    sample, in no order, where that was asked for: it alone grows with them.
    """

    old: DumpMeta
    new: DumpMeta
    match: dict[str, int]
    tokens: str
    layers: tuple[int, ...]
    layers_only_old: tuple[int, ...]
    layers_only_new: tuple[int, ...]
    samples: SampleCounts
    counts: Counts
    logprob_sums: LogprobSums
    sequences: Sequences
    first: First[Example]
    margins: MarginCounts | None = None
    detail: Detail | None = None
    each: tuple[ComparedSample, ...] = ()

    def __repr__(self) -> str:
        alone = self.samples.only_old + self.samples.only_new
        return (
            f"<DiffResult of {visible(self.old.path, 80, end=40)} and "
            f"{visible(self.new.path, 80, end=40)}: "
            f"{self.rows_mismatched:,} of {self.rows:,} rows mismatched "
            f"({self.rows_mismatched / max(self.rows, 1):.2%})\n"
            f" {self.samples.compared:,} samples and {self.num_tokens:,} tokens compared in "
            f"{len(self.layers)} MoE layers, {alone:,} samples without a partner, "
            f"{self.rows_left_over:,} rows left over>"
        )

    def __add__(self, other: "DiffResult") -> "DiffResult":
        if (self.layers, self.tokens) != (other.layers, other.tokens):
            raise ValueError("results of other layers or tokens do not add up")
        rules = {*self.match, *other.match}
        return replace(
            self,
            match={r: self.match.get(r, 0) + other.match.get(r, 0) for r in sorted(rules)},
            samples=self.samples + other.samples,
            counts=self.counts + other.counts,
            logprob_sums=self.logprob_sums + other.logprob_sums,
            sequences=self.sequences + other.sequences,
            first=self.first + other.first,
            margins=added_margins(self.margins, other.margins),
            detail=added_detail(self.detail, other.detail),
            each=self.each + other.each,
        )

    @property
    def examples(self) -> tuple[Example, ...]:
        """The first mismatched rows: by sample, position, layer."""
        return self.first.items

    @property
    def logprobs(self) -> LogprobCounts:
        """The sums over the tokens with log-probs on both sides."""
        return self.logprob_sums.counts

    @property
    def rows(self) -> int:
        """Compared rows: there on both sides."""
        return int(self.counts.swaps_LS.sum())

    @property
    def rows_mismatched(self) -> int:
        """Compared rows whose expert sets differ."""
        return int(self.counts.swaps_LS[:, 1:].sum())

    @property
    def rows_left_over(self) -> int:
        """Rows of either dump that were not compared: of paired samples, of others, of layers."""
        counts = self.counts
        return counts.only_old + counts.only_new + counts.alone_old + counts.alone_new

    @property
    def num_tokens(self) -> int:
        """Tokens with at least one compared row."""
        return int(self.counts.depth_N.sum())

    @property
    def tokens_mismatched(self) -> int:
        """Tokens with at least one mismatched row."""
        return int(self.counts.depth_N[1:].sum())

    def refuse_nothing(self) -> None:
        """Raise MismatchError where no row was compared at all."""
        if not self.rows:
            s = self.samples
            raise MismatchError(
                f"nothing to compare: {sum(self.match.values())} samples match, but no row is on "
                f"both sides ({s.without_routes} pairs lack routes on one side, "
                f"{s.nothing_in_common} have no common position)"
            )
