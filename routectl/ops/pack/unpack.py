"""Routes out of the replay tensors of all ranks: the inverse of pack.

Shape suffixes: T tokens, L MoE layers, K top_k, R rows of a rank.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import MismatchError
from ...layouts.packing import Packing
from ...routes import Bools, Routes, ids_dtype
from .pack import Packed, Rank

__all__ = ["unpack"]

Extent = tuple[int, int]


def _routes(
    ids_TLK: NDArray[Any],
    there_TL: Bools,
    layers: tuple[int, ...],
    num_experts: int,
    extent: Extent,
) -> Routes:
    """The rows of an extent, missing where no rank had a real row."""
    start, stop = extent
    ids, missing = ids_TLK[start:stop], ~there_TL[start:stop]
    return Routes(
        np.ascontiguousarray(ids), layers, num_experts, start, missing if missing.any() else None
    )


def _check_layers(
    tensors: Sequence[NDArray[Any]], packed: Packed, sizes: tuple[int, int], where: str
) -> None:
    """Raise MismatchError unless layers have R rows, and real ones ids below E (``sizes``)."""
    rows, num_experts = sizes
    for i, ids_RK in enumerate(tensors):
        if len(tensors) != len(packed.layers_L) or len(ids_RK) != rows:
            raise MismatchError(f"{where}: got {len(ids_RK)} rows, expected {rows}")
        outside_R = ((ids_RK < 0) | (ids_RK >= num_experts)).any(axis=1)
        if (outside_R & packed.mask_of(i)).any():
            raise MismatchError(
                f"{where}: a row that the mask calls real has an id outside 0..{num_experts - 1}"
            )


def unpack(
    parts: Iterable[tuple[Rank, Packed]],
    packing: Packing,
    layers_L: tuple[int, ...],
    num_experts: int,
    *,
    extents: Sequence[Extent | None] | None = None,
) -> list[Routes | None]:
    """The routes of a micro-batch's samples out of its ranks' tensors, in any order of ranks.

    extents gives (start, stop) of each sample's rows, None for one without routes; when it is
    None itself, rows go from 0 to the last real one. A row that no rank has as real is missing.

    Raises MismatchError on a tensor of another row count, and on a real row with an id outside
    0..E-1.
    """
    samples: list[tuple[NDArray[Any], Bools]] | None = None
    for rank, packed in parts:
        if not packed.layers_L:
            continue
        rows, where = packing.num_rows(rank.tp), f"cp={rank.cp}, tp={rank.tp}"
        tensors = [np.asarray(ids_RK) for ids_RK in packed.ids_LRK]
        top_k = tensors[0].shape[1]
        _check_layers(tensors, packed, (rows, num_experts), where)
        if samples is None:
            sizes = [(n, len(layers_L)) for n in packing.lens]
            dtype = ids_dtype(num_experts)
            samples = [
                (np.zeros((*size, top_k), dtype), np.zeros(size, np.bool_)) for size in sizes
            ]
        if samples and top_k != samples[0][0].shape[2]:
            raise MismatchError(
                f"{where}: got rows of {top_k} ids, others have {samples[0][0].shape[2]}"
            )
        columns = [layers_L.index(layer) for layer in packed.layers_L]
        for run in packing.runs(rank.cp, rank.tp):
            ids_TLK, there_TL = samples[run.sample]
            tokens = slice(run.position, run.position + run.size)
            for i, column in enumerate(columns):
                real = packed.mask_of(i)[run.rows]
                there_TL[tokens, column] |= real
                ids_TLK[tokens, column][real] = tensors[i][run.rows][real]
    if samples is None:
        raise MismatchError("no rank's tensors: nothing to unpack")
    if extents is None:
        last = [np.flatnonzero(there_TL.any(axis=1))[-1:] for _, there_TL in samples]
        extents = [(0, int(n[0]) + 1) if len(n) else None for n in last]
    return [
        None if extent is None else _routes(ids, there, layers_L, num_experts, extent)
        for (ids, there), extent in zip(samples, extents, strict=True)
    ]
