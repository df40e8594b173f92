"""Pairs of samples compared one after another, and added up.

Shape suffixes: T tokens, G response tokens, L compared layers, K top_k.
"""

from collections import Counter
from collections.abc import Callable
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from ...dump import Dump, DumpMeta, Sample, SampleKey
from ...kernels.rows import RowCounts, added_rows, diff_rows
from ...kernels.threads import threads
from ..adding.least import First
from ..adding.resampled import bucket_of_sample
from ..pairs.align import Aligner, Extent, Pair, common_layers, name_of
from ..pairs.logprobs import laid_logprobs
from ..pairs.parts import JoinPart
from .counts import Counts, LogprobCounts, LogprobSums, SampleCounts
from .detail import DetailTally, Example, Part, first_mismatches, place_parts
from .few import Few
from .flips import MarginCounts, added_margins, tally_margins
from .options import DiffOptions
from .result import CLUSTERED, ComparedSample, DiffResult, SequenceCount, Sequences

__all__ = ["DiffTally", "OnCompared", "diff_part"]

OnCompared = Callable[[ComparedSample], None]
_NO_LOGPROBS = LogprobCounts()
_THREAD_BYTES = 4 << 20  # of a sample's ids that are worth a thread
_TOGETHER = 4096  # samples whose figures are added up at a time


def _logprobs(old: Sample, new: Sample, pair: Pair, tokens: str) -> LogprobCounts:
    """Differences over the response tokens that both sides sampled and scored."""
    if tokens == "prompt":
        return _NO_LOGPROBS
    most = None if pair.prefix is None else max(0, pair.prefix - (old.prompt_length or 0))
    laid = laid_logprobs((old, new), most)
    if laid is None:
        return _NO_LOGPROBS
    (old_G, new_G), trained_G = laid
    return LogprobCounts.of_sides(old_G, new_G, trained_G)


def _token_ids(old: Sample, new: Sample, first: int, count: int) -> NDArray[np.int32] | None:
    """The ids of so many tokens from a position on; None where neither side knows them all."""
    for side in (old, new):
        ids = side.token_ids
        if ids is not None and len(ids) >= first + count:
            return ids[first : first + count]
    return None


class DiffTally:
    """Adds up pair after pair of two dumps; memory does not grow with them.

    on_compared is told of each compared sample; few is that of all parts of a comparison. Raises
    MismatchError for dumps that cannot be laid
    side by side.
    """

    def __init__(
        self,
        old: DumpMeta,
        new: DumpMeta,
        options: DiffOptions,
        on_compared: OnCompared | None = None,
        few: Few | None = None,
    ) -> None:
        self._metas, self._options, self._on_compared = (old, new), options, on_compared
        self._layers = common_layers(old, new, options.layers)
        by_prompt = options.match == "prefix"
        self._aligner = Aligner(old, new, self._layers, options.tokens, by_prompt=by_prompt)
        sizes = len(self._layers[0]), old.top_k, old.num_experts
        self._detail = DetailTally(*sizes, options.examples) if options.detail else None
        self._counts = Counts.empty(*sizes)
        self._logprobs = LogprobSums()
        self._margins_P: dict[int, MarginCounts | None] = {}  # by place, where there is detail
        self._samples: Counter[str] = Counter()  # by field of SampleCounts
        self._uncovered: Counter[str] = Counter()  # by field of Counts
        self._sequences = Sequences.empty(options.examples)
        self._examples: First[Example] = First(options.examples)
        self._waiting: list[tuple[int, SequenceCount, LogprobCounts]] = []
        self._each: list[ComparedSample] = []
        self._few = few or Few()

    def add(self, old: Sample, new: Sample, index: int, key: SampleKey) -> None:
        """Compare one pair of samples; index and key are those of OLD's."""
        inferred = int(old.start_inferred) + int(new.start_inferred)
        name, options = name_of(old, index), self._options
        if old.routes is None or new.routes is None:
            self._cover(self._aligner.extent(old, new, name), 0)
            self._samples["without_routes"] += 1
            return
        pair = self._aligner.pair(old, new, name)
        whole = (Part(0, slice(0, len(pair.old_TLK))),)
        parts = whole if self._detail is None else place_parts(pair)
        counted = [self._count(pair, part) for part in parts]
        rows = added_rows(counted)
        counts = Counts.of_rows(rows, pair.skip_TL, pair.position, pair.prompt_length, pair.cached)
        compared = int(counts.swaps_LS.sum())
        self._counts.take(counts)
        self._samples["starts_inferred"] += inferred
        self._cover(self._aligner.extent(old, new, name), compared)
        logprobs = _logprobs(old, new, pair, options.tokens)
        if not compared:
            self._logprobs += LogprobSums.of_samples([logprobs])
            self._samples["nothing_in_common"] += 1
            return
        self._samples["compared"] += 1
        self._tell(index, name, key, counts, logprobs)
        if self._detail is not None:
            ids = _token_ids(old, new, pair.position, len(rows.first_T))
            self._detail.add(pair, index, zip(parts, counted, strict=True), rows, ids)
        if self._examples.takes((index,)):
            found = first_mismatches(pair, index, rows, self._layers[0], options.examples)
            self._examples += First(options.examples, tuple(found))

    def _tell(
        self, index: int, name: str, key: SampleKey, counts: Counts, logprobs: LogprobCounts
    ) -> None:
        """Count a compared sample as one."""
        rows = int(counts.swaps_LS.sum())
        mismatched = rows - int(counts.swaps_LS[:, 0].sum())
        tokens, alike = int(counts.depth_N.sum()), int(counts.depth_N[0])
        one = SequenceCount(index, name, tokens, tokens - alike, rows, mismatched)
        self._waiting.append((bucket_of_sample(key, index), one, logprobs))
        if len(self._waiting) >= _TOGETHER:
            self._flush()
        if self._on_compared is not None or self._options.each:
            told = ComparedSample(one, counts.swaps_LS, logprobs)
            if self._options.each:
                self._each.append(told)
            if self._on_compared is not None:
                self._on_compared(told)

    def _flush(self) -> None:
        """Add up the figures of the samples that wait for it."""
        if not self._waiting:
            return
        buckets, counted, logprobs = zip(*self._waiting, strict=True)
        self._waiting = []
        sequences = self._sequences
        sequences.rates.add([one.mismatch_rate for one in counted])
        sequences.buckets.add(buckets, [[getattr(one, n) for n in CLUSTERED] for one in counted])
        for one in counted:
            if one.rows_mismatched:
                sequences.worst.add(one)
        self._logprobs += LogprobSums.of_samples(logprobs)

    def _count(self, pair: Pair, part: Part) -> RowCounts:
        """Count the rows of a run of a pair's tokens, and their margins."""
        old_TLK, run = pair.old_TLK[part.tokens], part.tokens
        sides = pair.old_margin_TL, pair.new_margin_TL
        old, new = (None if margin_TL is None else margin_TL[run] for margin_TL in sides)
        skip_TL = None if pair.skip_TL is None else pair.skip_TL[run]
        given = old_TLK, pair.new_TLK[run], self._metas[0].num_experts
        mark = any(found is not None for found in (self._detail, old, new))
        rows = self._few.count(*given, skip_TL, mark)
        if rows is None:
            several = max(1, min(threads(), old_TLK.nbytes // _THREAD_BYTES))
            rows = diff_rows(*given, skip_TL=skip_TL, threads=several, mark=mark)
        so_far = self._margins_P.get(part.place)
        self._margins_P[part.place] = tally_margins(so_far, old, new, rows, skip_TL)
        return rows

    def _cover(self, extent: Extent, compared: int) -> None:
        """Count what of a pair was not compared."""
        rows = self._uncovered
        rows["only_old"] += extent.old - compared
        rows["lost_old"] += extent.lost_old
        rows["alone_old"] += extent.alone_old
        if not self._options.part:
            rows["only_new"] += extent.new - compared
            rows["lost_new"] += extent.lost_new
            rows["alone_new"] += extent.alone_new

    def leave(self, sample: Sample, *, is_new: bool) -> None:
        """Count a sample without a partner."""
        rows = self._aligner.rows_alone(sample, is_new=is_new)
        if rows or not self._options.part:
            side = "new" if is_new else "old"
            self._uncovered[f"alone_{side}"] += rows
            self._samples[f"only_{side}"] += 1

    def result(self, part: JoinPart) -> DiffResult:
        """What was added up, of a part of a join."""
        self._flush()
        common, only_old, only_new = self._layers
        return DiffResult(
            old=self._metas[0],
            new=self._metas[1],
            match=dict(sorted(part.by.items())),
            tokens=self._options.tokens,
            layers=common,
            layers_only_old=only_old,
            layers_only_new=only_new,
            samples=SampleCounts(
                old=part.num_old, new=part.num_new, conflicts=part.conflicts, **self._samples
            ),
            counts=self._counts.uncovered(**self._uncovered),
            logprob_sums=self._logprobs,
            sequences=self._sequences,
            first=self._examples,
            margins=reduce(added_margins, self._margins_P.values(), None),
            detail=None if self._detail is None else self._detail.result(self._margins_P),
            each=tuple(self._each),
        )


def diff_part(
    old: Dump,
    new: Dump,
    options: DiffOptions,
    part: JoinPart,
    on_compared: OnCompared | None = None,
    few: Few | None = None,
) -> DiffResult:
    """The result of a part of a join, which may have no row; the others as in DiffTally."""
    tally = DiffTally(old.meta, new.meta, options, on_compared, few)
    old, new = old.layered(), new.layered()
    for i, j in part.pairs:
        tally.add(old[i], new[j], i, old.keys[i])
    for i in part.only_old.tolist():
        tally.leave(old[i], is_new=False)
    for j in [] if options.part else part.only_new.tolist():
        tally.leave(new[j], is_new=True)
    return tally.result(part)
