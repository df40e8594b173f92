"""The worst sequences of a comparison, kept whole, or cut to the window that is worst.

Shape suffixes: T tokens, L compared layers, K top_k, R mismatched rows, 2 the sides old and new.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ...kernels.rows import RowCounts
from ...margins import Margins
from ...routes import Bools, Ids
from ..pairs.align import Pair

__all__ = ["KEPT_BYTES", "KeptSequence", "kept_sequence"]

Ints = NDArray[np.int64]
KEPT_BYTES = 3 << 20  # of ids and margins, all kept sequences together
_MARGIN_BYTES = 4  # of a mismatched row: a float16 a side


@dataclass(frozen=True, slots=True, eq=False)
class KeptSequence:
    """The compared rows of one sequence, or of its window with most mismatches where it is long.

    index       of its sample in OLD
    tokens      compared positions of the whole sequence
    position    absolute position of the first kept token
    old_TLK     ids of OLD as stored; new_RK those of NEW of the mismatched rows, by token, layer
    differs_TL  True where the sets differ; missing_TL True where a row is on one side only, or None
    margins_2R  float16, margins of the mismatched rows on each side, NaN where one is not known;
                None where the sequence has none
    token_ids   int32 [T], None where neither dump knows them
    rate, mismatched  of the whole sequence: what sequences are ordered by, the worst first
    """

    index: int
    sample: str
    tokens: int
    position: int
    prompt_length: int | None
    old_TLK: Ids = field(repr=False)
    new_RK: Ids = field(repr=False)
    differs_TL: Bools = field(repr=False)
    missing_TL: Bools | None = field(repr=False)
    margins_2R: Margins | None = field(repr=False)
    token_ids: NDArray[np.int32] | None = field(repr=False)
    rate: float
    mismatched: int

    @property
    def rank(self) -> tuple[float, int, str, int]:
        """Ascending from the worst, as in the report's list of worst samples."""
        return -self.rate, -self.mismatched, self.sample, self.index


def _window(costs_T: Ints, values_T: NDArray[np.int32], budget: int) -> slice:
    """The run of tokens of the greatest value whose cost is within the budget; at least one."""
    cost, value = (np.concatenate([[0], np.cumsum(a, dtype=np.int64)]) for a in (costs_T, values_T))
    starts = np.arange(len(costs_T))
    ends = np.searchsorted(cost, cost[:-1] + budget, side="right") - 1
    ends = np.maximum(ends, starts + 1)
    best = int(np.argmax(value[ends] - value[starts]))
    return slice(best, int(ends[best]))


def _margins(pair: Pair, window: slice, differs_TL: Bools) -> Margins | None:
    """The margins of mismatched rows; NaN for a side without."""
    sides = pair.old_margin_TL, pair.new_margin_TL
    if all(side is None for side in sides):
        return None
    found = np.full((2, int(differs_TL.sum())), np.nan, np.float16)
    for of_side, margin_TL in zip(found, sides, strict=True):
        if margin_TL is not None:
            of_side[:] = margin_TL[window][differs_TL]
    return found


def kept_sequence(
    pair: Pair,
    index: int,
    rows: RowCounts,
    budget: int,
    token_ids: NDArray[np.int32] | None,
) -> KeptSequence:
    """A pair's rows, cut to a window of at most ``budget`` bytes of ids, in memory of its own."""
    assert rows.differs_TL is not None
    mismatched = int(rows.differing_T.sum(dtype=np.int64))
    tokens, layers, _ = pair.old_TLK.shape
    row_bytes = pair.old_TLK.itemsize * pair.old_TLK.shape[2]
    unknown = pair.old_margin_TL is None and pair.new_margin_TL is None
    more = row_bytes + (0 if unknown else _MARGIN_BYTES)
    costs_T = layers * row_bytes + rows.differing_T.astype(np.int64) * more
    window = _window(costs_T, rows.differing_T, budget)
    differs_TL = rows.differs_TL[window].copy()
    skip = pair.skip_TL
    return KeptSequence(
        index=index,
        sample=pair.name,
        tokens=tokens,
        position=pair.position + window.start,
        prompt_length=pair.prompt_length,
        old_TLK=pair.old_TLK[window].copy(),
        new_RK=pair.new_TLK[window][differs_TL],
        differs_TL=differs_TL,
        missing_TL=None if skip is None else skip[window].copy(),
        margins_2R=_margins(pair, window, differs_TL),
        token_ids=None if token_ids is None else token_ids[window].copy(),
        rate=mismatched / int(rows.swaps_LS.sum()),
        mismatched=mismatched,
    )
