"""Single ids that stand for others, in rows that else are in place: the rest of a row says which.

Rounding drops an expert here and there, and another one each time. An id that is nearly always gone
where the reference has it, and always for the same other id, was given another number.
Shape suffixes: N rows, K top_k, E ids, C columns.
"""

from collections.abc import Sequence

import numpy as np

from ....routes import Bools, Ids
from .maps import IdMap, IdSizes, ruled
from .models import Model, RowBlock
from .side import Ints

__all__ = ["fit_swapped"]

_SEEN = 8  # rows that must have an id
_GONE = 0.8  # share of them in which it is gone
_SAME = 0.64  # share of those in which the same other id is there instead


def fit_swapped(
    blocks: Sequence[RowBlock], columns: tuple[int, ...], sizes: IdSizes
) -> Model | None:
    """The map of ids that were given other numbers, by column; None where there are none."""
    maps, moved = [], False
    for i, column in enumerate(columns):
        there = [b.both_NC[:, i] for b in blocks]
        ours = np.concatenate([b.ours_NCK[t, i] for b, t in zip(blocks, there, strict=True)])
        theirs = np.concatenate(
            [b.theirs_NLK[t, column] for b, t in zip(blocks, there, strict=True)]
        )
        image_E, seen_E = _images(ours, theirs, sizes.num_ids)
        moved |= bool((image_E != np.arange(sizes.num_ids)).any())
        surely = (seen_E >= _SEEN) | (image_E != np.arange(sizes.num_ids))
        sure = IdMap(np.where(surely, image_E, -1), seen_E, False)
        by_rule = ruled(sure, sizes.num_experts)
        maps.append(by_rule if by_rule is not sure else _map(image_E, seen_E))
    return Model(columns, columns, tuple(maps)) if moved else None


def _images(ours_NK: Ids, theirs_NK: Ids, num_ids: int) -> tuple[Ints, Ints]:
    """The number that each id of the reference has in the dump, and how often it was seen."""
    same = ours_NK[:, :, None] == theirs_NK[:, None, :]
    gone_NK: Bools = ~same.any(axis=1)
    new_NK: Bools = ~same.any(axis=2)
    seen_E = np.bincount(theirs_NK.ravel(), minlength=num_ids)
    gone_E = np.bincount(theirs_NK[gone_NK], minlength=num_ids)
    image_E = np.arange(num_ids)

    def instead(expert: int) -> tuple[int, float]:
        """The id that is there where an expert is gone, and in what share of those rows."""
        rows = (gone_NK & (theirs_NK == expert)).any(axis=1)
        values, counts = np.unique(ours_NK[rows][new_NK[rows]], return_counts=True)
        if not len(values):
            return expert, 0.0
        return int(values[counts.argmax()]), float(counts.max() / rows.sum())

    for expert in np.flatnonzero((seen_E >= _SEEN) & (gone_E >= _GONE * seen_E)).tolist():
        other, share = instead(expert)
        if share >= _SAME:
            image_E[expert] = other
    for expert in np.flatnonzero(image_E != np.arange(num_ids)).tolist():
        other = int(image_E[expert])  # seldom seen, it may have been exchanged with this one
        if image_E[other] == other and instead(other)[0] == expert:
            image_E[other] = expert
    return image_E, seen_E


def _map(image_E: Ints, seen_E: Ints) -> IdMap:
    """The map as the dump can be restored by it, where no two experts have one number."""
    known = np.flatnonzero(seen_E > 0)
    if len(np.unique(image_E[known])) == len(known):
        to_P = np.full(len(image_E), -1, np.int64)
        free = np.setdiff1d(np.arange(len(image_E)), image_E[known])
        to_P[free] = free  # ids that were not seen are taken to be themselves
        to_P[image_E[known]] = known
        seen_P = np.zeros(len(image_E), np.int64)
        seen_P[image_E[known]] = seen_E[known]
        return IdMap(to_P, seen_P, True)
    return IdMap(image_E, seen_E, False)  # ids that were not seen are taken to be themselves
