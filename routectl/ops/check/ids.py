"""Ids of samples that their reader refuses: which rule they break, and why.

Shape suffixes: T tokens, W layers as written, L MoE layers, K top_k, E experts.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...damage import DamagedSampleError
from ...dump import DumpMeta
from ...routes import Bools, Routes, ids_dtype
from .book.legal import Legal
from .book.results import Book, Place

__all__ = ["NarrowIds", "check_narrow", "check_one_rank", "legal_routes", "moe_ids"]

Ints = NDArray[np.integer[Any]]
CODES = {"axes": "R103", "layers": "R012", "slots": "R104", "bytes": "R011"}
_RANKS = (2, 4, 8, 16, 32, 64)  # expert-parallel ranks that a dump may be one of
_ENOUGH = 16  # ids that are there before they are called those of one rank
_FIRST = 64  # tokens by which a sample without any such row is passed over
_PART = 0.1  # of the rows that have ids and filler, at least
_CHANCE = 1e-6  # that ids beyond a type's greatest do not occur
_MISSED = 8  # experts beyond a type's greatest before their absence is more than dead experts
_SEEN = 0.9  # of the others that do occur


def legal_routes(error: DamagedSampleError, meta: DumpMeta, name: str, book: Book) -> Legal:
    """What a reader refused, named, and its rows as far as they are routes.

    Surplus and missing rows are left to what counts them.
    """
    faults = [fault for fault in error.faults if fault.kind in CODES]
    for fault in faults:
        rows = error.ids_TWK.shape[0] * len(meta.layers_L)
        facts: dict[str, int | str] = {
            "fault": fault.kind,
            "is": fault.detail.rpartition("] is ")[2],
        }
        book.add(CODES[fault.kind], Place(name), rows=rows, detail=fault.detail, facts=facts)
    experts, cut = meta.num_experts, any(fault.kind == "bytes" for fault in faults)
    if not error.ids_TWK.size:
        return Legal(None, named=bool(faults), cut=cut)
    found = _check_dense(error, meta, name, book)
    ids_TLK = moe_ids(error, meta)
    filler_TL = _filler(ids_TLK, experts)
    out_TLK: Any = (ids_TLK < 0) | (ids_TLK >= experts)
    bad_TL: Bools = out_TLK.any(axis=2) & ~filler_TL
    why = _signed(ids_TLK, filler_TL, experts)
    trusted = True
    if why:
        trusted = False
        book.add("R105", Place(name, error.start), rows=filler_TL.size, detail=why)
    elif bad_TL.any():
        place = Place(name, error.start)
        trusted = not _of_one_rank(ids_TLK, out_TLK, experts, place, book)
        if trusted:
            _add_range(ids_TLK, bad_TL, meta, (name, error.start), book)
    missing_TL = bad_TL | filler_TL
    legal = np.where(missing_TL[:, :, None], 0, ids_TLK).astype(ids_dtype(experts))
    routes = Routes(
        np.ascontiguousarray(legal),
        meta.layers_L,
        experts,
        error.start,
        missing_TL if missing_TL.any() else None,
    )
    counted = any(fault.kind == "rows" for fault in error.faults)
    named = bool(faults) or found or bool(bad_TL.any()) or counted or bool(why)
    return Legal(routes, bad_TL, trusted, named, cut, ids_TLK)


def moe_ids(error: DamagedSampleError, meta: DumpMeta) -> Ints:
    """The ids of the MoE layers as they were written, [T, L, K]."""
    if error.ids_TWK.shape[1] == len(meta.layers_L):
        return error.ids_TWK
    return error.ids_TWK[:, list(meta.layers_L)]


def _filler(ids_TLK: Ints, experts: int) -> Bools:
    """Rows that are no routes in form, as ``kernels.scan_rows`` has them."""
    lead_TL, several = ids_TLK[..., 0], ids_TLK.shape[2] > 1
    uniform_TL = (ids_TLK == ids_TLK[..., :1]).all(axis=2)
    greatest = np.iinfo(ids_TLK.dtype).max
    none: Any = lead_TL == -1
    if greatest >= experts or several:
        none = none | (lead_TL == greatest)
    if several:
        none = none | (lead_TL == 0)
    return np.asarray(uniform_TL & none)


def _check_dense(error: DamagedSampleError, meta: DumpMeta, name: str, book: Book) -> bool:
    """Whether columns of dense layers hold more than one constant; each is a finding."""
    found, width = False, error.ids_TWK.shape[1]
    dense = set(range(width)) - set(meta.layers_L) if width != len(meta.layers_L) else set()
    for layer in sorted(dense):
        ids_TK = error.ids_TWK[:, layer]
        ids_TK = ids_TK[(ids_TK != -1).any(axis=1)]
        if ids_TK.size and (ids_TK != ids_TK.flat[0]).any():
            detail = "like routes" if _like_routes(ids_TK) else "like memory that nobody wrote"
            place = Place(name, error.start, layer)
            book.add("R303", place, detail=detail, rows=len(ids_TK), layers=[layer])
            found = True
    return found


def _like_routes(ids_TK: Ints) -> bool:
    """Whether rows hold K experts each, none twice, of a plausible number."""
    ordered = np.sort(ids_TK, axis=1)
    distinct = (np.diff(ordered, axis=1) != 0).all(axis=1).mean() > 0.9
    return bool(distinct and int(ids_TK.max()) < max(4 * ids_TK.size, 4096))


def _signed(ids_TLK: Ints, filler_TL: Bools, experts: int) -> str:
    """What negative ids are, where a signed type is too narrow for E; empty where there are none.

    An id beyond the greatest of an int8 comes out 256 lower, so that many are negative.
    """
    rows_NK = ids_TLK[~filler_TL]
    values = np.unique(rows_NK[rows_NK < 0])
    if len(values) < 2:
        return ""
    for bits in (8, 16):
        beyond = 1 << (bits - 1)
        if experts > beyond and values[0] >= -beyond and rows_NK.max() < beyond:
            return f"int{bits} cannot hold {experts} experts: ids from {beyond} on are negative"
    return ""


def check_one_rank(routes: Routes, name: str, book: Book) -> bool:
    """Whether rows that were read hold one expert-parallel rank's experts, and 0 beside them."""
    ids_TLK = routes.ids_TLK
    if ids_TLK.shape[2] == 1 or not len(ids_TLK):
        return False
    if ((ids_TLK[:_FIRST] == 0).sum(axis=2) > 1).mean() < _PART / 2:
        return False
    return _add_rank(ids_TLK, 0, routes.num_experts, Place(name, routes.start), book)


def _of_one_rank(ids_TLK: Ints, out_TLK: Bools, experts: int, place: Place, book: Book) -> bool:
    """The same of rows in which one value that is no id, where ``out_TLK``, is the filler."""
    fillers = np.unique(ids_TLK[out_TLK])
    if len(fillers) != 1 or ids_TLK.shape[2] == 1:
        return False
    return _add_rank(ids_TLK, int(fillers[0]), experts, place, book)


def _add_rank(ids_TLK: Ints, filler: int, experts: int, place: Place, book: Book) -> bool:
    """Add the finding where all ids but the filler are of one rank, and many rows have both."""
    there = ids_TLK != filler
    values = ids_TLK[there]
    partly_TL = there.any(axis=2) & ~there.all(axis=2)
    if len(values) < _ENOUGH or partly_TL.mean() < _PART:
        return False
    low, high = int(values.min()), int(values.max())
    for ranks in reversed(_RANKS):
        size = experts // ranks
        if not size or experts % ranks or low // size != high // size:
            continue
        if (1 / ranks) ** min(len(values), 64) > _CHANCE:
            return False
        rank = low // size
        own = f"rank {rank} of {ranks}, experts {rank * size} to {(rank + 1) * size - 1}"
        detail = f"{own}; {filler} in the other slots"
        book.add("R106", place, rows=int(partly_TL.size), detail=detail)
        return True
    return False


def _add_range(
    ids_TLK: Ints, bad_TL: Bools, meta: DumpMeta, where: tuple[str, int], book: Book
) -> None:
    """Ids out of range, and what they may be."""
    name, start = where
    row, column = (int(n) for n in np.argwhere(bad_TL)[0])
    why, ids = _why_out(ids_TLK[bad_TL], meta.num_experts, float(bad_TL.mean(axis=0).max()))
    book.add(
        "R101",
        Place(name, start + row, meta.layers_L[column]),
        rows=int(bad_TL.sum()),
        layers=[meta.layers_L[i] for i in np.flatnonzero(bad_TL.any(axis=0))],
        detail=why,
        facts={"kind": why, **ids},
    )


def _why_out(rows_NK: Ints, limit: int, share: float) -> tuple[str, dict[str, int]]:
    """What fits rows with an id out of range, and which ids, where these tell it."""
    out_NK = (rows_NK < 0) | (rows_NK >= limit)
    values = np.unique(rows_NK[out_NK])
    if set(values.tolist()) <= {255, 65535}:
        return "a sentinel wrapped to 255 or 65535 in part of a row", {}
    if set(values.tolist()) == {-1}:
        return "-1 in part of a row", {}
    of_slots = [np.unique(rows_NK[out_NK[:, k], k]) for k in np.flatnonzero(out_NK.any(axis=0))]
    alone = all(len(ids) == 1 for ids in of_slots) and len(of_slots) == len(values)
    if share > 0.5 and values[0] == limit and alone:
        return "ids of shared experts, in a slot of their own", {}
    if values[0] >= 0 and int(values.max()) < limit + max(limit, 64):
        why = "physical ones (EPLB), which PATH::expert_map=FILE reads as logical ones"
        return f"{why}, or another model's", {
            "least_ids": int(values[0]),
            "greatest_ids": int(values[-1]),
        }
    return "no ids at all: another type or another layout of bytes", {}


class NarrowIds:
    """Whether ids were kept in a type of too few bits: those beyond its greatest never occur."""

    def __init__(self, meta: DumpMeta) -> None:
        self._experts, self.limit = meta.num_experts, 256 if meta.num_experts > 256 else 0
        self._declared = meta.wire_dtype == "uint8"
        self._seen_E = np.zeros(meta.num_experts, np.bool_)
        self._ids = 0

    def add(self, routes: Routes) -> None:
        """Look at the ids of one more sample."""
        if not self.limit or not routes.ids_TLK.size:
            return
        ids_TLK = routes.ids_TLK
        there = ids_TLK if routes.missing_TL is None else ids_TLK[~routes.missing_TL]
        self._seen_E[there.ravel()] = True
        self._ids += there.size

    def verdict(self) -> str:
        """What cannot hold the ids, in words; empty where they are as they should be."""
        if not self.limit or self._seen_E[self.limit :].any():
            return ""
        rarely = (self.limit / self._experts) ** min(self._ids, 1 << 20) < _CHANCE
        beyond = self._experts - self.limit
        known = beyond >= _MISSED and self._seen_E[: self.limit].mean() > _SEEN
        if not rarely or not (self._declared or known):
            return ""
        what = "uint8" if self._declared else "8 bits"
        return f"{what} cannot hold {self._experts} experts: ids from {self.limit} on never occur"


def check_narrow(routes: Routes, limit: int, verdict: str, name: str, book: Book) -> bool:
    """Whether a sample's ids are all below ``limit``, as the verdict on its dump says."""
    if not verdict or not routes.ids_TLK.size or int(routes.ids_TLK.max()) >= limit:
        return False
    book.add("R105", Place(name, routes.start), rows=routes.rows, detail=verdict)
    return True
