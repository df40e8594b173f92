"""What is counted over margins, in one pass.

Shape suffixes: T tokens, L compared layers, B bins, P float16 patterns, 2 the sides old and new.
"""

import numpy as np
from numpy.typing import NDArray

from ..margins import MARGIN_EDGES, PATTERNS, Margins, pattern_of
from ..routes import Bools

__all__ = ["NUM_MARGIN_BINS", "MarginTallies", "count_margins"]

NUM_MARGIN_BINS = len(MARGIN_EDGES) + 1
MarginTallies = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
_BIN_P = np.searchsorted(  # bin of each pattern: 0, then above one edge up to the next
    [pattern_of(edge) for edge in MARGIN_EDGES], np.arange(PATTERNS)
).astype(np.uint8)


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
    from .margin_loop import tally_rows

    none, no_rows = np.zeros((0, 0), np.uint16), np.zeros((0, 0), np.bool_)
    old, new = (
        none if side is None else np.ascontiguousarray(side).view(np.uint16)
        for side in (old_TL, new_TL)
    )
    tally_rows(old, new, differs_TL, no_rows if skip_TL is None else skip_TL, _BIN_P, *tallies)
