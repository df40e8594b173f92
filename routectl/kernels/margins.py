"""The loop over margins: one pass, no Python object inside.

Shape suffixes: T tokens, L compared layers, B bins, P float16 patterns, 2 the sides old and new.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ..margins import MARGIN_EDGES, PATTERNS, Margins, pattern_of
from ..routes import Bools

__all__ = ["NUM_MARGIN_BINS", "MarginTallies", "count_margins"]

NUM_MARGIN_BINS = len(MARGIN_EDGES) + 1
MarginTallies = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
_BIN_P = np.searchsorted(  # bin of each pattern: 0, then above one edge up to the next
    [pattern_of(edge) for edge in MARGIN_EDGES], np.arange(PATTERNS)
).astype(np.uint8)


@njit(nogil=True, cache=True)
def _count(old, new, differs, skip, bin_of, known, lower, rows, flips):  # type: ignore[no-untyped-def]
    infinite = len(bin_of) - 1
    for t in range(differs.shape[0]):
        for layer in range(differs.shape[1]):
            if skip.shape[0] > 0 and skip[t, layer]:
                continue
            a = infinite + 1 if old.shape[0] == 0 else int(old[t, layer])
            b = infinite + 1 if new.shape[0] == 0 else int(new[t, layer])
            least = min(a, b)
            if least > infinite:
                continue
            known[layer] += 1
            if a <= infinite:
                rows[0, layer, bin_of[a]] += 1
            if b <= infinite:
                rows[1, layer, bin_of[b]] += 1
            if differs[t, layer]:
                lower[layer, least] += 1
                if a <= infinite:
                    flips[0, layer, bin_of[a]] += 1
                if b <= infinite:
                    flips[1, layer, bin_of[b]] += 1


def count_margins(
    old_TL: Margins | None,
    new_TL: Margins | None,
    differs_TL: Bools,
    skip_TL: Bools | None,
    tallies: MarginTallies,
) -> None:
    """Add the margins of compared rows to ``tallies``, in place.

    differs_TL marks mismatched rows, skip_TL those left out; a side without margins is None. The
    tallies, int64: known_L, rows with a margin on either side; lower_LP, mismatched rows by the
    float16 pattern of the smaller margin known; rows_2LB and flips_2LB, rows and mismatched rows
    by the bin of each side's own margin.
    """
    none, no_rows = np.zeros((0, 0), np.uint16), np.zeros((0, 0), np.bool_)
    old, new = (
        none if side is None else np.ascontiguousarray(side).view(np.uint16)
        for side in (old_TL, new_TL)
    )
    _count(old, new, differs_TL, no_rows if skip_TL is None else skip_TL, _BIN_P, *tallies)
