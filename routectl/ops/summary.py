"""summarize: what one dump holds. Shape suffixes: L MoE layers, E experts."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass, field
from operator import add

import numpy as np
from numpy.typing import NDArray

from ..dump import Dump, DumpMeta, SampleBatch
from ..kernels.rows import count_load
from ..routes import Routes, ids_dtype
from ..visible import visible
from .adding.least import First
from .adding.seen import NamesSeen
from .batches import Refused, batches
from .pairs.align import checked

__all__ = ["Summary", "SummaryPartial", "summarize", "summarize_part"]

OnRead = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Summary:
    """Counts over the samples of a dump.

    damaged are the samples that their reader refused: counted in samples and in nothing else;
    first_damaged is the first of them by name and what was wrong with it.

    prompt_tokens and response_tokens add up what samples say of themselves; lengths_unknown
    counts the samples that do not, with_cached those that name their cached tokens. positions are
    tokens that have a place in the routes; rows are those that are there, rows_missing_L the
    others; row_counts counts the samples with routes by Sample.row_count, "unknown" where N is
    not known. merged are samples of several calls, segments those calls, segment_rows_differing
    the rows that two of them have otherwise. rows_with_margin are those whose margin is known,
    ties those of margin 0. load_LE counts how
    often each expert was taken. weight_versions counts response tokens per version, in order of
    first sight.
    """

    meta: DumpMeta
    samples: int
    without_routes: int
    lengths_unknown: int
    prompt_tokens: int
    response_tokens: int
    cached_tokens: int
    positions: int
    rows_missing_L: NDArray[np.int64]
    load_LE: NDArray[np.int64]
    starts: dict[str, int]
    row_counts: dict[str, int]
    merged: int
    segments: int
    segment_rows_differing: int
    weight_versions: dict[str, int]
    finish_reasons: dict[str, int]
    with_logprobs: int
    with_cached: int
    retracted: int
    rows_with_margin: int
    ties: int
    damaged: int = 0
    first_damaged: tuple[str, str] | None = None

    def __repr__(self) -> str:
        meta = self.meta
        damaged = f", {self.damaged:,} damaged" if self.damaged else ""
        return (
            f"<Summary of {visible(meta.path, 120, end=40)}: {self.samples:,} samples{damaged}, "
            f"{self.without_routes:,} without routes\n"
            f" {self.positions:,} tokens with routes, {self.rows:,} rows, "
            f"{int(self.rows_missing_L.sum()):,} missing; {len(meta.layers_L)} MoE layers, "
            f"K {meta.top_k}, E {meta.num_experts}>"
        )

    @property
    def rows(self) -> int:
        """Rows that are there."""
        return self.positions * len(self.rows_missing_L) - int(self.rows_missing_L.sum())

    @property
    def id_bytes_per_token(self) -> int:
        """Bytes of ids that one token takes in memory: L x K x 1 or 2."""
        meta = self.meta
        return len(meta.layers_L) * meta.top_k * ids_dtype(meta.num_experts).itemsize


@dataclass(slots=True)
class _Plain:
    """The numbers of a ``Summary``; those of parts add up."""

    samples: int = 0
    without_routes: int = 0
    lengths_unknown: int = 0
    prompt_tokens: int = 0
    response_tokens: int = 0
    cached_tokens: int = 0
    positions: int = 0
    with_logprobs: int = 0
    with_cached: int = 0
    retracted: int = 0
    rows_with_margin: int = 0
    ties: int = 0
    merged: int = 0
    segments: int = 0
    segment_rows_differing: int = 0
    damaged: int = 0

    def __add__(self, other: "_Plain") -> "_Plain":
        return _Plain(*map(add, astuple(self), astuple(other)))


@dataclass(slots=True, eq=False)
class SummaryPartial:
    """What some samples of a dump come to; those of all its samples add up, in any order.

    Nothing in it grows with the samples. refused has the first of those that are damaged.
    """

    meta: DumpMeta
    missing_L: NDArray[np.int64]
    load_LE: NDArray[np.int64]
    plain: _Plain = field(default_factory=_Plain)
    starts: NamesSeen = field(default_factory=NamesSeen)
    row_counts: NamesSeen = field(default_factory=NamesSeen)
    versions: NamesSeen = field(default_factory=NamesSeen)
    finish: NamesSeen = field(default_factory=NamesSeen)
    refused: First[Refused] = field(default_factory=lambda: First(1))

    @classmethod
    def empty(cls, meta: DumpMeta) -> "SummaryPartial":
        """Of no samples."""
        layers = len(meta.layers_L)
        return cls(meta, np.zeros(layers, np.int64), np.zeros((layers, meta.num_experts), np.int64))

    def __add__(self, other: "SummaryPartial") -> "SummaryPartial":
        return SummaryPartial(
            self.meta,
            self.missing_L + other.missing_L,
            self.load_LE + other.load_LE,
            self.plain + other.plain,
            self.starts + other.starts,
            self.row_counts + other.row_counts,
            self.versions + other.versions,
            self.finish + other.finish,
            self.refused + other.refused,
        )

    def refuse(self, refused: Refused) -> None:
        """Count a sample that its reader refuses, in place."""
        self.plain.samples += 1
        self.plain.damaged += 1
        self.refused.add(refused)

    def add(self, indices: Sequence[int], batch: SampleBatch) -> None:
        """Count samples, in place; indices are theirs in the dump."""
        plain = self.plain
        lengths = list(zip(batch.prompt_length, batch.response_length, strict=True))
        plain.samples += len(batch)
        plain.lengths_unknown += sum(None in pair for pair in lengths)
        plain.prompt_tokens += sum(prompt or 0 for prompt, _ in lengths)
        plain.response_tokens += sum(response or 0 for _, response in lengths)
        plain.cached_tokens += sum(cached or 0 for cached in batch.cached_tokens)
        plain.with_logprobs += sum(batch.has_logprobs)
        plain.with_cached += sum(cached is not None for cached in batch.cached_tokens)
        plain.retracted += sum(bool(count) for count in batch.retractions)
        for index, reason in zip(indices, batch.finish_reason, strict=True):
            self.finish.add(reason or "unknown", index)
        for index, spans in zip(indices, batch.weight_spans, strict=True):
            for nth, span in enumerate(spans):
                self.versions.add(span.version, index, nth, span.end - span.start)
        routed = [i for i, start in enumerate(batch.start) if start is not None]
        plain.without_routes += len(batch) - len(routed)
        for i in routed:
            inferred, start = batch.start_inferred[i], batch.start[i]
            kind = "inferred" if inferred else "zero" if start == 0 else "given"
            self.starts.add(kind, indices[i])
            self.row_counts.add(batch.row_count[i] or "unknown", indices[i])
            if batch.segments[i]:
                plain.merged += 1
                plain.segments += len(batch.segments[i])
                plain.segment_rows_differing += sum(s.differing for s in batch.segments[i])
        if batch.routes is not None:
            self._add_routes(checked(batch.routes, self.meta))

    def _add_routes(self, routes: Routes) -> None:
        plain = self.plain
        plain.positions += routes.num_tokens
        if routes.missing_TL is not None:
            self.missing_L += routes.missing_TL.sum(axis=0)
        margin_TL = routes.least_margin_TL
        if margin_TL is not None:
            plain.rows_with_margin += int((~np.isnan(margin_TL)).sum())
            plain.ties += int((margin_TL == 0).sum())
        self.load_LE += count_load(routes.ids_TLK, self.meta.num_experts, routes.missing_TL)

    def result(self) -> Summary:
        """The summary of a whole. Raises FormatError where its reader refused every sample."""
        first = next(iter(self.refused), None)
        if first is not None and self.plain.damaged == self.plain.samples:
            raise first.error
        return Summary(
            meta=self.meta,
            rows_missing_L=self.missing_L,
            load_LE=self.load_LE,
            starts=self.starts.by_name,
            row_counts=self.row_counts.by_name,
            weight_versions=self.versions.by_name,
            finish_reasons=self.finish.by_name,
            first_damaged=None if first is None else (first.sample, first.reason),
            **asdict(self.plain),
        )


def summarize_part(dump: Dump, span: range, on_read: OnRead | None = None) -> SummaryPartial:
    """Read samples ``span`` of a dump once and add up what they hold; see ``summarize``."""
    found = SummaryPartial.empty(dump.meta)
    for came in batches(dump, span):
        if isinstance(came, Refused):
            found.refuse(came)
            continue
        indices, batch = came
        found.add(indices, batch)
        if on_read is not None:
            on_read(0 if batch.routes is None else batch.routes.num_tokens, len(batch))
        del came, batch
    return found


def summarize(dump: Dump, on_read: OnRead | None = None) -> Summary:
    """Read every sample once and add up what the dump holds.

    A sample that its reader refuses is counted as damaged, and the rest go on; the reader's
    FormatError comes through where every sample is. ``on_read`` is told of tokens in routes and
    samples as they are read.
    """
    return summarize_part(dump, range(len(dump)), on_read).result()
