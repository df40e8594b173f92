"""Ids of samples that their reader refuses: which rule they break, and why.

Shape suffixes: T tokens, W layers as written, L MoE layers, K top_k.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from ...dump import Sample
from ...model import ModelFacts
from ...routes import Bools, Ids, Routes, ids_dtype
from .results import Book, Place

__all__ = ["legal_routes", "moe_columns", "unchecked_routes"]


def moe_columns(wide: Routes, facts: ModelFacts) -> list[int]:
    """The columns of MoE layers in routes that were read as if every layer were one."""
    if len(wide.layers_L) == len(facts.layers):  # the MoE layers alone, counted from 0
        return list(range(len(wide.layers_L)))
    return [i for i, layer in enumerate(wide.layers_L) if layer in facts.layers]


def unchecked_routes(wide: Sample, facts: ModelFacts) -> tuple[Sample, Ids]:
    """A sample with routes of its model, and its MoE layers' ids as they were written.

    Rows with an id out of range are missing in the routes.
    """
    assert wide.routes is not None
    routes, _, _ = legal_routes(wide.routes, facts, 0, "", Book())
    ids_TLK = np.ascontiguousarray(wide.routes.ids_TLK[:, moe_columns(wide.routes, facts)])
    return replace(wide, routes=routes), ids_TLK


def legal_routes(
    wide: Routes, facts: ModelFacts, zero_experts: int, name: str, book: Book
) -> tuple[Routes, Bools, bool]:
    """A sample's routes made legal, the rows [T, L] with an id out of range, whether that is why.

    ``wide`` has them unchecked, as of a model all of whose layers are MoE. Rows with an id out of
    range are missing in the legal routes; they and columns of dense layers are findings.
    """
    moe = moe_columns(wide, facts)
    dense = [i for i in range(len(wide.layers_L)) if i not in moe]
    named = _check_dense(wide, dense, name, book)
    ids_TLK, bad_TL = _check_range(wide, moe, facts, zero_experts, (name, book))
    missing_TL = bad_TL if wide.missing_TL is None else bad_TL | wide.missing_TL[:, moe]
    routes = Routes(
        ids_TLK,
        facts.layers,
        facts.num_experts,
        wide.start,
        missing_TL if missing_TL.any() else None,
    )
    return routes, bad_TL, named or bool(bad_TL.any())


def _check_dense(wide: Routes, dense: list[int], name: str, book: Book) -> bool:
    """Whether columns of dense layers hold more than one constant; each is a finding."""
    found = False
    for column in dense:
        ids_TK = wide.ids_TLK[:, column]
        missing = 0 if wide.missing_TL is None else int(wide.missing_TL[:, column].sum())
        if ids_TK.size and missing < len(ids_TK) and (ids_TK != ids_TK.flat[0]).any():
            detail = "like routes" if _like_routes(ids_TK) else "like memory that nobody wrote"
            book.add(
                "R303",
                Place(name, wide.start, wide.layers_L[column]),
                detail=detail,
                rows=len(ids_TK) - missing,
                layers=[wide.layers_L[column]],
            )
            found = True
    return found


def _like_routes(ids_TK: Ids) -> bool:
    """Whether rows hold K experts each, none twice, of a plausible number."""
    ordered = np.sort(ids_TK, axis=1)
    distinct = (np.diff(ordered, axis=1) != 0).all(axis=1).mean() > 0.9
    return bool(distinct and int(ids_TK.max()) < max(4 * ids_TK.size, 4096))


def _check_range(
    wide: Routes, moe: list[int], facts: ModelFacts, zero_experts: int, where: tuple[str, Book]
) -> tuple[Ids, Bools]:
    """The MoE layers' ids with bad rows zeroed, and which rows are bad."""
    name, book = where
    ids_TLK = wide.ids_TLK[:, moe]
    limit = facts.num_experts
    bad_TL: Any = (ids_TLK >= limit).any(axis=2)
    wrong_TL: Any = (ids_TLK >= limit + zero_experts).any(axis=2)
    if wrong_TL.any():
        row, column = (int(n) for n in np.argwhere(wrong_TL)[0])
        layers = [facts.layers[i] for i in np.flatnonzero(wrong_TL.any(axis=0))]
        detail = _why_out(ids_TLK[wrong_TL], limit, float(wrong_TL.mean(axis=0).max()))
        book.add(
            "R101",
            Place(name, wide.start + row, facts.layers[column]),
            rows=int(wrong_TL.sum()),
            layers=layers,
            detail=detail,
        )
    legal = np.where(bad_TL[:, :, None], 0, ids_TLK).astype(ids_dtype(limit))
    return np.ascontiguousarray(legal), bad_TL


def _why_out(rows_NK: Ids, limit: int, share: float) -> str:
    """The explanation that fits rows with an id out of range."""
    out_NK = rows_NK >= limit
    values = np.unique(rows_NK[out_NK])
    if set(values.tolist()) <= {255, 65535}:
        return "a sentinel wrapped to 255 or 65535 in part of a row"
    of_slots = [np.unique(rows_NK[out_NK[:, k], k]) for k in np.flatnonzero(out_NK.any(axis=0))]
    alone = all(len(ids) == 1 for ids in of_slots) and len(of_slots) == len(values)
    if share > 0.5 and values[0] == limit and alone:
        return "ids of shared experts, in a slot of their own"
    if int(values.max()) < limit + max(limit, 64):
        return f"ids up to {int(values.max())}: physical ones (EPLB), or another model's"
    return "no ids at all: another type or another layout of bytes"
