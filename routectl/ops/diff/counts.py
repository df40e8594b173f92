"""Counts: everything that is tallied about compared rows; two of them add up.

Shape suffixes: L compared layers, K top_k, S = K + 1, E experts, T tokens, P places, B bins.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...kernels.rows import RowCounts
from ...routes import Bools

__all__ = ["PLACES", "Counts", "SampleCounts", "bin_edges"]

Ints = NDArray[np.int64]
PLACES = ("prompt", "cached", "response")  # cached is the part of the prompt served from a cache
_NUM_BINS = 33  # position 0, then [1, 2), [2, 4), [4, 8), ... up to 2^32; the last takes the rest


def bin_edges(index: int) -> tuple[int, int]:
    """First position of a bin and the one after its last."""
    return (0, 1) if index == 0 else (1 << (index - 1), 1 << index)


def _added(a: Any, b: Any) -> Any:
    if type(a) is not type(b):
        return NotImplemented
    return type(a)(*(getattr(a, f.name) + getattr(b, f.name) for f in fields(a)))


@dataclass(frozen=True, slots=True, eq=False)
class Counts:
    """Tallies over compared rows (present on both sides), int64 arrays.

    swaps_LS, order_L, load_old_LE, load_new_LE as in kernels.RowCounts.
    missing_L     rows inside the common range left out because one side has no route
    depth_N       tokens by the number of their layers that differ, 0..L
    first_L       tokens by the lowest layer that differs
    places_P4     per PLACES: tokens, tokens mismatched, rows, rows mismatched
    bins_B4       the same per bin of absolute position
    only_old, only_new   rows of paired samples that the other side does not cover
    lost_old, lost_new   those of them that nothing leaves out: see ``align.Extent``
    alone_old, alone_new   rows of samples without a partner, and in layers of one side alone
    """

    swaps_LS: Ints
    order_L: Ints
    load_old_LE: Ints
    load_new_LE: Ints
    missing_L: Ints
    depth_N: Ints
    first_L: Ints
    places_P4: Ints
    bins_B4: Ints
    only_old: int = 0
    only_new: int = 0
    lost_old: int = 0
    lost_new: int = 0
    alone_old: int = 0
    alone_new: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return _added(self, other)  # type: ignore[no-any-return]

    def take(self, other: "Counts") -> None:
        """Add the arrays of another, in place: while they are being built."""
        for name in _ARRAYS:
            total = getattr(self, name)
            total += getattr(other, name)

    def uncovered(self, **rows: int) -> "Counts":
        """The same with so many more rows that were not compared, by the names of such tallies."""
        return replace(self, **{name: getattr(self, name) + more for name, more in rows.items()})

    @classmethod
    def empty(cls, num_layers: int, top_k: int, num_experts: int) -> "Counts":
        """All zero, for L layers."""

        def zeros(*shape: int) -> Ints:
            return np.zeros(shape, np.int64)

        layers = num_layers
        return cls(
            zeros(layers, top_k + 1),
            zeros(layers),
            zeros(layers, num_experts),
            zeros(layers, num_experts),
            zeros(layers),
            zeros(layers + 1),
            zeros(layers),
            zeros(len(PLACES), 4),
            zeros(_NUM_BINS, 4),
        )

    @classmethod
    def of_rows(
        cls,
        rows: RowCounts,
        skip_TL: Bools | None,
        positions_T: Ints,
        prompt_T: Ints | int,
        cached_T: Ints | int,
    ) -> "Counts":
        """The tallies of the rows of T tokens, of one sample or of several, end to end.

        Positions below ``prompt_T`` are of the prompt, those below ``cached_T`` too are cached, the
        others are of the response; where ``prompt_T`` is -1 a token has no place.
        """
        tokens, layers = len(rows.differing_T), len(rows.order_L)
        left_out_T = np.zeros(tokens, np.int64) if skip_TL is None else skip_TL.sum(axis=1)
        rows_T = layers - left_out_T
        seen_T = rows_T > 0
        columns = np.stack(
            [seen_T, rows.differing_T > 0, rows_T, rows.differing_T], axis=1, dtype=np.int64
        )
        masks = [
            positions_T < prompt_T,
            positions_T < np.minimum(prompt_T, cached_T),
            positions_T >= prompt_T,
        ]
        known = np.asarray(prompt_T) >= 0
        bin_T = np.frexp(positions_T.astype(np.float64))[1]  # 0 -> 0, 1 -> 1, 2..3 -> 2, ...
        bin_T = np.minimum(bin_T, _NUM_BINS - 1)
        bins = [np.bincount(bin_T, weights=one, minlength=_NUM_BINS) for one in columns.T]
        missing = np.zeros(layers, np.int64) if skip_TL is None else skip_TL.sum(axis=0)
        return cls(
            rows.swaps_LS,
            rows.order_L,
            rows.load_old_LE,
            rows.load_new_LE,
            missing,
            np.bincount(rows.differing_T[seen_T], minlength=layers + 1),
            np.bincount(rows.first_T[rows.first_T >= 0], minlength=layers),
            (np.stack(masks) & known).astype(np.int64) @ columns,
            np.stack(bins, axis=1).astype(np.int64),  # sums below 2**53: exact
        )


_ARRAYS = tuple(one.name for one in fields(Counts) if one.type is not int)


@dataclass(frozen=True, slots=True)
class SampleCounts:
    """Samples: of each side, compared, and left over, with the reasons."""

    old: int = 0
    new: int = 0
    compared: int = 0
    only_old: int = 0
    only_new: int = 0
    conflicts: int = 0
    without_routes: int = 0
    nothing_in_common: int = 0
    starts_inferred: int = 0

    def __add__(self, other: "SampleCounts") -> "SampleCounts":
        return _added(self, other)  # type: ignore[no-any-return]
