"""What a report shows of a comparison beside its figures: first mismatched rows, and for a page
where rows differ, and the worst sequences whole.

Everything is bounded, whatever the dumps hold: BINS of positions, KEPT_BYTES of ids.
Shape suffixes: T tokens, L compared layers, K top_k, P places, B bins of positions, N = L + 1
numbers of differing layers, R mismatched rows.
"""

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...kernels.rows import RowCounts, count_marks
from ...margins import Margins
from ...routes import Bools, Ids
from ..pairs.align import Pair

__all__ = [
    "BINS",
    "DETAIL_PLACES",
    "Detail",
    "DetailTally",
    "Example",
    "KeptSequence",
    "added_detail",
    "first_mismatches",
]

Ints = NDArray[np.int64]
DETAIL_PLACES = ("prompt", "response", "unknown")
BINS = 128
KEPT_BYTES = 4 << 20


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


def _known(margin_TL: Margins | None, t: Any, index: int) -> float | None:
    margin = np.nan if margin_TL is None else float(margin_TL[t, index])
    return None if np.isnan(margin) else margin


def first_mismatches(
    pair: Pair, rows: RowCounts, layers: Sequence[int], limit: int
) -> list[Example]:
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


@dataclass(frozen=True, slots=True, eq=False)
class KeptSequence:
    """The compared rows of one sequence, or of its window with most mismatches where it is long.

    tokens      compared positions of the whole sequence
    position    absolute position of the first kept token
    old_TLK     ids of OLD as stored; new_RK those of NEW of the mismatched rows, by token, layer
    differs_TL  True where the sets differ; missing_TL True where a row is on one side only, or None
    token_ids   int32 [T], None where neither dump knows them
    rate, mismatched  of the whole sequence: what sequences are ordered by, the worst first
    """

    sample: str
    tokens: int
    position: int
    prompt_length: int | None
    old_TLK: Ids = field(repr=False)
    new_RK: Ids = field(repr=False)
    differs_TL: Bools = field(repr=False)
    missing_TL: Bools | None = field(repr=False)
    token_ids: NDArray[np.int32] | None = field(repr=False)
    rate: float
    mismatched: int

    @property
    def rank(self) -> tuple[float, int, str]:
        """Ascending from the worst, as in the report's list of worst samples."""
        return -self.rate, -self.mismatched, self.sample


@dataclass(frozen=True, slots=True, eq=False)
class Detail:
    """Tallies by place, layer and bin of position; bin b begins at position b * width.

    rows_PLB, mismatched_PLB   compared rows and those whose sets differ, int64
    depth_PN                   tokens by the number of their layers that differ, int64
    worst                      at most ``limit`` sequences, the worst first
    """

    width: int
    rows_PLB: Ints
    mismatched_PLB: Ints
    depth_PN: Ints
    worst: tuple[KeptSequence, ...]
    limit: int

    def widened(self, width: int) -> "Detail":
        """The same with bins of another width, a power of two times the own."""
        found = self
        while found.width < width:
            found = replace(
                found,
                width=2 * found.width,
                rows_PLB=_paired(found.rows_PLB),
                mismatched_PLB=_paired(found.mismatched_PLB),
            )
        return found


def added_detail(a: Detail | None, b: Detail | None) -> Detail | None:
    """The detail of two parts; None where a part has none: it would be of some samples only."""
    if a is None or b is None:
        return None
    a, b = a.widened(b.width), b.widened(a.width)
    worst = sorted([*a.worst, *b.worst], key=lambda s: s.rank)[: a.limit]
    return replace(
        a,
        rows_PLB=a.rows_PLB + b.rows_PLB,
        mismatched_PLB=a.mismatched_PLB + b.mismatched_PLB,
        depth_PN=a.depth_PN + b.depth_PN,
        worst=tuple(worst),
    )


def _paired(counts_PLB: Ints) -> Ints:
    """Neighbouring bins added up; the upper half of the bins is empty then."""
    halved = counts_PLB[..., 0::2] + counts_PLB[..., 1::2]
    return np.concatenate([halved, np.zeros_like(halved)], axis=-1)


def _places(pair: Pair, tokens: int) -> Iterator[tuple[int, int, int]]:
    """Which place the tokens of a pair are of: its index, first token, one after the last."""
    if pair.prompt_length is None:
        yield 2, 0, tokens
        return
    split = min(max(pair.prompt_length - pair.position, 0), tokens)
    yield 0, 0, split
    yield 1, split, tokens


class DetailTally:
    """Adds up pair after pair; memory is that of BINS and of ``limit`` kept sequences."""

    def __init__(self, num_layers: int, limit: int) -> None:
        places = len(DETAIL_PLACES)
        grid = np.zeros((places, num_layers, BINS), np.int64)
        depth = np.zeros((places, num_layers + 1), np.int64)
        self._detail = Detail(1, grid, grid.copy(), depth, (), limit)
        self._worst: list[KeptSequence] = []

    def result(self) -> Detail:
        """What was added up."""
        return replace(self._detail, worst=tuple(self._worst))

    def add(self, pair: Pair, rows: RowCounts, token_ids: NDArray[np.int32] | None) -> None:
        """Add the compared rows of one pair; ``rows`` with its marks."""
        assert rows.differs_TL is not None
        tokens = len(rows.differing_T)
        width = self._detail.width
        while pair.position + tokens > width * BINS:
            width *= 2
        self._detail = detail = self._detail.widened(width)
        skip = pair.skip_TL
        seen_T = np.ones(tokens, np.bool_)
        if skip is not None:
            seen_T = np.logical_not(skip.all(axis=1))
        for place, lo, hi in _places(pair, tokens):
            if lo == hi:
                continue
            first = pair.position + lo
            bins = slice(first // width, (first + hi - lo - 1) // width + 1)
            starts = np.maximum(np.arange(bins.start, bins.stop) * width - first, 0)
            detail.rows_PLB[place][:, bins] += np.diff(starts, append=hi - lo)
            if skip is not None:
                detail.rows_PLB[place][:, bins] -= count_marks(skip[lo:hi], starts)
            detail.mismatched_PLB[place][:, bins] += count_marks(rows.differs_TL[lo:hi], starts)
            differing = rows.differing_T[lo:hi][seen_T[lo:hi]]
            detail.depth_PN[place] += np.bincount(differing, minlength=detail.depth_PN.shape[1])
        compared = rows.differs_TL.size - (0 if skip is None else int(skip.sum()))
        self._keep(pair, rows, compared, token_ids)

    def _keep(
        self, pair: Pair, rows: RowCounts, compared: int, token_ids: NDArray[np.int32] | None
    ) -> None:
        """Keep the sequence where it is one of the worst so far."""
        mismatched = int(rows.differing_T.sum(dtype=np.int64))
        rank = (-mismatched / compared, -mismatched, pair.name)
        limit = self._detail.limit
        full = len(self._worst) >= limit
        if not mismatched or limit == 0 or (full and rank >= self._worst[-1].rank):
            return
        kept = _kept(pair, rows, KEPT_BYTES // limit, token_ids)
        bisect.insort(self._worst, replace(kept, rate=-rank[0]), key=lambda s: s.rank)
        del self._worst[limit:]


def _window(costs_T: Ints, values_T: NDArray[np.int32], budget: int) -> slice:
    """The run of tokens of the greatest value whose cost is within the budget; at least one."""
    cost, value = (np.concatenate([[0], np.cumsum(a, dtype=np.int64)]) for a in (costs_T, values_T))
    starts = np.arange(len(costs_T))
    ends = np.searchsorted(cost, cost[:-1] + budget, side="right") - 1
    ends = np.maximum(ends, starts + 1)
    best = int(np.argmax(value[ends] - value[starts]))
    return slice(best, int(ends[best]))


def _kept(
    pair: Pair, rows: RowCounts, budget: int, token_ids: NDArray[np.int32] | None
) -> KeptSequence:
    """A pair's rows, cut to a window of at most ``budget`` bytes of ids, in memory of its own."""
    assert rows.differs_TL is not None
    tokens, layers, _ = pair.old_TLK.shape
    row_bytes = pair.old_TLK.itemsize * pair.old_TLK.shape[2]
    costs_T = (layers + rows.differing_T.astype(np.int64)) * row_bytes
    window = _window(costs_T, rows.differing_T, budget)
    differs_TL = rows.differs_TL[window].copy()
    skip = pair.skip_TL
    return KeptSequence(
        sample=pair.name,
        tokens=tokens,
        position=pair.position + window.start,
        prompt_length=pair.prompt_length,
        old_TLK=pair.old_TLK[window].copy(),
        new_RK=pair.new_TLK[window][differs_TL],
        differs_TL=differs_TL,
        missing_TL=None if skip is None else skip[window].copy(),
        token_ids=None if token_ids is None else token_ids[window].copy(),
        rate=0.0,
        mismatched=int(rows.differing_T.sum(dtype=np.int64)),
    )
