"""What was done to rows that are in place: layers taken from others, ids that stand for others.

Both are estimated from rows of many samples, and a row is theirs when they undo it.
Shape suffixes: N rows, C columns (compared layers), K top_k.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ....kernels.check import hash_sets
from ....routes import Bools, Ids
from .maps import IdMap, IdSizes, fit_map, ruled

__all__ = ["LEFT", "Model", "RowBlock", "explains", "fit_layers", "fit_maps", "left_of"]

_SELDOM = 0.02  # of the rows, that a map by its rule may leave more than the map as it was found
LEFT = 0.45  # mismatch that an estimate may leave, with the rounding of deep layers


@dataclass(frozen=True, slots=True, eq=False)
class RowBlock:
    """Some tokens of one sample, in order: their ids on both sides, and where both have rows.

    first      position of the first of them
    ours_NCK   the dump's ids in the columns that are in question
    theirs_NLK the reference's at the same positions, in all compared layers
    both_NC    where both sides have a row
    """

    first: int
    ours_NCK: Ids
    theirs_NLK: Ids
    both_NC: Bools

    def __len__(self) -> int:
        return len(self.ours_NCK)


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """columns in question; the layer of the reference that each has; their maps, if any."""

    columns: tuple[int, ...]
    source_C: tuple[int, ...]
    maps: tuple[IdMap, ...] | None = None

    @property
    def moves_layers(self) -> bool:
        """Whether a column has another layer's routes."""
        return self.source_C != self.columns

    def part(self, columns: tuple[int, ...]) -> "Model":
        """The same of some of the columns."""
        keep = [self.columns.index(c) for c in columns]
        maps = None if self.maps is None else tuple(self.maps[i] for i in keep)
        return Model(columns, tuple(self.source_C[i] for i in keep), maps)

    def differs(self, block: RowBlock, num_ids: int) -> Bools:
        """Rows [N, C] that are not the reference's once the model is undone."""
        theirs = block.theirs_NLK[:, list(self.source_C)]
        if self.maps is None:
            wrong = hash_sets(block.ours_NCK, num_ids) != hash_sets(
                np.ascontiguousarray(theirs), num_ids
            )
        else:
            pairs = enumerate(self.maps)
            wrong = np.stack(
                [m.differs(block.ours_NCK[:, i], theirs[:, i]) for i, m in pairs], axis=1
            )
        return np.asarray(wrong & block.both_NC)


def left_of(model: Model, block: RowBlock, num_ids: int) -> float:
    """The mismatch that a model leaves in a block; 1 where both sides have no row."""
    rows = int(block.both_NC.sum())
    return int(model.differs(block, num_ids).sum()) / rows if rows else 1.0


def _in_place(block: RowBlock, columns: Sequence[int], num_ids: int) -> float:
    """The mismatch of a block as it is."""
    return left_of(Model(tuple(columns), tuple(columns)), block, num_ids)


def explains(model: Model, block: RowBlock, num_ids: int) -> bool:
    """Whether a model leaves little of a block, and at most half of what was there."""
    left = left_of(model, block, num_ids)
    return left <= LEFT and left <= _in_place(block, model.columns, num_ids) / 2


def _gathered(blocks: Sequence[RowBlock], column: int, most: int) -> tuple[Ids, Ids]:
    """The ids of a column on both sides, of rows that both have; evenly, at most so many."""
    ours = [b.ours_NCK[b.both_NC[:, column], column] for b in blocks]
    theirs = [b.theirs_NLK[b.both_NC[:, column]] for b in blocks]
    ours_NK, theirs_NLK = np.concatenate(ours), np.concatenate(theirs)
    step = max(-(-len(ours_NK) // most), 1)
    return ours_NK[::step], theirs_NLK[::step]


def _similar(
    blocks: Sequence[RowBlock], columns: Sequence[int], num_ids: int, most: int
) -> NDArray[np.float64]:
    """The share of equal sets of each column with each layer of the reference, [C, L]."""
    shares = []
    for i in range(len(columns)):
        ours_NK, theirs_NLK = _gathered(blocks, i, most)
        ours_N1 = hash_sets(np.ascontiguousarray(ours_NK[:, None]), num_ids)
        theirs_NL = hash_sets(np.ascontiguousarray(theirs_NLK), num_ids)
        shares.append(
            (ours_N1 == theirs_NL).mean(axis=0) if len(ours_NK) else np.zeros(theirs_NL.shape[1])
        )
    return np.stack(shares)


def fit_layers(
    blocks: Sequence[RowBlock], columns: tuple[int, ...], num_ids: int, most: int
) -> Model | None:
    """The layer of the reference that each column is most like; None where it is its own."""
    like_CL = _similar(blocks, columns, num_ids, most)
    source = like_CL.argmax(axis=1)
    own_C = like_CL[np.arange(len(columns)), list(columns)]
    best_C = like_CL.max(axis=1)
    # a column that no layer is like stays where it is, as does one that its own is near
    source = np.where((best_C > 2 * own_C) & (best_C >= 0.25), source, columns)
    if (source == np.array(columns)).all():
        return None
    return Model(columns, tuple(int(n) for n in source))


def fit_maps(
    blocks: Sequence[RowBlock],
    columns: tuple[int, ...],
    sizes: IdSizes,
    most: int,
) -> Model | None:
    """The map of each column's ids; None where a column has too few rows, or no ids.

    The map is that of a rule, unless the rule leaves ``_SELDOM`` of the rows more.
    """
    maps = []
    for i, column in enumerate(columns):
        ours_NK, theirs_NLK = _gathered(blocks, i, most)
        theirs_NK = theirs_NLK[:, column]
        found, _ = fit_map(ours_NK, theirs_NK, *sizes)
        if found is None:
            return None
        rule = ruled(found, sizes.num_experts)
        left = [float(m.differs(ours_NK, theirs_NK).mean()) for m in (rule, found)]
        maps.append(rule if left[0] <= left[1] + _SELDOM else found)
    return Model(columns, columns, tuple(maps))
