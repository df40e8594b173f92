"""What a report shows of a comparison beside its figures: first mismatched rows, and for a page
where rows differ, and the worst sequences whole.

Everything is bounded, whatever the dumps hold: BINS of positions, LISTED samples, KEPT_BYTES of
ids. Shape suffixes: T tokens, L compared layers, S = K + 1 numbers of swapped ids, E experts, P
places, B bins of positions, N = L + 1 numbers of differing layers.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...kernels.rows import RowCounts, count_marks
from ...margins import Margins
from ..adding.least import Worst
from ..pairs.align import Pair
from .flips import MarginCounts, added_margins
from .kept import KEPT_BYTES, KeptSequence, kept_sequence

__all__ = [
    "BINS",
    "DETAIL_PLACES",
    "LISTED",
    "Detail",
    "DetailTally",
    "Example",
    "ListedSample",
    "Part",
    "added_detail",
    "first_mismatches",
    "place_parts",
]

Ints = NDArray[np.int64]
DETAIL_PLACES = ("prompt", "response", "unknown")
BINS = 128
LISTED = 2000


@dataclass(frozen=True, slots=True)
class Example:
    """One mismatched row: where, the two id sets (sorted), and each side's margin where known.

    index is the sample's in OLD, as a whole.
    """

    index: int
    sample: str
    position: int
    layer: int
    old: tuple[int, ...]
    new: tuple[int, ...]
    margin_old: float | None = None
    margin_new: float | None = None

    @property
    def place(self) -> tuple[int, str, int, int]:
        """Ascending from the first; of several dumps added up, those of one index are by name."""
        return self.index, self.sample, self.position, self.layer


def _known(margin_TL: Margins | None, t: Any, index: int) -> float | None:
    margin = np.nan if margin_TL is None else float(margin_TL[t, index])
    return None if np.isnan(margin) else margin


def first_mismatches(
    pair: Pair, index: int, rows: RowCounts, layers: Sequence[int], limit: int
) -> list[Example]:
    """The first mismatched rows of a pair, by position, then layer; index is that in OLD."""
    found: list[Example] = []
    for t in np.flatnonzero(rows.differing_T):
        for at in range(int(rows.first_T[t]), len(layers)):
            if pair.skip_TL is not None and pair.skip_TL[t, at]:
                continue
            old = set(pair.old_TLK[t, at].tolist())
            new = set(pair.new_TLK[t, at].tolist())
            if old != new:
                where = (index, pair.name, pair.position + int(t), layers[at])
                margins = (_known(m, t, at) for m in (pair.old_margin_TL, pair.new_margin_TL))
                found.append(Example(*where, tuple(sorted(old)), tuple(sorted(new)), *margins))
                if len(found) >= limit:
                    return found
    return found


@dataclass(frozen=True, slots=True)
class Part:
    """A run of a pair's tokens that are of one place, by its index in DETAIL_PLACES."""

    place: int
    tokens: slice


def place_parts(pair: Pair) -> tuple[Part, ...]:
    """A pair's tokens by place, in their order; at least one part."""
    tokens = len(pair.old_TLK)
    if pair.prompt_length is None:
        return (Part(2, slice(0, tokens)),)
    split = min(max(pair.prompt_length - pair.position, 0), tokens)
    parts = Part(0, slice(0, split)), Part(1, slice(split, tokens))
    return tuple(p for p in parts if p.tokens.stop > p.tokens.start) or parts[1:]


@dataclass(frozen=True, slots=True, eq=False)
class ListedSample:
    """What one compared sample adds up to by place and layer; int32. index is that in OLD.

    tokens_P, tokens_mismatched_P   tokens with a compared row, and with a mismatched one
    rows_PL, mismatched_PL          compared rows, and those whose sets differ
    """

    index: int
    sample: str
    tokens_P: NDArray[np.int32]
    tokens_mismatched_P: NDArray[np.int32]
    rows_PL: NDArray[np.int32]
    mismatched_PL: NDArray[np.int32]

    @property
    def rank(self) -> tuple[float, int, str, int]:
        """Ascending from the worst, as in the report's list of worst samples."""
        rows, mismatched = int(self.rows_PL.sum()), int(self.mismatched_PL.sum())
        return -mismatched / rows, -mismatched, self.sample, self.index


@dataclass(frozen=True, slots=True, eq=False)
class Detail:
    """Tallies by place, layer and bin of position; bin b begins at position b * width.

    rows_PLB, mismatched_PLB   compared rows and those whose sets differ, int64
    depth_PN                   tokens by the number of their layers that differ, int64
    swaps_PLS                  rows by how many ids differ, int64
    load_old_PLE, load_new_PLE how often each expert was taken, int64
    margins                    per place, None where no row of it has any
    samples                    at most LISTED samples
    worst                      at most as many sequences as a report lists
    """

    width: int
    rows_PLB: Ints
    mismatched_PLB: Ints
    depth_PN: Ints
    swaps_PLS: Ints
    load_old_PLE: Ints
    load_new_PLE: Ints
    margins: tuple[MarginCounts | None, ...]
    samples: Worst[ListedSample]
    worst: Worst[KeptSequence]

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


_TALLIES = (
    "rows_PLB",
    "mismatched_PLB",
    "depth_PN",
    "swaps_PLS",
    "load_old_PLE",
    "load_new_PLE",
)


def added_detail(a: Detail | None, b: Detail | None) -> Detail | None:
    """The detail of two parts; None where a part has none: it would be of some samples only."""
    if a is None or b is None:
        return None
    a, b = a.widened(b.width), b.widened(a.width)
    return replace(
        a,
        **{name: getattr(a, name) + getattr(b, name) for name in _TALLIES},
        margins=tuple(map(added_margins, a.margins, b.margins)),
        samples=a.samples + b.samples,
        worst=a.worst + b.worst,
    )


def _paired(counts_PLB: Ints) -> Ints:
    """Neighbouring bins added up; the upper half of the bins is empty then."""
    halved = counts_PLB[..., 0::2] + counts_PLB[..., 1::2]
    return np.concatenate([halved, np.zeros_like(halved)], axis=-1)


class DetailTally:
    """Adds up pair after pair; memory is that of BINS, of LISTED and of ``limit`` sequences."""

    def __init__(self, num_layers: int, top_k: int, num_experts: int, limit: int) -> None:
        def zeros(*shape: int) -> Ints:
            return np.zeros((len(DETAIL_PLACES), *shape), np.int64)

        self._detail = Detail(
            1,
            zeros(num_layers, BINS),
            zeros(num_layers, BINS),
            zeros(num_layers + 1),
            zeros(num_layers, top_k + 1),
            zeros(num_layers, num_experts),
            zeros(num_layers, num_experts),
            (),
            Worst(LISTED),
            Worst(limit),
        )

    def result(self, margins: Mapping[int, MarginCounts | None]) -> Detail:
        """What was added up, with the margins by place."""
        places = range(len(DETAIL_PLACES))
        return replace(self._detail, margins=tuple(map(margins.get, places)))

    def add(
        self,
        pair: Pair,
        index: int,
        counted: Iterable[tuple[Part, RowCounts]],
        whole: RowCounts,
        token_ids: NDArray[np.int32] | None,
    ) -> None:
        """Add the compared rows of one pair, counted by place and as a whole, with marks.

        index is that of its sample in OLD.
        """
        width = self._detail.width
        while pair.position + len(pair.old_TLK) > width * BINS:
            width *= 2
        self._detail = self._detail.widened(width)
        places, layers = len(DETAIL_PLACES), pair.old_TLK.shape[1]
        tokens = np.zeros((2, places), np.int32)
        rows = np.zeros((2, places, layers), np.int32)
        for part, found in counted:
            self._add(pair, part, found)
            swaps_LS, compared_T = found.swaps_LS, _compared(pair, part)
            tokens[:, part.place] = compared_T.sum(), (found.differing_T > 0).sum()
            rows[:, part.place] = swaps_LS.sum(axis=1), swaps_LS[:, 1:].sum(axis=1)
        listed = ListedSample(index, pair.name, *tokens, *rows)
        self._detail.samples.add(listed)
        self._keep(pair, whole, listed, token_ids)

    def _add(self, pair: Pair, part: Part, rows: RowCounts) -> None:
        """Add the rows of one place."""
        assert rows.differs_TL is not None
        detail, place, width = self._detail, part.place, self._detail.width
        first, count = pair.position + part.tokens.start, len(rows.differing_T)
        if not count:
            return
        bins = slice(first // width, (first + count - 1) // width + 1)
        starts = np.maximum(np.arange(bins.start, bins.stop) * width - first, 0)
        detail.rows_PLB[place][:, bins] += np.diff(starts, append=count)
        if pair.skip_TL is not None:
            detail.rows_PLB[place][:, bins] -= count_marks(pair.skip_TL[part.tokens], starts)
        detail.mismatched_PLB[place][:, bins] += count_marks(rows.differs_TL, starts)
        differing = rows.differing_T[_compared(pair, part)]
        detail.depth_PN[place] += np.bincount(differing, minlength=detail.depth_PN.shape[1])
        detail.swaps_PLS[place] += rows.swaps_LS
        detail.load_old_PLE[place] += rows.load_old_LE
        detail.load_new_PLE[place] += rows.load_new_LE

    def _keep(
        self,
        pair: Pair,
        rows: RowCounts,
        listed: ListedSample,
        token_ids: NDArray[np.int32] | None,
    ) -> None:
        """Keep the sequence where it is one of the worst so far."""
        worst, rank = self._detail.worst, listed.rank
        if listed.mismatched_PL.any() and worst.takes(rank):
            budget = KEPT_BYTES // worst.limit
            worst.add(kept_sequence(pair, listed.index, rows, budget, token_ids))


def _compared(pair: Pair, part: Part) -> NDArray[np.bool_]:
    """Which tokens of a part have a compared row."""
    if pair.skip_TL is None:
        return np.ones(part.tokens.stop - part.tokens.start, np.bool_)
    return np.logical_not(pair.skip_TL[part.tokens].all(axis=1))
