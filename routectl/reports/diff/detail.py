"""What a page shows beside the figures, as the optional key ``detail`` of a document.

docs/json.md is the contract. Bounded in size: a million tokens of 48 layers stay under 8 MB.
Shape suffixes: L layers, E experts, P places, B bins, N numbers of differing layers.
"""

import base64
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ...ops.diff.detail import DETAIL_PLACES, Detail, KeptSequence
from ...ops.diff.diff import DiffResult
from ...ops.diff.measures import SequenceRates
from .schema import DetailDocument, ExpertLoad, KeptEntry, PlaceDetail

__all__ = ["detail_document", "load_document", "places_document"]

_CELLS = 1 << 15  # of a load heatmap, up to which each expert has its own
_SAMPLES = 2000  # the worst, listed with their counts
_COLUMNS = ("sample", "tokens", "tokens_mismatched", "rows", "rows_mismatched")


def detail_document(result: DiffResult, detail: Detail) -> DetailDocument:
    """The key ``detail`` of a diff."""
    counts = result.counts
    listed = SequenceRates(result.sequences).worst_first[:_SAMPLES]
    return {
        **places_document(detail),
        "load": _load({"old": counts.load_old_LE, "new": counts.load_new_LE}),
        "samples": {
            "columns": list(_COLUMNS),
            "rows": [[getattr(s, name) for name in _COLUMNS] for s in listed],
        },
        "sequences": [_sequence(s) for s in detail.worst],
    }


def places_document(detail: Detail) -> DetailDocument:
    """The key ``detail`` of one of many comparisons: where rows differ, and nothing else."""
    return {"schema": "routectl.detail/1", "bin_width": detail.width, "places": _places(detail)}


def load_document(load_LE: NDArray[np.int64]) -> DetailDocument:
    """The key ``detail`` of a summary: the expert load alone."""
    return {"schema": "routectl.detail/1", "load": _load({"dump": load_LE})}


def _places(detail: Detail) -> list[PlaceDetail]:
    """Counts by layer and bin of each place that has rows, bins behind the last row left out."""
    bins = int(np.flatnonzero(detail.rows_PLB.sum(axis=(0, 1)))[-1]) + 1
    places = [
        {
            "place": place,
            "tokens_by_differing_layers": detail.depth_PN[p].tolist(),
            "rows": detail.rows_PLB[p, :, :bins].tolist(),
            "rows_mismatched": detail.mismatched_PLB[p, :, :bins].tolist(),
        }
        for p, place in enumerate(DETAIL_PLACES)
        if detail.depth_PN[p].any()
    ]
    return cast("list[PlaceDetail]", places)


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
        "token_ids": None if ids is None else ids.tolist(),
    }
