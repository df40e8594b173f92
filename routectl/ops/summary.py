"""summarize: what one dump holds. Shape suffixes: L MoE layers, E experts."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..dump import Dump, DumpMeta, Sample
from ..errors import FormatError
from ..kernels.rows import count_load
from ..routes import Bools, Ids, Routes, ids_dtype
from .pairs.align import checked

__all__ = ["Summary", "summarize"]


@dataclass(frozen=True, slots=True, eq=False)
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
_LOAD_TOKENS = 4096  # whose load is counted at a time: a call of the kernel costs microseconds


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
        self._waiting: list[Routes] = []
        self._waiting_tokens = 0

    def add(self, sample: Sample) -> None:
        plain = self.plain
        prompt, response = sample.prompt_length, sample.response_length
        plain["samples"] += 1
        plain["lengths_unknown"] += prompt is None or response is None
        plain["prompt_tokens"] += prompt or 0
        plain["response_tokens"] += response or 0
        plain["cached_tokens"] += sample.cached_tokens or 0
        plain["with_logprobs"] += sample.logprobs is not None
        plain["with_cached"] += sample.cached_tokens is not None
        plain["retracted"] += bool(sample.retractions)
        self.finish[sample.finish_reason or "unknown"] += 1
        for span in sample.weight_spans:
            self.versions[span.version] += span.end - span.start
        if sample.routes is None:
            plain["without_routes"] += 1
        else:
            self._add_routes(sample, checked(sample.routes, self.meta))

    def _add_routes(self, sample: Sample, routes: Routes) -> None:
        plain = self.plain
        kind = "inferred" if sample.start_inferred else "zero" if routes.start == 0 else "given"
        self.starts[kind] += 1
        self.row_counts[sample.row_count or "unknown"] += 1
        if sample.segments:
            plain["merged"] += 1
            plain["segments"] += len(sample.segments)
            plain["segment_rows_differing"] += sum(part.differing for part in sample.segments)
        plain["positions"] += routes.num_tokens
        if routes.missing_TL is not None:
            self.missing_L += routes.missing_TL.sum(axis=0)
        margin_TL = routes.least_margin_TL
        if margin_TL is not None:
            plain["rows_with_margin"] += int((~np.isnan(margin_TL)).sum())
            plain["ties"] += int((margin_TL == 0).sum())
        if routes.missing_TL is not None or routes.num_tokens >= _LOAD_TOKENS:
            self._count(routes.ids_TLK, routes.missing_TL)
            return
        self._waiting.append(routes)
        self._waiting_tokens += routes.num_tokens
        if self._waiting_tokens >= _LOAD_TOKENS or len(self._waiting) >= _LOAD_TOKENS:
            self.finish_load()

    def finish_load(self) -> None:
        """Count the load of what waits for it."""
        if self._waiting:
            self._count(np.concatenate([routes.ids_TLK for routes in self._waiting]), None)
        self._waiting, self._waiting_tokens = [], 0

    def _count(self, ids_TLK: Ids, missing_TL: Bools | None) -> None:
        self.load_LE += count_load(ids_TLK, self.meta.num_experts, missing_TL)


def summarize(dump: Dump) -> Summary:
    """Read every sample once and add up what the dump holds.

    A sample that its reader refuses is counted as damaged, and the rest go on; the reader's
    FormatError comes through where every sample is.
    """
    tally = _Tally(dump.meta)
    damaged, first, error_of_first = 0, None, None
    for index in range(len(dump)):
        try:
            tally.add(dump[index])
        except FormatError as error:
            damaged += 1
            if first is None:
                name = dump.keys[index].sample_id or f"#{index}"
                first, error_of_first = (name, str(error)), error
    tally.finish_load()
    if error_of_first is not None and damaged == len(dump):
        raise error_of_first
    tally.plain["samples"] += damaged
    return Summary(
        meta=dump.meta,
        rows_missing_L=tally.missing_L,
        load_LE=tally.load_LE,
        starts=dict(tally.starts),
        row_counts=dict(tally.row_counts),
        weight_versions=dict(tally.versions),
        finish_reasons=dict(tally.finish),
        **tally.plain,
        damaged=damaged,
        first_damaged=first,
    )
