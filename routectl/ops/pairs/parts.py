"""A join cut into parts that are compared apart. Shape suffixes: P pairs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .join import Join, Pairs

__all__ = ["JoinPart", "whole_join"]

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class JoinPart:
    """Some of a join's pairs, and of the samples without a partner; all indices are the dumps' own.

    rule       that made the pairs; of ``by_id_P``, bool [P], where there are several, those by id
    conflicts  as in Join; those of parts, as ``by``, add up to those of the whole
    """

    pairs: Pairs
    only_old: Ints
    only_new: Ints
    rule: str
    by_id_P: NDArray[np.bool_] | None = None
    conflicts: int = 0

    @property
    def by(self) -> dict[str, int]:
        """How many pairs each rule made."""
        size = len(self.pairs)
        if self.by_id_P is None:
            return {self.rule: size} if size else {}
        by_id = int(self.by_id_P.sum())
        return {rule: n for rule, n in (("id", by_id), ("tokens", size - by_id)) if n}

    @property
    def num_old(self) -> int:
        """Samples of OLD that are in it."""
        return len(self.pairs) + len(self.only_old)

    @property
    def num_new(self) -> int:
        """Samples of NEW that are in it."""
        return len(self.pairs) + len(self.only_new)

    def cut(self, runs: Sequence[range]) -> "list[JoinPart]":
        """Its parts: ``runs`` of pairs follow each other and cover all; some may be empty.

        Samples of OLD without a partner go with the pairs beside them, those of NEW in equal
        shares; conflicts are counted in the first part.
        """
        old_P, size = self.pairs.old_P, len(self.pairs)
        firsts = [run.stop for run in runs[:-1]]
        ends = [old_P[n] if n < size else np.iinfo(np.int64).max for n in firsts]
        old_parts = np.split(self.only_old, np.searchsorted(self.only_old, ends))
        new_parts = np.array_split(self.only_new, len(runs))
        return [
            JoinPart(
                self.pairs[run.start : run.stop],
                old_parts[n],
                new_parts[n],
                self.rule,
                None if self.by_id_P is None else self.by_id_P[run.start : run.stop],
                0 if n else self.conflicts,
            )
            for n, run in enumerate(runs)
        ]


def whole_join(join: Join) -> JoinPart:
    """All of a join as one part."""
    several = len(join.by) > 1
    return JoinPart(
        join.pairs,
        np.asarray(join.only_old, np.int64),
        np.asarray(join.only_new, np.int64),
        next(iter(join.by)),
        join.by_id_P if several else None,
        join.conflicts,
    )
