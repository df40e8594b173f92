"""diff: where two dumps of the same tokens took different experts, and by how much.

Shape suffixes: T tokens, G response tokens, L compared layers, K top_k.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from ...dump import Dump, DumpMeta, Sample
from ...errors import MismatchError
from ...kernels.rows import RowCounts, added_rows, diff_rows
from ...visible import visible
from ..pairs.align import TOKENS, Aligner, Extent, Pair, common_layers, name_of
from ..pairs.join import join_keys
from .counts import Counts, LogprobCounts, SampleCounts
from .detail import (
    Detail,
    DetailTally,
    Example,
    Part,
    added_detail,
    first_mismatches,
    place_parts,
)
from .flips import MarginCounts, added_margins, tally_margins

__all__ = ["DiffOptions", "DiffResult", "SequenceCount", "diff", "diff_as"]

_NO_LOGPROBS = LogprobCounts()
_THREADS_FROM = 8 << 20  # bytes of ids from which one sample is worth two threads


@dataclass(frozen=True, slots=True)
class SequenceCount:
    """What one compared sample adds up to.

    swaps_LS are its rows by layer and by how many ids differ, of the narrowest unsigned type that
    holds them; logprobs its log-prob sums.
    """

    sample: str
    tokens: int
    tokens_mismatched: int
    rows: int
    rows_mismatched: int
    swaps_LS: NDArray[np.unsignedinteger] = field(repr=False, compare=False)
    logprobs: LogprobCounts = field(repr=False, compare=False)

    @property
    def mismatch_rate(self) -> float:
        """Share of the sample's rows that are mismatched; a compared sample has rows."""
        return self.rows_mismatched / self.rows


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class DiffResult:
    """The outcome of a comparison; it holds counts, so results of shards add up with ``+``.

    match counts the pairs per joining rule. layers are the compared ones; layers_only_old and
    layers_only_new those that one side alone has. examples are the first mismatched rows, at
    most ``limit``. margins is None when no compared sample has margins; detail is None unless it
    was asked for.
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
    logprobs: LogprobCounts
    sequences: tuple[SequenceCount, ...]
    examples: tuple[Example, ...]
    limit: int
    margins: MarginCounts | None = None
    detail: Detail | None = None

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
            logprobs=self.logprobs + other.logprobs,
            sequences=self.sequences + other.sequences,
            examples=(self.examples + other.examples)[: self.limit],
            margins=added_margins(self.margins, other.margins),
            detail=added_detail(self.detail, other.detail),
        )

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


@dataclass(frozen=True, slots=True)
class DiffOptions:
    """What ``diff`` compares and keeps: see there for match, tokens, layers and examples.

    detail  whether to keep what a page shows beside the figures: see ``ops.diff.detail``
    part    OLD is a part of its dump, its other rows missing: what NEW has beside it is not counted
            as left over, nor a sample of OLD without any row
    """

    match: str = "auto"
    tokens: str = "all"
    layers: Sequence[int] | None = None
    examples: int = 10
    detail: bool = False
    part: bool = False

    def __post_init__(self) -> None:
        if self.tokens not in TOKENS:
            raise ValueError(f"tokens must be one of {TOKENS}, got {self.tokens!r}")


def _logprobs(old: Sample, new: Sample, pair: Pair, tokens: str) -> LogprobCounts:
    """Differences over the response tokens that both sides sampled and scored."""
    if old.logprobs is None or new.logprobs is None or tokens == "prompt":
        return _NO_LOGPROBS
    if old.prompt_length != new.prompt_length or old.prompt_length is None:
        return _NO_LOGPROBS
    size = min(len(old.logprobs), len(new.logprobs))
    if pair.prefix is not None:
        size = min(size, max(0, pair.prefix - old.prompt_length))
    scored_G, trained_G = np.ones(size, np.bool_), np.ones(size, np.bool_)
    for side in (old, new):
        mask_G = None if side.loss_mask is None else side.loss_mask[old.prompt_length :]
        for flags_G, given_G in ((scored_G, side.scored), (trained_G, mask_G)):
            if given_G is not None:
                flags_G[: len(given_G)] &= given_G[:size]
    return LogprobCounts.of_sides(
        old.logprobs[:size][scored_G], new.logprobs[:size][scored_G], trained_G[scored_G]
    )


def _token_ids(old: Sample, new: Sample, first: int, count: int) -> NDArray[np.int32] | None:
    """The ids of so many tokens from a position on; None where neither side knows them all."""
    for side in (old, new):
        ids = side.token_ids
        if ids is not None and len(ids) >= first + count:
            return ids[first : first + count]
    return None


class _Tally:
    """Adds up pair after pair."""

    def __init__(
        self, aligner: Aligner, layers: tuple[int, ...], meta: DumpMeta, options: DiffOptions
    ) -> None:
        self.aligner = aligner
        self.limit, self.part = options.examples, options.part
        sizes = len(layers), meta.top_k, meta.num_experts
        self.detail = DetailTally(*sizes, self.limit) if options.detail else None
        self.layers = layers
        self.num_experts = meta.num_experts
        self.counts = Counts.empty(*sizes)
        self.logprobs = LogprobCounts()
        self.margins_P: dict[int, MarginCounts | None] = {}  # by place, where there is detail
        self.samples = SampleCounts()
        self.sequences: list[SequenceCount] = []
        self.examples: list[Example] = []

    def add(self, old: Sample, new: Sample, name: str) -> None:
        """Compare one pair of samples."""
        inferred = int(old.start_inferred) + int(new.start_inferred)
        if old.routes is None or new.routes is None:
            self._cover(self.aligner.extent(old, new, name), 0)
            self.samples += SampleCounts(without_routes=1)
            return
        pair = self.aligner.pair(old, new, name)
        whole = (Part(0, slice(0, len(pair.old_TLK))),)
        parts = whole if self.detail is None else place_parts(pair)
        counted = [self._count(pair, part) for part in parts]
        rows = added_rows(counted)
        counts = Counts.of_rows(rows, pair.skip_TL, pair.position, pair.prompt_length, pair.cached)
        compared = int(counts.swaps_LS.sum())
        self.counts += counts
        self._cover(self.aligner.extent(old, new, name), compared)
        logprobs = _logprobs(old, new, pair, self.aligner.tokens)
        self.logprobs += logprobs
        if not compared:
            self.samples += SampleCounts(nothing_in_common=1, starts_inferred=inferred)
            return
        self.samples += SampleCounts(compared=1, starts_inferred=inferred)
        mismatched = int(counts.swaps_LS[:, 1:].sum())
        tokens, alike = int(counts.depth_N.sum()), int(counts.depth_N[0])
        swaps_LS = counts.swaps_LS.astype(np.min_scalar_type(counts.swaps_LS.max()))
        self.sequences.append(
            SequenceCount(name, tokens, tokens - alike, compared, mismatched, swaps_LS, logprobs)
        )
        if self.detail is not None:
            ids = _token_ids(old, new, pair.position, len(rows.first_T))
            self.detail.add(pair, zip(parts, counted, strict=True), rows, ids)
        left = self.limit - len(self.examples)
        if left > 0:
            self.examples += first_mismatches(pair, rows, self.layers, left)

    def _count(self, pair: Pair, part: Part) -> RowCounts:
        """Count the rows of a run of a pair's tokens, and their margins."""
        old_TLK, run = pair.old_TLK[part.tokens], part.tokens
        sides = pair.old_margin_TL, pair.new_margin_TL
        old, new = (None if margin_TL is None else margin_TL[run] for margin_TL in sides)
        skip_TL = None if pair.skip_TL is None else pair.skip_TL[run]
        rows = diff_rows(
            old_TLK,
            pair.new_TLK[run],
            self.num_experts,
            skip_TL=skip_TL,
            threads=2 if old_TLK.nbytes >= _THREADS_FROM else 1,
            mark=any(found is not None for found in (self.detail, old, new)),
        )
        so_far = self.margins_P.get(part.place)
        self.margins_P[part.place] = tally_margins(so_far, old, new, rows, skip_TL)
        return rows

    def _cover(self, extent: Extent, compared: int) -> None:
        """Count what of a pair was not compared."""
        self.counts = self.counts.uncovered(
            only_old=extent.old - compared, lost_old=extent.lost_old, alone_old=extent.alone_old
        )
        if not self.part:
            self.counts = self.counts.uncovered(
                only_new=extent.new - compared, lost_new=extent.lost_new, alone_new=extent.alone_new
            )

    def leave(self, sample: Sample, *, is_new: bool) -> None:
        """Count a sample without a partner."""
        rows = self.aligner.rows_alone(sample, is_new=is_new)
        if rows or not self.part:
            side = "new" if is_new else "old"
            self.counts = self.counts.uncovered(**{f"alone_{side}": rows})
            self.samples += SampleCounts(**{f"only_{side}": 1})


def diff(
    old: Dump,
    new: Dump,
    *,
    match: str = "auto",
    tokens: str = "all",
    layers: Sequence[int] | None = None,
    examples: int = 10,
) -> DiffResult:
    """Compare the routes of two dumps of the same tokens, row by row as sets.

    match     how samples are joined: see ``join_keys``; rows join by absolute position
    tokens    all, prompt, or response (from the first generated token as an input)
    layers    0-based transformer layers to compare; None for all that both dumps have
    examples  how many mismatched rows to keep

    Raises MismatchError when the dumps cannot be laid side by side or nothing was comparable.
    Metrics and their sources: docs/metrics.md.
    """
    return diff_as(old, new, DiffOptions(match, tokens, layers, examples))


def diff_as(old: Dump, new: Dump, options: DiffOptions) -> DiffResult:
    """``diff`` with its options as one value, those for a page among them."""
    layers = common_layers(old.meta, new.meta, options.layers)
    common, only_old, only_new = layers
    joined = join_keys(old.keys, new.keys, options.match)
    by_prompt = options.match == "prefix"
    aligner = Aligner(old.meta, new.meta, layers, options.tokens, by_prompt=by_prompt)
    tally = _Tally(aligner, common, old.meta, options)
    for i, j in joined.pairs:
        sample = old[i]
        tally.add(sample, new[j], name_of(sample, i))
    for i in joined.only_old:
        tally.leave(old[i], is_new=False)
    for j in () if options.part else joined.only_new:
        tally.leave(new[j], is_new=True)
    samples = tally.samples + SampleCounts(
        old=len(old),
        new=len(new),
        conflicts=joined.conflicts,
    )
    result = DiffResult(
        old=old.meta,
        new=new.meta,
        match=joined.by,
        tokens=options.tokens,
        layers=common,
        layers_only_old=only_old,
        layers_only_new=only_new,
        samples=samples,
        counts=tally.counts,
        logprobs=tally.logprobs,
        sequences=tuple(tally.sequences),
        examples=tuple(tally.examples),
        limit=options.examples,
        margins=reduce(added_margins, tally.margins_P.values(), None),
        detail=None if tally.detail is None else tally.detail.result(tally.margins_P),
    )
    if not result.rows:
        raise MismatchError(
            f"nothing to compare: {len(joined.pairs)} samples match, but no row is on both sides "
            f"({samples.without_routes} pairs lack routes on one side, "
            f"{samples.nothing_in_common} have no common position)"
        )
    return result
