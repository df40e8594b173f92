"""What a page shows beside the figures, as the optional key ``detail`` of a document.

docs/json.md is the contract. Bounded in size: a million tokens of 48 layers stay under 8 MB.
Shape suffixes: L layers, E experts, P places, B bins of positions or margins, N numbers of
differing layers.
"""

import base64
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ...margins import MARGIN_EDGES
from ...ops.diff.detail import DETAIL_PLACES, Detail, ListedSample
from ...ops.diff.flips import MarginCounts, flips_of
from ...ops.diff.kept import KeptSequence
from ...ops.diff.result import DiffResult
from .schema import (
    DetailDocument,
    ExpertLoad,
    KeptEntry,
    PlaceDetail,
    PlaceMargins,
    SampleParts,
    SampleTable,
    SideMargins,
)

__all__ = ["detail_document", "load_document", "places_document"]

_CELLS = 1 << 15  # of a load heatmap, up to which each expert has its own
_PARTS_BYTES = 512 << 10  # of the listed samples' mismatched rows by place and layer
_COLUMNS = ["sample", "tokens", "tokens_mismatched", "rows", "rows_mismatched"]


def detail_document(result: DiffResult, detail: Detail, eps: float) -> DetailDocument:
    """The key ``detail`` of a diff; eps is the margin up to which a flip is a near-tie."""
    counts, present = result.counts, _present(detail)
    document: DetailDocument = {
        **places_document(detail),
        "load": _load({"old": counts.load_old_LE, "new": counts.load_new_LE}),
        "samples": _samples(detail.samples.items, present),
        "sequences": [_sequence(s) for s in detail.worst],
    }
    if result.margins is not None:
        document["margin_edges"] = list(MARGIN_EDGES)
    for p, entry in zip(present, document["places"], strict=True):
        entry["swaps"] = detail.swaps_PLS[p].tolist()
        if len(present) > 1:
            entry["load"] = _load({"old": detail.load_old_PLE[p], "new": detail.load_new_PLE[p]})
        margins = detail.margins[p]
        if margins is not None:
            entry["margins"] = _margins(margins, eps)
    return document


def places_document(detail: Detail) -> DetailDocument:
    """The key ``detail`` of one of many comparisons: where rows differ, and nothing else."""
    return {"schema": "routectl.detail/1", "bin_width": detail.width, "places": _places(detail)}


def load_document(load_LE: NDArray[np.int64]) -> DetailDocument:
    """The key ``detail`` of a summary: the expert load alone."""
    return {"schema": "routectl.detail/1", "load": _load({"dump": load_LE})}


def _present(detail: Detail) -> list[int]:
    """The places that have rows, by index."""
    return [int(p) for p in np.flatnonzero(detail.depth_PN.any(axis=1))]


def _places(detail: Detail) -> list[PlaceDetail]:
    """Counts by layer and bin of each place that has rows, bins behind the last row left out."""
    bins = int(np.flatnonzero(detail.rows_PLB.sum(axis=(0, 1)))[-1]) + 1
    places = [
        {
            "place": DETAIL_PLACES[p],
            "tokens_by_differing_layers": detail.depth_PN[p].tolist(),
            "rows": detail.rows_PLB[p, :, :bins].tolist(),
            "rows_mismatched": detail.mismatched_PLB[p, :, :bins].tolist(),
        }
        for p in _present(detail)
    ]
    return cast("list[PlaceDetail]", places)


def _margins(counts: MarginCounts, eps: float) -> PlaceMargins:
    """The mismatched rows of a place by margin, layer by layer."""
    flips = [flips_of(counts, eps, index) for index in range(len(counts.known_L))]
    return {
        "rows_with_margin": [f.rows for f in flips],
        "ties": [f.ties for f in flips],
        "near_ties": [f.near for f in flips],
        "clear_flips": [f.clear for f in flips],
        "old": _side(counts, 0),
        "new": _side(counts, 1),
    }


def _side(counts: MarginCounts, side: int) -> SideMargins | None:
    """Rows by layer and bin of one side's own margin; None for a side without."""
    rows_LB = counts.rows_2LB[side]
    if not rows_LB.any():
        return None
    return {"rows": rows_LB.tolist(), "rows_mismatched": counts.flips_2LB[side].tolist()}


def _samples(listed: Sequence[ListedSample], present: list[int]) -> SampleTable:
    """The worst samples, each with what it adds up to, whole and by place and layer."""
    size = max((s.mismatched_PL[present].nbytes for s in listed), default=1)
    most = max((int(s.tokens_P.max()) for s in listed), default=0)
    dtype = np.min_scalar_type(most)
    shown = listed[: max(1, _PARTS_BYTES * 4 // (size * dtype.itemsize))]
    return {
        "columns": list(_COLUMNS),
        "rows": [[s.sample, *_sums(s)] for s in shown],
        "parts": _parts(shown, present, dtype),
    }


def _sums(s: ListedSample) -> list[int]:
    """A sample's counts by the names of _COLUMNS."""
    counts = s.tokens_P, s.tokens_mismatched_P, s.rows_PL, s.mismatched_PL
    return [int(count.sum()) for count in counts]


def _parts(listed: Sequence[ListedSample], present: list[int], dtype: np.dtype[Any]) -> SampleParts:
    """Tokens of the listed samples by place, and rows by place and layer."""
    absent = [s.tokens_P[present, None] - s.rows_PL[present] for s in listed]
    return {
        "tokens": [s.tokens_P[present].tolist() for s in listed],
        "tokens_mismatched": [s.tokens_mismatched_P[present].tolist() for s in listed],
        "count_bytes": dtype.itemsize,
        "rows_mismatched": _text(
            np.array([s.mismatched_PL[present] for s in listed]).astype(dtype)
        ),
        "rows_absent": _text(np.array(absent).astype(dtype)) if np.any(absent) else None,
    }


def _load(sides: dict[str, NDArray[np.int64]]) -> ExpertLoad:
    """How often experts were taken, by layer; neighbours add up where there are very many."""
    layers, experts = next(iter(sides.values())).shape
    per_cell = -(-layers * experts // _CELLS)
    edges = np.arange(0, experts, per_cell)
    added = {side: np.add.reduceat(load, edges, axis=1).tolist() for side, load in sides.items()}
    return cast("ExpertLoad", {"experts_per_cell": per_cell, **added})


def _text(array: NDArray[Any]) -> str:
    """Bytes of an array, little-endian, in base64."""
    return base64.b64encode(array.astype(array.dtype.newbyteorder("<")).tobytes()).decode()


def _bits(marks: NDArray[np.bool_]) -> str:
    """Marks as bits, the first in the lowest bit of the first byte, in base64."""
    return _text(np.packbits(marks.ravel(), bitorder="little"))


def _sequence(kept: KeptSequence) -> KeptEntry:
    missing, ids = kept.missing_TL, kept.token_ids
    margins = (None, None) if kept.margins_2R is None else map(_text, kept.margins_2R)
    old_margins, new_margins = margins
    return {
        "sample": kept.sample,
        "tokens": kept.tokens,
        "position": kept.position,
        "kept": len(kept.differs_TL),
        "prompt_length": kept.prompt_length,
        "id_bytes": kept.old_TLK.itemsize,
        "old": _text(kept.old_TLK),
        "new_mismatched": _text(kept.new_RK),
        "differs": _bits(kept.differs_TL),
        "missing": None if missing is None else _bits(missing),
        "old_margins": old_margins,
        "new_margins": new_margins,
        "token_ids": None if ids is None else ids.tolist(),
    }
