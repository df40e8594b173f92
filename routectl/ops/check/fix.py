"""A dump with its ids as the reference has them: maps that can be undone, undone where they hold.

Shape suffixes: T tokens, L MoE layers, K top_k, P ids of the dump.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from ...damage import DamagedSampleError
from ...dump import Dump, Sample
from ...errors import MismatchError
from ...routes import Routes, ids_dtype
from .book.results import Book, Explanation, FoundMap
from .ids import legal_routes

__all__ = ["restored_dump"]


def restored_dump(dump: Dump, found: Explanation) -> Dump:
    """The same samples with the maps of ``found`` undone where they hold; lazily, none is read.

    Raises MismatchError where there is nothing to undo, or a map lost what the ids were; reading a
    sample does where an id has no image.
    """
    if not found.maps:
        raise MismatchError("nothing to fix: no layer's experts are renumbered (R706)")
    lost = [m for m in found.maps if not m.invertible]
    if lost:
        raise MismatchError(
            f"cannot be fixed: {lost[0].name}: the ids no longer say which expert it was (R717)"
        )
    places: dict[int, list[tuple[int, int, FoundMap]]] = {}
    for one in found.maps:
        for index, first, end in one.where:
            places.setdefault(index, []).append((first, end, one))

    def load(index: int) -> Sample:
        sample, ids_TLK = _read(dump, index)
        routes = sample.routes
        if routes is None or index not in places:
            return sample
        wide = routes.ids_TLK if ids_TLK is None else ids_TLK
        fixed = _undone(
            routes, wide.astype(np.int64), places[index], sample.sample_id or f"#{index}"
        )
        return replace(sample, routes=fixed, gates=None)

    return Dump(replace(dump.meta, gates=False), dump.keys, load)


def _read(dump: Dump, index: int) -> tuple[Sample, Any]:
    """A sample, and its ids as they were written where its reader refuses them."""
    try:
        return dump[index], None
    except DamagedSampleError as error:
        legal = legal_routes(error, dump.meta, "", Book())
        if legal.routes is None:
            raise
        return replace(error.sample, routes=legal.routes), legal.ids_TLK


def _undone(
    routes: Routes, ids_TLK: Any, places: list[tuple[int, int, FoundMap]], name: str
) -> Routes:
    """Routes with maps undone in some rows; every row that is there has ids in range then."""
    missing = np.zeros(ids_TLK.shape[:2], np.bool_)
    if routes.missing_TL is not None:
        missing = routes.missing_TL & (ids_TLK == ids_TLK[..., :1]).all(axis=2)
    fixed = ids_TLK.copy()
    for first, end, found in places:
        part = slice(max(first - routes.start, 0), max(end - routes.start, 0))
        for layer, to in found.to:
            column = routes.layers_L.index(layer)
            to_P = np.array(to, np.int64)
            ids_TK = ids_TLK[part, column]
            known = ids_TK < len(to_P)
            fixed[part, column] = np.where(known, to_P[np.where(known, ids_TK, 0)], -1)
    fixed[missing] = 0
    wrong_TL = ((fixed < 0) | (fixed >= routes.num_experts)).any(axis=2)
    if wrong_TL.any():
        row, column = (int(n) for n in np.argwhere(wrong_TL)[0])
        raise MismatchError(
            f"sample {name} position {routes.start + row} layer {routes.layers_L[column]}: "
            f"got ids {ids_TLK[row, column].tolist()}, expected ids that the map has an expert for"
        )
    return replace(
        routes,
        ids_TLK=np.ascontiguousarray(fixed.astype(ids_dtype(routes.num_experts))),
        missing_TL=missing if missing.any() else None,
        margin_TL=None,
        group_margin_TL=None,
    )
