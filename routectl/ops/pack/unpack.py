"""Routes out of the replay tensors of all ranks: the inverse of pack.

Shape suffixes: T tokens, L MoE layers, K top_k, R rows of a rank.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import MismatchError
from ...layouts.packing import Packing
from ...layouts.runs import Run
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


_Held = tuple[NDArray[Any], Bools]  # of a sample: ids_TLK, and which are there, TL


def _take_layer(ids_RK: NDArray[Any], real_R: Bools, runs: Sequence[Run], held: list[Any]) -> None:
    """Put a layer's real rows where they belong: ``held`` has of each sample ids [T, K], there."""
    for run in runs:
        ids_TK, there_T = held[run.sample]
        tokens = slice(run.position, run.position + run.size)
        real = real_R[run.rows]
        there_T[tokens] |= real
        ids_TK[tokens][real] = ids_RK[run.rows][real]


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
    samples: list[_Held] | None = None
    for rank, packed in parts:
        rows, where = packing.num_rows(rank.tp), f"cp={rank.cp}, tp={rank.tp}"
        runs = packing.runs(rank.cp, rank.tp)
        if len(packed.ids_LRK) != len(packed.layers_L):
            given, named = len(packed.ids_LRK), len(packed.layers_L)
            raise MismatchError(f"{where}: got {given} tensors for {named} layers")
        for i, layer in enumerate(packed.layers_L):
            ids_RK = np.asarray(packed.ids_LRK[i])  # one at a time: they may be read as they go
            if len(ids_RK) != rows:
                raise MismatchError(f"{where}: got {len(ids_RK)} rows, expected {rows}")
            real_R, top_k = packed.mask_of(i), ids_RK.shape[1]
            if (((ids_RK < 0) | (ids_RK >= num_experts)).any(axis=1) & real_R).any():
                outside = f"an id outside 0..{num_experts - 1}"
                raise MismatchError(f"{where}: a row that the mask calls real has {outside}")
            if samples is None:
                sizes = [(n, len(layers_L)) for n in packing.lens]
                dtype = ids_dtype(num_experts)
                samples = [(np.zeros((*s, top_k), dtype), np.zeros(s, np.bool_)) for s in sizes]
            if samples and top_k != samples[0][0].shape[2]:
                raise MismatchError(
                    f"{where}: got rows of {top_k} ids, others have {samples[0][0].shape[2]}"
                )
            column = layers_L.index(layer)
            held = [(ids_TLK[:, column], there_TL[:, column]) for ids_TLK, there_TL in samples]
            _take_layer(ids_RK, real_R, runs, held)
    if samples is None:
        raise MismatchError("no rank's tensors: nothing to unpack")
    if extents is None:
        last = [np.flatnonzero(there_TL.any(axis=1))[-1:] for _, there_TL in samples]
        extents = [(0, int(n[0]) + 1) if len(n) else None for n in last]
    return [
        None if extent is None else _routes(ids, there, layers_L, num_experts, extent)
        for (ids, there), extent in zip(samples, extents, strict=True)
    ]
