"""Where rows differ by layer and position, read off a document for the terminal's pictures.

Shape suffixes: L layers, B bins of positions as counted, C columns as drawn.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Cells", "Rates", "cells_of"]

Ints = NDArray[np.int64]
Rates = NDArray[np.float64]
_FULL = 2  # a cell with half of the usual rows has a say in the scale


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """Compared and mismatched rows of each layer by position; bin b begins at b * bin_width."""

    layers: tuple[int, ...]
    bin_width: int
    rows_LB: Ints
    mismatched_LB: Ints

    @property
    def num_bins(self) -> int:
        """Bins up to the last one with rows."""
        return int(self.rows_LB.shape[1])

    def together(self, groups: int) -> "Cells":
        """Neighbouring layers added up, ``groups`` of them to one, named by their first."""
        starts = np.arange(0, len(self.layers), groups)
        rows, mismatched = (
            np.add.reduceat(counts, starts, axis=0) for counts in (self.rows_LB, self.mismatched_LB)
        )
        return replace(self, layers=self.layers[::groups], rows_LB=rows, mismatched_LB=mismatched)

    def drawn(self, columns: int) -> tuple[Rates, float]:
        """Mismatch rates [L, C] of so many columns, nan without rows; and the top of their scale.

        Columns take as many bins as they must; where there are more columns than bins, neighbours
        show the same. The top is the greatest rate of a cell that has its share of rows: of a few
        rows any rate may come.
        """
        edges = np.arange(columns + 1) * self.num_bins // columns
        stops = np.maximum(edges[1:], edges[:-1] + 1)
        sums = []
        for counts_LB in (self.rows_LB, self.mismatched_LB):
            upto = np.pad(np.cumsum(counts_LB, axis=1), ((0, 0), (1, 0)))
            sums.append(upto[:, stops] - upto[:, edges[:-1]])
        rows_LC, mismatched_LC = sums
        rates_LC = np.full(rows_LC.shape, np.nan)
        np.divide(mismatched_LC, rows_LC, out=rates_LC, where=rows_LC > 0)
        seen = rows_LC[rows_LC > 0]
        heavy = rows_LC * _FULL >= (np.median(seen) if len(seen) else 0)
        top = np.max(rates_LC, where=heavy & (rows_LC > 0), initial=0.0)
        return rates_LC, float(top or np.nanmax(rates_LC, initial=0.0))


def cells_of(doc: Mapping[str, Any]) -> Cells | None:
    """The cells of a comparison, places added up.

    None where the document has no detail of places, where nothing differs, or where the detail of
    a saved document is damaged: its figures are shown without pictures.
    """
    detail: Any = doc.get("detail") or {}
    layers = tuple(layer["layer"] for layer in doc["layers"])
    try:
        names = ("rows", "rows_mismatched")
        places = [[place[name] for place in detail["places"]] for name in names]
        counts_2LB = np.asarray(places, np.int64).sum(axis=1)
        bin_width = int(detail["bin_width"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    if counts_2LB.ndim != 3 or counts_2LB.shape[1] != len(layers) or not counts_2LB[1].any():
        return None
    if counts_2LB.min() < 0:
        return None
    return Cells(layers, bin_width, counts_2LB[0], counts_2LB[1])
