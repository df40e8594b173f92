"""Segments: which of several models holds where, found by fitting parts of what is not explained.

A model of a few rows is fitted, all blocks that it undoes are its own, it is fitted again on them,
and so on with what is left: change points over samples and over positions are where blocks change
hands.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from .maps import IdSizes
from .models import Model, RowBlock, explains, fit_layers, fit_maps, left_of

__all__ = ["ModelSegment", "find_segments"]

_MODELS = 8
_PARTS = 8  # parts that are fitted alone, by order and by position
_ROUGH = 1024  # rows of a column that a part is fitted on
_FINE = 16_384
_ROUGH_COLUMNS = 4
_LEAST = 24  # tokens that a model must undo


@dataclass(frozen=True, slots=True, eq=False)
class ModelSegment:
    """A model and the blocks that it undoes."""

    model: Model
    blocks: tuple[RowBlock, ...]


def find_segments(
    blocks: Sequence[RowBlock], columns: tuple[int, ...], sizes: IdSizes
) -> list[ModelSegment]:
    """Models of blocks, those that undo most first."""
    found: list[ModelSegment] = []
    left = list(blocks)
    while left and len(found) < _MODELS:
        segment = _best_segment(left, columns, sizes)
        if segment is None:
            break
        found.append(segment)
        own = {id(b) for b in segment.blocks}
        left = [b for b in left if id(b) not in own]
    return found


def _best_segment(
    left: Sequence[RowBlock], columns: tuple[int, ...], sizes: IdSizes
) -> ModelSegment | None:
    """The model that undoes most of what is left, fitted again on all that it undoes."""
    few = _few_columns(columns)
    thin = [_thinned(b, columns, few) for b in left]
    best: tuple[int, list[int]] = (0, [])
    for seed in _seeds(thin):
        for model in _fits(seed, few, sizes, _ROUGH):
            hit = [i for i, b in enumerate(thin) if explains(model, b, sizes.num_ids)]
            size = sum(len(left[i]) for i in hit)
            if size > best[0]:
                best = size, hit
        if best[0] > 0.9 * sum(map(len, left)):
            break
    if best[0] < _LEAST:
        return None
    chosen = [left[i] for i in best[1]]
    whole: tuple[float, Model | None, list[RowBlock]] = (0.0, None, [])
    for model in _fits(chosen, columns, sizes, _FINE):
        own = [b for b in left if explains(model, b, sizes.num_ids)]
        undone = sum((1 - left_of(model, b, sizes.num_ids)) * len(b) for b in own)
        if undone > whole[0] * 1.02:
            whole = undone, model, own
    if whole[1] is None or sum(map(len, whole[2])) < _LEAST:
        return None
    return ModelSegment(whole[1], tuple(whole[2]))


def _few_columns(columns: tuple[int, ...]) -> tuple[int, ...]:
    places = np.unique(np.linspace(0, len(columns) - 1, _ROUGH_COLUMNS).astype(int))
    return tuple(columns[i] for i in places)


def _thinned(block: RowBlock, columns: tuple[int, ...], few: tuple[int, ...]) -> RowBlock:
    """The block with a few of its columns."""
    keep = [columns.index(c) for c in few]
    return RowBlock(
        block.first,
        np.ascontiguousarray(block.ours_NCK[:, keep]),
        block.theirs_NLK,
        np.ascontiguousarray(block.both_NC[:, keep]),
    )


def _fits(
    blocks: Sequence[RowBlock], columns: tuple[int, ...], sizes: IdSizes, most: int
) -> Iterator[Model]:
    """Models fitted to blocks: layers, then maps in place, then maps of moved layers."""
    layers = fit_layers(blocks, columns, sizes.num_ids, most)
    if layers is not None:
        yield layers
    maps = fit_maps(blocks, columns, sizes, most)
    if maps is not None:
        yield maps


def _seeds(blocks: Sequence[RowBlock]) -> Iterator[list[RowBlock]]:
    """All blocks, then parts by order and by position."""
    yield list(blocks)
    size = -(-len(blocks) // _PARTS)
    if size < len(blocks):
        for first in range(0, len(blocks), size):
            yield list(blocks[first : first + size])
        positions = np.array([b.first for b in blocks])
        edges = np.quantile(positions, np.linspace(0, 1, _PARTS + 1))
        for low, high in pairwise(edges.tolist()):
            part = [b for b in blocks if low <= b.first <= high]
            if part:
                yield part
