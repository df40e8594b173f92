"""Margins of compared rows, counted: they tell flips that rounding explains from those it cannot.

Shape suffixes: L compared layers, B bins, P float16 patterns, 2 the sides old and new.
"""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from ...kernels.margins import NUM_MARGIN_BINS, count_margins
from ...kernels.rows import RowCounts
from ...margins import PATTERNS, Margins, pattern_of
from ...routes import Bools

__all__ = ["Flips", "MarginCounts", "added_margins", "flips_of", "tally_margins"]

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class MarginCounts:
    """Tallies over compared rows with a known margin, int64 arrays, as count_margins gives them.

    known_L     rows with a margin on either side
    lower_LP    mismatched rows by the float16 pattern of the smaller margin known: exact, so that
                eps is chosen when the result is read
    rows_2LB    rows by the bin of the margin of OLD, of NEW; flips_2LB the mismatched ones
    """

    known_L: Ints
    lower_LP: Ints
    rows_2LB: Ints
    flips_2LB: Ints

    @classmethod
    def empty(cls, num_layers: int) -> "MarginCounts":
        """All zero, for L layers."""
        shape = (2, num_layers, NUM_MARGIN_BINS)
        return cls(
            np.zeros(num_layers, np.int64),
            np.zeros((num_layers, PATTERNS), np.int64),
            np.zeros(shape, np.int64),
            np.zeros(shape, np.int64),
        )

    def __add__(self, other: "MarginCounts") -> "MarginCounts":
        return MarginCounts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


def added_margins(a: MarginCounts | None, b: MarginCounts | None) -> MarginCounts | None:
    """The counts of two parts; None stands for a part without margins."""
    if a is None or b is None:
        return a if b is None else b
    return a + b


def tally_margins(
    counts: MarginCounts | None,
    old_TL: Margins | None,
    new_TL: Margins | None,
    rows: RowCounts,
    skip_TL: Bools | None,
) -> MarginCounts | None:
    """The counts with one more pair of samples in them, added in place; None while none has any."""
    if old_TL is None and new_TL is None:
        return counts
    assert rows.differs_TL is not None
    counts = MarginCounts.empty(len(rows.order_L)) if counts is None else counts
    tallies = (counts.known_L, counts.lower_LP, counts.rows_2LB, counts.flips_2LB)
    count_margins(old_TL, new_TL, rows.differs_TL, skip_TL, tallies)
    return counts


@dataclass(frozen=True, slots=True)
class Flips:
    """Mismatched rows by how near they were to a tie; ``rows`` is all rows with a known margin.

    A row's margin is the smaller of those known. ties: 0; near: above 0 up to eps; clear: above.
    lower_P are the mismatched rows by the pattern of that margin, behind quantile.
    """

    rows: int
    ties: int
    near: int
    clear: int
    lower_P: Ints

    @property
    def mismatched(self) -> int:
        """Mismatched rows whose margin is known."""
        return self.ties + self.near + self.clear

    def quantile(self, q: float) -> float | None:
        """The least margin that a share ``q`` of the mismatched rows does not exceed."""
        if not self.mismatched:
            return None
        wanted = max(1, int(np.ceil(q * self.mismatched)))
        pattern = int(np.searchsorted(np.cumsum(self.lower_P), wanted))
        return float(np.array(pattern, np.uint16).view(np.float16))


def flips_of(counts: MarginCounts, eps: float, layer: int | None = None) -> Flips:
    """The mismatched rows of one layer, by its index, or of all, split at ``eps``.

    Raises ValueError when eps is negative or not finite.
    """
    which = slice(None) if layer is None else slice(layer, layer + 1)
    lower_P = counts.lower_LP[which].sum(axis=0)
    end = pattern_of(eps) + 1
    return Flips(
        rows=int(counts.known_L[which].sum()),
        ties=int(lower_P[0]),
        near=int(lower_P[1:end].sum()),
        clear=int(lower_P[max(end, 1) :].sum()),
        lower_P=lower_P,
    )
