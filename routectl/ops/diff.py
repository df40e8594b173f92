"""diff: where two dumps of the same tokens took different experts, and by how much.

Shape suffixes: T tokens, L compared layers, K top_k.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..dump import Dump, DumpMeta, Sample
from ..errors import MismatchError
from ..kernels import RowCounts, diff_rows
from ..margins import Margins
from .align import TOKENS, Aligner, Pair, name_of
from .counts import Counts, LogprobCounts, SampleCounts
from .join import join_keys
from .margins import MarginCounts, added_margins, tally_margins

__all__ = ["DiffResult", "Example", "SequenceCount", "diff"]

_THREADS_FROM = 8 << 20  # bytes of ids from which one sample is worth two threads


@dataclass(frozen=True, slots=True)
class Example:
    """One mismatched row: where, the two id sets (sorted), and each side's margin where known."""

    sample: str
    position: int
    layer: int
    old: tuple[int, ...]
    new: tuple[int, ...]
    margin_old: float | None = None
    margin_new: float | None = None


@dataclass(frozen=True, slots=True)
class SequenceCount:
    """What one compared sample adds up to.

    swaps_LS are its rows by layer and by how many ids differ, int32; logprobs its log-prob sums.
    """

    sample: str
    tokens: int
    tokens_mismatched: int
    rows: int
    rows_mismatched: int
    swaps_LS: NDArray[np.int32] = field(repr=False, compare=False)
    logprobs: LogprobCounts = field(repr=False, compare=False)

    @property
    def mismatch_rate(self) -> float:
        """Share of the sample's rows that are mismatched; a compared sample has rows."""
        return self.rows_mismatched / self.rows


@dataclass(frozen=True, slots=True, eq=False)
class DiffResult:
    """The outcome of a comparison; it holds counts, so results of shards add up with ``+``.

    match counts the pairs per joining rule. layers are the compared ones; layers_only_old and
    layers_only_new those that one side alone has. examples are the first mismatched rows, at
    most ``limit``. margins is None when no compared sample has margins.
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
    def num_tokens(self) -> int:
        """Tokens with at least one compared row."""
        return int(self.counts.depth_N.sum())

    @property
    def tokens_mismatched(self) -> int:
        """Tokens with at least one mismatched row."""
        return int(self.counts.depth_N[1:].sum())


def _common_layers(
    old: DumpMeta, new: DumpMeta, wanted: Sequence[int] | None
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Layers of both, of old alone and of new alone; the models must be of one shape."""
    for name in ("top_k", "num_experts", "id_space"):
        a, b = getattr(old, name), getattr(new, name)
        if a != b:
            raise MismatchError(
                f"{old.path} and {new.path} cannot be compared: {name} is {a} in OLD and {b} in NEW"
            )
    both = [layer for layer in old.layers_L if layer in new.layers_L]
    if wanted is not None:
        absent = [layer for layer in wanted if layer not in both]
        if absent:
            raise MismatchError(
                f"layers {absent} are not MoE layers of both dumps: those are {_ranges(both)}"
            )
        both = sorted(set(wanted))
    if not both:
        raise MismatchError(
            f"no common layer: OLD has {_ranges(old.layers_L)}, NEW has {_ranges(new.layers_L)}"
        )
    return (
        tuple(both),
        tuple(layer for layer in old.layers_L if layer not in new.layers_L),
        tuple(layer for layer in new.layers_L if layer not in old.layers_L),
    )


def _ranges(layers: Sequence[int]) -> str:
    return f"{layers[0]}..{layers[-1]} ({len(layers)})" if layers else "none"


def _known(margin_TL: Margins | None, t: Any, index: int) -> float | None:
    margin = np.nan if margin_TL is None else float(margin_TL[t, index])
    return None if np.isnan(margin) else margin


def _examples(pair: Pair, rows: RowCounts, layers: Sequence[int], limit: int) -> list[Example]:
    """The first mismatched rows of a pair, by position, then layer."""
    found: list[Example] = []
    for t in np.flatnonzero(rows.differing_T):
        for index in range(int(rows.first_T[t]), len(layers)):
            if pair.skip_TL is not None and pair.skip_TL[t, index]:
                continue
            old = set(pair.old_TLK[t, index].tolist())
            new = set(pair.new_TLK[t, index].tolist())
            if old != new:
                where = (pair.name, pair.position + int(t), layers[index])
                margins = (_known(m, t, index) for m in (pair.old_margin_TL, pair.new_margin_TL))
                found.append(Example(*where, tuple(sorted(old)), tuple(sorted(new)), *margins))
                if len(found) >= limit:
                    return found
    return found


def _logprobs(old: Sample, new: Sample, pair: Pair, tokens: str) -> LogprobCounts:
    """Differences over the response tokens that both sides sampled and scored."""
    if old.logprobs is None or new.logprobs is None or tokens == "prompt":
        return LogprobCounts()
    if old.prompt_length != new.prompt_length or old.prompt_length is None:
        return LogprobCounts()
    size = min(len(old.logprobs), len(new.logprobs))
    if pair.prefix is not None:
        size = min(size, max(0, pair.prefix - old.prompt_length))
    with np.errstate(invalid="ignore"):  # -inf on both sides: nan, which is left out
        return LogprobCounts.of_tokens(new.logprobs[:size] - old.logprobs[:size])


class _Tally:
    """Adds up pair after pair."""

    def __init__(self, aligner: Aligner, layers: tuple[int, ...], meta: DumpMeta) -> None:
        self.aligner = aligner
        self.layers = layers
        self.num_experts = meta.num_experts
        self.counts = Counts.empty(len(layers), meta.top_k, meta.num_experts)
        self.logprobs = LogprobCounts()
        self.margins: MarginCounts | None = None
        self.samples = SampleCounts()
        self.sequences: list[SequenceCount] = []
        self.examples: list[Example] = []

    def add(self, old: Sample, new: Sample, name: str, limit: int) -> None:
        """Compare one pair of samples."""
        inferred = int(old.start_inferred) + int(new.start_inferred)
        if old.routes is None or new.routes is None:
            rows_old, rows_new = self.aligner.rows(old, new, name)
            self.counts = self.counts.uncovered(rows_old, rows_new)
            self.samples += SampleCounts(without_routes=1)
            return
        pair = self.aligner.pair(old, new, name)
        threads = 2 if pair.old_TLK.nbytes >= _THREADS_FROM else 1
        margins = pair.old_margin_TL, pair.new_margin_TL
        rows = diff_rows(
            pair.old_TLK, pair.new_TLK, self.num_experts, skip_TL=pair.skip_TL, threads=threads,
            mark=any(m is not None for m in margins),
        )  # fmt: skip
        self.margins = tally_margins(self.margins, *margins, rows, pair.skip_TL)
        counts = Counts.of_rows(
            rows, pair.skip_TL, pair.position, pair.prompt_length, pair.cached
        )  # fmt: skip
        compared = int(counts.swaps_LS.sum())
        self.counts += counts.uncovered(pair.rows_old - compared, pair.rows_new - compared)
        logprobs = _logprobs(old, new, pair, self.aligner.tokens)
        self.logprobs += logprobs
        if not compared:
            self.samples += SampleCounts(nothing_in_common=1, starts_inferred=inferred)
            return
        self.samples += SampleCounts(compared=1, starts_inferred=inferred)
        mismatched = int(counts.swaps_LS[:, 1:].sum())
        tokens, alike = int(counts.depth_N.sum()), int(counts.depth_N[0])
        swaps_LS = counts.swaps_LS.astype(np.int32)
        self.sequences.append(
            SequenceCount(name, tokens, tokens - alike, compared, mismatched, swaps_LS, logprobs)
        )
        if len(self.examples) < limit:
            self.examples += _examples(pair, rows, self.layers, limit - len(self.examples))


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

    match     how samples are joined: see ``ops.join.join_keys``; rows join by absolute position
    tokens    all, prompt, or response (from the first generated token as an input)
    layers    0-based transformer layers to compare; None for all that both dumps have
    examples  how many mismatched rows to keep

    Raises MismatchError when the dumps cannot be laid side by side or nothing was comparable.
    Metrics and their sources: docs/metrics.md.
    """
    if tokens not in TOKENS:
        raise ValueError(f"tokens must be one of {TOKENS}, got {tokens!r}")
    common, only_old, only_new = _common_layers(old.meta, new.meta, layers)
    joined = join_keys(old.keys, new.keys, match)
    aligner = Aligner(old.meta, new.meta, common, tokens, by_prompt=match == "prefix")
    tally = _Tally(aligner, common, old.meta)
    for i, j in joined.pairs:
        sample = old[i]
        tally.add(sample, new[j], name_of(sample, i), examples)
    samples = tally.samples + SampleCounts(
        old=len(old), new=len(new), only_old=len(joined.only_old), only_new=len(joined.only_new),
        conflicts=joined.conflicts,
    )  # fmt: skip
    result = DiffResult(
        old=old.meta,
        new=new.meta,
        match=joined.by,
        tokens=tokens,
        layers=common,
        layers_only_old=only_old,
        layers_only_new=only_new,
        samples=samples,
        counts=tally.counts,
        logprobs=tally.logprobs,
        sequences=tuple(tally.sequences),
        examples=tuple(tally.examples),
        limit=examples,
        margins=tally.margins,
    )
    if not result.rows:
        raise MismatchError(
            f"nothing to compare: {len(joined.pairs)} samples match, but no row is on both sides "
            f"({samples.without_routes} pairs lack routes on one side, "
            f"{samples.nothing_in_common} have no common position)"
        )
    return result
