"""What the rows of a micro-batch should hold, looked up by sample and position.

Shape suffixes: R rows of a rank, K top_k.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...routes import Routes

__all__ = ["Truth"]

Ids = NDArray[Any]


class Truth:
    """One layer's routes of all samples end to end, as sorted rows; some may be missing."""

    def __init__(self, routes: Sequence[Routes | None], column: int, top_k: int) -> None:
        parts = [
            np.zeros((0, top_k), np.int64) if held is None else held.ids_TLK[:, column]
            for held in routes
        ]
        self.rows = np.sort(np.concatenate(parts), axis=1)
        holes = [
            np.zeros(len(part), np.bool_)
            if held is None or held.missing_TL is None
            else held.missing_TL[:, column]
            for held, part in zip(routes, parts, strict=True)
        ]
        self.there = ~np.concatenate(holes)
        self.ends = np.cumsum([len(part) for part in parts])
        self.begins = self.ends - [len(part) for part in parts]
        self.starts = np.array([0 if held is None else held.start for held in routes])

    def rate(self, table_R2: NDArray[np.int64], sorted_RK: Ids, shift: int) -> tuple[int, int]:
        """Rows that hold the route which the table says, and rows that should hold one.

        table_R2 is (sample, position) of each row, -1 -1 for padding; ids are sorted.
        """
        sample, position = table_R2.T
        index = self.begins[sample] + position + shift - self.starts[sample]
        inside = (sample >= 0) & (index >= self.begins[sample]) & (index < self.ends[sample])
        inside[inside] = self.there[index[inside]]
        equal = (self.rows[index[inside]] == sorted_RK[inside]).all(axis=1)
        return int(equal.sum()), len(equal)
