"""Pairs of samples compared one after another, and added up.

Shape suffixes: T tokens, G response tokens, L compared layers, K top_k.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from ...columns.samples import SampleColumns
from ...dump import DumpMeta, Keys, Sample, SampleKey
from ...kernels.rows import RowCounts, added_rows, diff_rows
from ...kernels.threads import threads
from ...routes import Bools, Ids
from ..adding.least import First
from ..adding.resampled import bucket_of_sample, buckets_of_samples
from ..pairs.align import Aligner, Extent, Pair, common_layers, name_at, name_of
from ..pairs.logprobs import laid_logprobs
from ..pairs.parts import JoinPart
from .counts import Counts, SampleCounts
from .detail import DetailTally, Example, Part, first_mismatches, place_parts
from .few import Few
from .flips import MarginCounts, added_margins, tally_margins
from .logprobs import LogprobCounts, LogprobSums
from .options import DiffOptions
from .result import CLUSTERED, ComparedSample, DiffResult, SequenceCount, Sequences
from .together import Ints, Together, compare_together, rows_alone

__all__ = ["DiffTally", "OnCompared"]

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
    return LogprobCounts.of_sides(*laid)


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
    MismatchError for dumps that cannot be laid side by side.
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
        positions_T = pair.position + np.arange(len(pair.old_TLK))
        prompt = -1 if pair.prompt_length is None else pair.prompt_length
        counts = Counts.of_rows(rows, pair.skip_TL, positions_T, prompt, pair.cached)
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
        self._show(pair, index, rows)

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
        mark = any(found is not None for found in (self._detail, old, new))
        rows = self._rows(old_TLK, pair.new_TLK[run], skip_TL, mark=mark)
        so_far = self._margins_P.get(part.place)
        self._margins_P[part.place] = tally_margins(so_far, old, new, rows, skip_TL)
        return rows

    def _rows(
        self, old_TLK: Ids, new_TLK: Ids, skip_TL: Bools | None = None, *, mark: bool = False
    ) -> RowCounts:
        """Count rows: the first ones without compiled loops."""
        given = old_TLK, new_TLK, self._metas[0].num_experts
        rows = self._few.count(*given, skip_TL, mark)
        if rows is not None:
            return rows
        several = max(1, min(threads(), old_TLK.nbytes // _THREAD_BYTES))
        return diff_rows(*given, skip_TL=skip_TL, threads=several, mark=mark)

    @property
    def together(self) -> bool:
        """Whether pairs may be added many at a time: where nothing is told of single ones."""
        return self._detail is None and self._on_compared is None and not self._options.each

    def add_together(
        self,
        sides: tuple[SampleColumns, SampleColumns],
        places: tuple[Ints, Ints],
        keys: Keys,
        pair_of: Callable[[int, int], tuple[Sample, Sample]],
    ) -> Bools:
        """Compare pairs of samples at some places of OLD's columns and NEW's, ascending in OLD's.

        keys are those of OLD's columns; ``pair_of`` reads two samples by their indices. Returns
        which pairs were compared, bool [P]: the others are to be added one by one.
        """
        found = compare_together(self._aligner, sides, places, self._rows)
        if found is None:
            return np.zeros(len(places[0]), np.bool_)
        self._counts.take(found.counts)
        self._samples["starts_inferred"] += found.inferred
        rows = self._uncovered
        rows["alone_old"] += found.alone_old
        rows["alone_new"] += 0 if self._options.part else found.alone_new
        compared_D = found.tokens_D > 0
        self._samples["compared"] += int(compared_D.sum())
        self._samples["nothing_in_common"] += int((~compared_D).sum())
        at_D, with_D = (at_P[found.done_P] for at_P in places)
        self._tell_together(found, compared_D, at_D, sides[0], keys)
        ends_D = np.cumsum(found.tokens_D)
        for n in np.flatnonzero(found.rows_mismatched_D).tolist():
            i, j = sides[0].first + int(at_D[n]), sides[1].first + int(with_D[n])
            if not self._examples.takes((i,)):
                break
            run = slice(int(ends_D[n] - found.tokens_D[n]), int(ends_D[n]))
            differing_T, first_T = found.rows.differing_T[run], found.rows.first_T[run]
            of_pair = replace(found.rows, differing_T=differing_T, first_T=first_T)
            old, new = pair_of(i, j)
            self._show(self._aligner.pair(old, new, name_of(old, i)), i, of_pair)
        return found.done_P

    def _tell_together(
        self,
        found: Together,
        compared_D: Bools,
        at_D: Ints,
        old: SampleColumns,
        keys: Keys,
    ) -> None:
        """Count compared samples, each as one."""
        layers, sequences = len(self._layers[0]), self._sequences
        columns = found.rows_mismatched_D, layers * found.tokens_D
        figures = np.stack([*columns, found.tokens_mismatched_D, found.tokens_D], axis=1)
        figures, at_D = figures[compared_D], at_D[compared_D]
        rates = figures[:, 0] / figures[:, 1]
        sequences.rates.add(rates)
        first = old.first
        buckets = buckets_of_samples(keys, at_D.tolist(), first)
        sequences.buckets.add(buckets, figures)
        last = sequences.worst.items[-1:]
        low = (
            last[0].mismatch_rate if len(sequences.worst) == self._options.examples and last else 0
        )
        for n in np.flatnonzero((figures[:, 0] > 0) & (rates >= low)).tolist():
            at, (mismatched, size, tokens_mismatched, tokens) = int(at_D[n]), figures[n].tolist()
            name = name_at(old, at)
            sequences.worst.add(
                SequenceCount(first + at, name, tokens, tokens_mismatched, size, mismatched)
            )

    def _show(self, pair: Pair, index: int, rows: RowCounts) -> None:
        """Keep the first mismatched rows of a pair, of whose tokens ``rows`` are."""
        if self._examples.takes((index,)):
            limit = self._options.examples
            found = first_mismatches(pair, index, rows, self._layers[0], limit)
            self._examples += First(limit, tuple(found))

    def leave_together(self, side: SampleColumns, places: Ints, *, is_new: bool) -> None:
        """Count samples of one side's columns, at some places, that have no partner."""
        rows_P = rows_alone(self._aligner, side, places, is_new=is_new)
        name = "new" if is_new else "old"
        self._uncovered[f"alone_{name}"] += int(rows_P.sum())
        left = int((rows_P > 0).sum()) if self._options.part else len(rows_P)
        self._samples[f"only_{name}"] += left

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
