"""summarize: what one dump holds. Shape suffixes: L MoE layers, E experts."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..dump import Dump, DumpMeta, Sample, SampleBatch
from ..errors import FormatError
from ..kernels.rows import count_load
from ..routes import Routes, ids_dtype
from ..visible import visible
from .pairs.align import checked

__all__ = ["Summary", "summarize"]


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


_PLAIN = (
    "samples",
    "without_routes",
    "lengths_unknown",
    "prompt_tokens",
    "response_tokens",
    "cached_tokens",
    "positions",
    "with_logprobs",
    "with_cached",
    "retracted",
    "rows_with_margin",
    "ties",
    "merged",
    "segments",
    "segment_rows_differing",
)
_BATCH_TOKENS = 4096  # that are counted at a time: a call of the kernel costs microseconds


class _Tally:
    def __init__(self, meta: DumpMeta) -> None:
        self.meta = meta
        self.plain = dict.fromkeys(_PLAIN, 0)
        self.starts: Counter[str] = Counter()
        self.row_counts: Counter[str] = Counter()
        self.versions: Counter[str] = Counter()
        self.finish: Counter[str] = Counter()
        self.missing_L = np.zeros(len(meta.layers_L), np.int64)
        self.load_LE = np.zeros((len(meta.layers_L), meta.num_experts), np.int64)

    def add(self, batch: SampleBatch) -> None:
        plain = self.plain
        lengths = list(zip(batch.prompt_length, batch.response_length, strict=True))
        plain["samples"] += len(batch)
        plain["lengths_unknown"] += sum(None in pair for pair in lengths)
        plain["prompt_tokens"] += sum(prompt or 0 for prompt, _ in lengths)
        plain["response_tokens"] += sum(response or 0 for _, response in lengths)
        plain["cached_tokens"] += sum(cached or 0 for cached in batch.cached_tokens)
        plain["with_logprobs"] += sum(batch.has_logprobs)
        plain["with_cached"] += sum(cached is not None for cached in batch.cached_tokens)
        plain["retracted"] += sum(bool(count) for count in batch.retractions)
        self.finish.update(reason or "unknown" for reason in batch.finish_reason)
        for span in chain.from_iterable(batch.weight_spans):
            self.versions[span.version] += span.end - span.start
        routed = [i for i, start in enumerate(batch.start) if start is not None]
        plain["without_routes"] += len(batch) - len(routed)
        for i in routed:
            inferred, start = batch.start_inferred[i], batch.start[i]
            self.starts["inferred" if inferred else "zero" if start == 0 else "given"] += 1
            self.row_counts[batch.row_count[i] or "unknown"] += 1
            if batch.segments[i]:
                plain["merged"] += 1
                plain["segments"] += len(batch.segments[i])
                plain["segment_rows_differing"] += sum(s.differing for s in batch.segments[i])
        if batch.routes is not None:
            self._add_routes(checked(batch.routes, self.meta))

    def _add_routes(self, routes: Routes) -> None:
        plain = self.plain
        plain["positions"] += routes.num_tokens
        if routes.missing_TL is not None:
            self.missing_L += routes.missing_TL.sum(axis=0)
        margin_TL = routes.least_margin_TL
        if margin_TL is not None:
            plain["rows_with_margin"] += int((~np.isnan(margin_TL)).sum())
            plain["ties"] += int((margin_TL == 0).sum())
        self.load_LE += count_load(routes.ids_TLK, self.meta.num_experts, routes.missing_TL)


def _end_to_end(parts: list[Routes]) -> Routes | None:
    """The routes of samples as those of one."""
    if len(parts) < 2:
        return parts[0] if parts else None

    def joined(name: str, nothing: float, dtype: type) -> Any:
        arrays = [getattr(routes, name) for routes in parts]
        if all(array is None for array in arrays):
            return None
        shapes = [routes.ids_TLK.shape[:2] for routes in parts]
        return np.concatenate(
            [
                np.full(shape, nothing, dtype) if array is None else array
                for array, shape in zip(arrays, shapes, strict=True)
            ]
        )

    return replace(
        parts[0],
        ids_TLK=np.concatenate([routes.ids_TLK for routes in parts]),
        missing_TL=joined("missing_TL", False, np.bool_),
        margin_TL=joined("margin_TL", np.nan, np.float16),
        group_margin_TL=joined("group_margin_TL", np.nan, np.float16),
    )


def _together(samples: list[Sample], meta: DumpMeta) -> SampleBatch:
    """Samples as a batch. Raises ValueError for routes of another model than their dump's."""
    routes = [checked(s.routes, meta) for s in samples if s.routes is not None]
    return SampleBatch(
        routes=_end_to_end(routes),
        start=[None if s.routes is None else s.routes.start for s in samples],
        start_inferred=[s.start_inferred for s in samples],
        row_count=[s.row_count for s in samples],
        prompt_length=[s.prompt_length for s in samples],
        response_length=[s.response_length for s in samples],
        cached_tokens=[s.cached_tokens for s in samples],
        retractions=[s.retractions for s in samples],
        finish_reason=[s.finish_reason for s in samples],
        has_logprobs=[s.logprobs is not None for s in samples],
        weight_spans=[s.weight_spans for s in samples],
        segments=[s.segments for s in samples],
    )


def _tokens_of(sample: Sample) -> int:
    """At least so many tokens of a sample take memory."""
    said = (sample.prompt_length or 0) + (sample.response_length or 0)
    return said if sample.routes is None else max(said, sample.routes.num_tokens)


@dataclass(slots=True)
class _Refused:
    """The samples that their reader refused, and of the first its index and why."""

    count: int = 0
    first: tuple[int, FormatError] | None = None

    def add(self, index: int, error: FormatError) -> None:
        self.count += 1
        self.first = self.first or (index, error)


def _batches(dump: Dump, refused: _Refused) -> Iterator[SampleBatch]:
    """All samples but those refused: as the reader batches them, the others in batches too."""
    waiting: list[Sample] = []
    index = tokens = 0
    while index < len(dump):
        batch = dump.batch(index)
        if batch is None:
            try:
                waiting.append(dump[index])
                tokens += _tokens_of(waiting[-1])
            except FormatError as error:
                refused.add(index, error)
            index += 1
        else:
            index += len(batch)
        if waiting and (batch is not None or max(tokens, len(waiting)) >= _BATCH_TOKENS):
            yield _together(waiting, dump.meta)
            waiting, tokens = [], 0
        if batch is not None:
            yield batch
            del batch  # its memory, before that of the next is taken
    if waiting:
        yield _together(waiting, dump.meta)


def summarize(dump: Dump, on_read: Callable[[int, int], None] | None = None) -> Summary:
    """Read every sample once and add up what the dump holds.

    A sample that its reader refuses is counted as damaged, and the rest go on; the reader's
    FormatError comes through where every sample is. ``on_read`` is told of tokens in routes and
    samples as they are read.
    """
    tally, refused = _Tally(dump.meta), _Refused()
    for batch in _batches(dump, refused):
        tally.add(batch)
        if on_read is not None:
            on_read(0 if batch.routes is None else batch.routes.num_tokens, len(batch))
        del batch
    first = None
    if refused.first is not None:
        index, error = refused.first
        if refused.count == len(dump):
            raise error
        first = (dump.keys[index].sample_id or f"#{index}", str(error))
    tally.plain["samples"] += refused.count
    return Summary(
        meta=dump.meta,
        rows_missing_L=tally.missing_L,
        load_LE=tally.load_LE,
        starts=dict(tally.starts),
        row_counts=dict(tally.row_counts),
        weight_versions=dict(tally.versions),
        finish_reasons=dict(tally.finish),
        **tally.plain,
        damaged=refused.count,
        first_damaged=first,
    )
