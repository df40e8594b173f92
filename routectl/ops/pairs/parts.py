"""A join cut into parts that are compared apart. Shape suffixes: P pairs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .join import Join, Pairs

__all__ = ["JoinPart", "cut_join", "whole_join"]

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class JoinPart:
    """Some of a join's pairs, and of the samples without a partner; all indices are the dumps' own.

    by and conflicts are as in Join; those of parts add up to those of the whole.
    """

    pairs: Pairs
    only_old: Ints
    only_new: Ints
    by: dict[str, int]
    conflicts: int

    @property
    def num_old(self) -> int:
        """Samples of OLD that are in it."""
        return len(self.pairs) + len(self.only_old)

    @property
    def num_new(self) -> int:
        """Samples of NEW that are in it."""
        return len(self.pairs) + len(self.only_new)


def whole_join(join: Join) -> JoinPart:
    """All of a join as one part."""
    return cut_join(join, [range(len(join.pairs))])[0]


def cut_join(join: Join, runs: Sequence[range]) -> list[JoinPart]:
    """A join cut at its pairs: ``runs`` of them follow each other and cover all.

    Samples of OLD without a partner go with the pairs beside them, those of NEW in equal shares;
    conflicts are counted in the first part.
    """
    only_old, only_new = (np.asarray(side, np.int64) for side in (join.only_old, join.only_new))
    ends = [int(join.pairs.old_P[run.stop - 1]) + 1 for run in runs[:-1]]
    old_parts = np.split(only_old, np.searchsorted(only_old, ends))
    new_parts = np.array_split(only_new, len(runs))
    return [
        JoinPart(join.pairs[run.start : run.stop], old, new, _by(join, run), join.conflicts * first)
        for run, old, new, first in zip(
            runs, old_parts, new_parts, [1, *[0] * (len(runs) - 1)], strict=True
        )
    ]


def _by(join: Join, run: range) -> dict[str, int]:
    """How many pairs of a run each rule made."""
    if len(join.by) < 2:
        return dict.fromkeys(join.by, len(run))
    assert join.by_id_P is not None
    by_id = int(join.by_id_P[run.start : run.stop].sum())
    found = {"id": by_id, "tokens": len(run) - by_id}
    return {rule: count for rule, count in found.items() if count}
