"""One sample's rows as they are compared: sets, what is there, and the ids themselves.

Shape suffixes: T tokens, N some positions, L compared layers, K top_k.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....kernels.align import SetBits, set_bits
from ....kernels.check import Hashes, hash_sets
from ....routes import Bools, Ids, Routes

__all__ = ["MOST_IDS", "Ints", "Side", "differing", "side_of", "unsigned"]

MOST_IDS = 4096  # numbers from here on are no ids

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Side:
    """A sample's rows by position, of the compared layers.

    ids_TLK   the ids; those of the dump may lie beyond num_experts
    there_TL  False where a row is missing
    num_ids   greater than every id of both sides, so that sets of both have the same numbers
    """

    ids_TLK: Ids
    there_TL: Bools
    start: int
    num_ids: int

    @cached_property
    def hash_TL(self) -> Hashes:  # noqa: N802
        """A number of each row's set."""
        return hash_sets(self.ids_TLK, self.num_ids)

    @cached_property
    def bits_TLW(self) -> SetBits:  # noqa: N802
        """Each row's set as bits."""
        return set_bits(self.ids_TLK, self.num_ids)

    @property
    def stop(self) -> int:
        """The position after the last row."""
        return self.start + len(self.ids_TLK)

    def rows_at(self, position_N: Ints) -> tuple[Ints, Bools]:
        """The index of some positions' rows, and whether there is one; 0 where there is none."""
        row_N = position_N - self.start
        inside_N = (row_N >= 0) & (row_N < len(self.ids_TLK))
        return np.where(inside_N, row_N, 0), inside_N

    def layers(self, columns: Ints) -> "Side":
        """Some of the layers, by index."""
        ids_TLK = np.ascontiguousarray(self.ids_TLK[:, columns])
        there_TL = np.ascontiguousarray(self.there_TL[:, columns])
        return Side(ids_TLK, there_TL, self.start, self.num_ids)


def side_of(
    routes: Routes, columns: Ints, num_ids: int, unchecked: tuple[Ids, Bools] | None = None
) -> Side:
    """The compared layers of a sample.

    ``unchecked`` has its ids as they were written, each below num_ids, and the rows [T, L] with an
    id out of range: they are missing in the routes, and there on this side.
    """
    ids: Any = routes.ids_TLK if unchecked is None else unchecked[0]
    there_TL = np.ones(ids.shape[:2], np.bool_)
    if routes.missing_TL is not None:
        there_TL = ~routes.missing_TL if unchecked is None else ~routes.missing_TL | unchecked[1]
    return Side(ids, there_TL, routes.start, num_ids).layers(columns)


def unsigned(ids_TLK: Any) -> Ids:
    """Ids as they were written as numbers from 0 on: a negative one as its bytes without a sign.

    Numbers that are no ids at all are all MOST_IDS.
    """
    wide = ids_TLK.astype(np.int64)
    if wide.size and wide.min() < 0:
        wide = np.where(wide < 0, wide + (256 if wide.min() >= -128 else 65536), wide)
    return np.asarray(np.clip(wide, 0, MOST_IDS), np.uint16)


def differing(dump: Side, reference: Side, here_N: Ints, source_N: Ints) -> tuple[Bools, Bools]:
    """(differs, both there) of the dump's rows at some positions and the reference's at others."""
    ours_N, inside_N = dump.rows_at(here_N)
    theirs_N, also_N = reference.rows_at(source_N)
    both = dump.there_TL[ours_N] & reference.there_TL[theirs_N] & (inside_N & also_N)[:, None]
    return (dump.hash_TL[ours_N] != reference.hash_TL[theirs_N]) & both, both
