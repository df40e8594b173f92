"""Filler that repeats the nearest route before it, as AReaL pads.

Sources: AReaL #1496, r3/preprocess.py _nearest_valid_row and r3/layout.py
_pack_routing_to_padded_order: a row without a route is that of the nearest row before it that has
one, a sample's padding is its last row, and what pads the stream the last row of the last sample.
Where no row is before, ids are 0. Shape suffixes: T tokens, L MoE layers, K top_k, N rows.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...layouts.packing import Packing
from ...layouts.ranks import Rank
from ...routes import Routes

__all__ = ["Repeats"]

Ints = NDArray[np.int64]


class Repeats:
    """The filler rows of one rank, written sample by sample.

    Rows that are missing within a sample are written by ``finish``, after the copy of all routes.
    """

    def __init__(
        self, packing: Packing, rank: Rank, ids_LRK: NDArray[Any], columns: list[int]
    ) -> None:
        self._packing, self._ids_LRK, self._columns = packing, ids_LRK, columns
        self._holes: list[tuple[int, Ints, NDArray[Any]]] = []
        self._places: dict[int, list[tuple[Ints, Ints]]] = {}
        for run in packing.places(rank.cp, rank.tp):
            steps = np.arange(run.size)
            place = run.row + run.step * steps, run.position + steps
            self._places.setdefault(run.sample, []).append(place)

    def take(self, sample: int, held: Routes | None) -> None:
        """Write what the filler of a sample repeats; 0 where it has no routes."""
        for rows_N, positions_N in self._places.get(sample, ()):
            stop = 0 if held is None else min(held.stop, self._packing.num_routes(sample))
            if held is None or stop <= held.start:
                self._ids_LRK[:, rows_N] = 0
                continue
            outside_N = (positions_N < held.start) | (positions_N >= stop)
            at_N = np.minimum(positions_N, stop - 1) - held.start
            for i, column in enumerate(self._columns):
                if held.missing_TL is None:
                    self._ids_LRK[i, rows_N[outside_N]] = _rows(held, column, at_N[outside_N])
                    continue
                last_T = np.where(held.missing_TL[:, column], -1, np.arange(held.num_tokens))
                np.maximum.accumulate(last_T, out=last_T)
                from_N = np.where(at_N < 0, -1, last_T[np.maximum(at_N, 0)])
                filler_N = outside_N | (from_N != at_N)
                made = _rows(held, column, from_N[filler_N])
                self._holes.append((i, rows_N[filler_N], made))

    def finish(self) -> None:
        """Write the rows that are missing within samples, over what was copied there."""
        for i, rows_N, made_NK in self._holes:
            self._ids_LRK[i, rows_N] = made_NK


def _rows(held: Routes, column: int, at_N: Ints) -> NDArray[Any]:
    """Rows of a layer, 0 where the index is below 0."""
    made_NK: NDArray[Any] = held.ids_TLK[np.maximum(at_N, 0), column]
    return np.where(at_N[:, None] < 0, 0, made_NK)
