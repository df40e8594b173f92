"""summarize: what one dump holds. Shape suffixes: L MoE layers, E experts."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..dump import Dump, DumpMeta, Sample
from ..errors import FormatError
from ..kernels.rows import count_load
from ..routes import ids_dtype
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


class _Tally:
    def __init__(self, meta: DumpMeta) -> None:
        self.meta = meta
        self.plain: Counter[str] = Counter()
        self.starts: Counter[str] = Counter()
        self.row_counts: Counter[str] = Counter()
        self.versions: Counter[str] = Counter()
        self.finish: Counter[str] = Counter()
        self.missing_L = np.zeros(len(meta.layers_L), np.int64)
        self.load_LE = np.zeros((len(meta.layers_L), meta.num_experts), np.int64)

    def add(self, sample: Sample) -> None:
        known = sample.prompt_length is not None and sample.response_length is not None
        self.plain.update(
            samples=1,
            without_routes=int(sample.routes is None),
            lengths_unknown=int(not known),
            prompt_tokens=sample.prompt_length or 0,
            response_tokens=sample.response_length or 0,
            cached_tokens=sample.cached_tokens or 0,
            with_logprobs=int(sample.logprobs is not None),
            with_cached=int(sample.cached_tokens is not None),
            retracted=int(bool(sample.retractions)),
        )
        self.finish[sample.finish_reason or "unknown"] += 1
        for span in sample.weight_spans:
            self.versions[span.version] += span.end - span.start
        if sample.routes is None:
            return
        routes = checked(sample.routes, self.meta)
        kind = "inferred" if sample.start_inferred else "zero" if routes.start == 0 else "given"
        self.starts[kind] += 1
        self.row_counts[sample.row_count or "unknown"] += 1
        self.plain.update(
            merged=int(bool(sample.segments)),
            segments=len(sample.segments),
            segment_rows_differing=sum(part.differing for part in sample.segments),
        )
        self.plain["positions"] += routes.num_tokens
        if routes.missing_TL is not None:
            self.missing_L += routes.missing_TL.sum(axis=0)
        margin_TL = routes.least_margin_TL
        if margin_TL is not None:
            self.plain["rows_with_margin"] += int((~np.isnan(margin_TL)).sum())
            self.plain["ties"] += int((margin_TL == 0).sum())
        self.load_LE += count_load(routes.ids_TLK, self.meta.num_experts, routes.missing_TL)


def summarize(dump: Dump) -> Summary:
    """Read every sample once and add up what the dump holds.

    A sample that its reader refuses is counted as damaged, and the rest go on; the reader's
    FormatError comes through where every sample is.
    """
    tally = _Tally(dump.meta)
    damaged, first = 0, None  # one error is kept: each holds what was read of its sample
    for index, key in enumerate(dump.keys):
        try:
            tally.add(dump[index])
        except FormatError as error:
            damaged += 1
            first = first or (key.sample_id or f"#{index}", error)
    if first is not None and damaged == len(dump):
        raise first[1]
    tally.plain["samples"] += damaged
    names = (
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
    return Summary(
        meta=dump.meta,
        rows_missing_L=tally.missing_L,
        load_LE=tally.load_LE,
        starts=dict(tally.starts),
        row_counts=dict(tally.row_counts),
        weight_versions=dict(tally.versions),
        finish_reasons=dict(tally.finish),
        **{name: tally.plain[name] for name in names},
        damaged=damaged,
        first_damaged=None if first is None else (first[0], str(first[1])),
    )
