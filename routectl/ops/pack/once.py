"""Whether each route is on the ranks exactly once, by what rows hold and not by where they are.

Shape suffixes: T tokens, L MoE layers, K top_k, R rows of a rank.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...routes import Routes

__all__ = ["Landed", "Once", "keys_of"]

Ids = NDArray[Any]
Keys = NDArray[np.bytes_]


@dataclass(frozen=True, slots=True)
class Landed:
    """Routes that the ranks should hold; of these absent on all ranks; rows that hold one again."""

    routes: int
    absent: int
    repeated: int


def keys_of(ids_RK: Ids) -> Keys:
    """Rows as bytes, equal where their sets of experts are; those with ids outside uint16 go."""
    top_k = ids_RK.shape[1]
    legal = ids_RK[((ids_RK >= 0) & (ids_RK <= 0xFFFF)).all(axis=1)]
    rows = np.sort(legal, axis=1).astype("<u2", order="C")
    return rows.view(f"S{2 * top_k}").ravel()


def _take(wanted: Keys, needed: NDArray[np.int64], held: Keys, found: NDArray[np.int64]) -> None:
    """Take what is needed of what was found, from both counts."""
    if len(wanted) and len(held):
        _, i, j = np.intersect1d(wanted, held, assume_unique=True, return_indices=True)
        used = np.minimum(needed[i], found[j])
        needed[i] -= used
        found[j] -= used


def _counted(parts: list[Keys]) -> tuple[Keys, NDArray[np.int64]]:
    """Different keys, and how often each is there."""
    if not parts:
        return np.zeros(0, "S1"), np.zeros(0, np.int64)
    keys, counts = np.unique(np.concatenate(parts), return_counts=True)
    return keys, counts.astype(np.int64)


@dataclass(slots=True, eq=False)
class Once:
    """Routes that were not found at their place, and rows found at another's, layer by layer.

    Only these are kept; a route at its place needs no second look. met has, per sample, the routes
    that were found at theirs, bool [T, L]. strays are presented as routes; spare rows may be
    padding, for all that is known: they can be a route that is looked for, and none too many.
    """

    met: dict[int, NDArray[np.bool_]] = field(default_factory=dict)
    unmet: dict[int, list[Keys]] = field(default_factory=dict)
    strays: dict[int, list[Keys]] = field(default_factory=dict)
    spare: dict[int, list[Keys]] = field(default_factory=dict)
    routes: int = 0

    def meet(
        self,
        sample: int,
        held: Routes,
        where: tuple[slice, int],
        there_T: NDArray[np.bool_],
        right: NDArray[np.bool_],
    ) -> NDArray[np.bool_]:
        """Routes at their place: of rows ``where`` those that are there, the right ones of them.

        Returns which of these had been found before.
        """
        met_T = self.met.setdefault(sample, np.zeros(held.ids_TLK.shape[:2], np.bool_))[where]
        again = met_T[there_T] & right
        met_T[there_T] |= right
        return again

    def stray(self, column: int, ids_RK: Ids, *, spare: bool = False) -> None:
        """Rows of a layer that hold something else than their place should; see ``spare``."""
        if len(ids_RK):
            found = self.spare if spare else self.strays
            found.setdefault(column, []).append(keys_of(ids_RK))

    def owe(self, sample: int, held: Routes, stop: int, columns: list[int]) -> None:
        """A sample's routes below position ``stop``, in some layers: the ranks should have them."""
        there = np.ones(held.ids_TLK.shape[:2], np.bool_)
        if held.missing_TL is not None:
            there = ~held.missing_TL
        there[max(stop - held.start, 0) :] = False
        self.routes += int(there[:, columns].sum())
        if sample in self.met:
            there &= ~self.met[sample]
        for column in columns:
            if there[:, column].any():
                keys = keys_of(held.ids_TLK[there[:, column], column])
                self.unmet.setdefault(column, []).append(keys)

    def landed(self, dump: Iterable[Routes | None]) -> Landed:
        """How the routes owed were found; ``dump`` is read where rows are left over."""
        absent, left = 0, dict[int, tuple[Keys, NDArray[np.int64]]]()
        for column in {*self.unmet, *self.strays}:
            wanted, needed = _counted(self.unmet.get(column, []))
            held, found = _counted(self.strays.get(column, []))
            _take(wanted, needed, held, found)
            if needed.any():
                _take(wanted, needed, *_counted(self.spare.get(column, [])))
            absent += int(needed.sum())
            if found.any():
                left[column] = held[found > 0], found[found > 0]
        return Landed(self.routes, absent, _repeated(left, dump) if left else 0)


def _repeated(
    left: dict[int, tuple[Keys, NDArray[np.int64]]], dump: Iterable[Routes | None]
) -> int:
    """How many of the rows that are left hold a route of the dump, which then is there again."""
    known = {column: np.zeros(len(keys), np.bool_) for column, (keys, _) in left.items()}
    for held in dump:
        if held is None:
            continue
        for column, (keys, _) in left.items():
            rows = held.ids_TLK[:, column]
            if held.missing_TL is not None:
                rows = rows[~held.missing_TL[:, column]]
            known[column] |= np.isin(keys, keys_of(rows))
    return sum(int(counts[known[column]].sum()) for column, (_, counts) in left.items())
