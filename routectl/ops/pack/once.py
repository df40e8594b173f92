"""Whether each route is on the ranks exactly once, by what rows hold and not by where they are.

Rows are known by 64 bits of their sets: two different ones are one with a chance of 2^-64.

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
Keys = NDArray[np.uint64]
_MIX = np.uint64(0x9E3779B97F4A7C15)
_MOST = 1 << 15  # different rows of a layer
_UNMET, _STRAY, _SPARE = range(3)  # routes that were looked for, rows as routes, rows as filler
_KINDS = 3


@dataclass(frozen=True, slots=True)
class Landed:
    """Routes that the ranks should hold; of these absent on all ranks; rows that hold one again.

    The last two are estimates where a layer has more than 32,768 different rows out of place.
    """

    routes: int
    absent: int
    repeated: int


def keys_of(ids_RK: Ids) -> Keys:
    """A number of each row, equal where sets of experts are; rows with ids outside uint16 go."""
    legal = ids_RK[((ids_RK >= 0) & (ids_RK <= 0xFFFF)).all(axis=1)]
    rows = np.sort(legal, axis=1).astype(np.uint64)
    keys = np.full(len(rows), rows.shape[1], np.uint64)
    for k in range(rows.shape[1]):
        keys = (keys ^ rows[:, k]) * _MIX
        keys ^= keys >> np.uint64(29)
    return keys


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """Rows of a layer that are not where they should be, by number: how often each is of a kind.

    Of more different ones than are kept those with the least numbers are, which are a sample of
    all; over counts the others, by kind.
    """

    keys: Keys
    counts: NDArray[np.int64]
    over: NDArray[np.int64]

    @classmethod
    def of(cls, keys: Keys, kind: int) -> "_Table":
        """Rows of one kind."""
        found, counts = np.unique(keys, return_counts=True)
        by_kind = np.zeros((len(found), _KINDS), np.int64)
        by_kind[:, kind] = counts
        return cls(found, by_kind, np.zeros(_KINDS, np.int64))._bounded()

    def _bounded(self) -> "_Table":
        if len(self.keys) <= _MOST:
            return self
        over = self.over + self.counts[_MOST:].sum(axis=0)
        return _Table(self.keys[:_MOST].copy(), self.counts[:_MOST].copy(), over)

    def __add__(self, other: "_Table") -> "_Table":
        keys, at = np.unique(np.concatenate([self.keys, other.keys]), return_inverse=True)
        counts = np.zeros((len(keys), _KINDS), np.int64)
        np.add.at(counts, at[: len(self.keys)], self.counts)
        np.add.at(counts, at[len(self.keys) :], other.counts)
        return _Table(keys, counts, self.over + other.over)._bounded()

    def whole(self, part: int, kind: int) -> int:
        """What a count of kept rows of a kind is for all of them: exact where all are kept."""
        kept, over = int(self.counts[:, kind].sum()), int(self.over[kind])
        return part if not over or not kept else part + (2 * part * over + kept) // (2 * kept)


@dataclass(slots=True, eq=False)
class Once:
    """Routes that were not found at their place, and rows found at another's, layer by layer.

    Only these are kept, and of those at most 32,768 different ones a layer; a route at its place
    needs no second look. met has, per sample, the routes that were found at theirs, bool [T, L],
    until ``settle``. strays are presented as routes; spare rows may be padding, for all that is
    known: they can be a route that is looked for, and none too many. Shards add up.
    """

    met: dict[int, NDArray[np.bool_]] = field(default_factory=dict)
    tables: dict[int, _Table] = field(default_factory=dict)
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

    def _count(self, column: int, ids_RK: Ids, kind: int) -> None:
        found = _Table.of(keys_of(ids_RK), kind)
        known = self.tables.get(column)
        self.tables[column] = found if known is None else known + found

    def stray(self, column: int, ids_RK: Ids, *, spare: bool = False) -> None:
        """Rows of a layer that hold something else than their place should; see ``spare``."""
        if len(ids_RK):
            self._count(column, ids_RK, _SPARE if spare else _STRAY)

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
                self._count(column, held.ids_TLK[there[:, column], column], _UNMET)

    def settle(self) -> None:
        """Let go of which routes were met: all ranks that could have them were looked at."""
        self.met.clear()

    def __add__(self, other: "Once") -> "Once":
        assert not self.met
        assert not other.met
        tables = dict(self.tables)
        for column, table in other.tables.items():
            known = tables.get(column)
            tables[column] = table if known is None else known + table
        return Once({}, tables, self.routes + other.routes)

    def landed(self, dump: Iterable[Routes | None]) -> Landed:
        """How the routes owed were found; ``dump`` is read where rows are left over."""
        absent, left = 0, dict[int, tuple[Keys, NDArray[np.int64]]]()
        for column, table in sorted(self.tables.items()):
            unmet, stray, spare = table.counts.T
            used = np.minimum(unmet, stray)
            needed, found = unmet - used, stray - used
            needed = needed - np.minimum(needed, spare)
            absent += table.whole(int(needed.sum()), _UNMET)
            if found.any():
                left[column] = table.keys[found > 0], found[found > 0]
        return Landed(self.routes, absent, self._repeated(left, dump) if left else 0)

    def _repeated(
        self, left: dict[int, tuple[Keys, NDArray[np.int64]]], dump: Iterable[Routes | None]
    ) -> int:
        """How many of the rows that are left hold a route of the dump, which is there again."""
        known = {column: np.zeros(len(keys), np.bool_) for column, (keys, _) in left.items()}
        for held in dump:
            if held is None:
                continue
            for column, (keys, _) in left.items():
                rows = held.ids_TLK[:, column]
                if held.missing_TL is not None:
                    rows = rows[~held.missing_TL[:, column]]
                known[column] |= np.isin(keys, keys_of(rows))
        return sum(
            self.tables[column].whole(int(counts[known[column]].sum()), _STRAY)
            for column, (_, counts) in left.items()
        )
