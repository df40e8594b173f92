"""What the load of experts shows: rows like random experts, transposed axes, filler by rank.

Shape suffixes: T tokens, L MoE layers, K top_k, E experts.
"""

import numpy as np
from numpy.typing import NDArray

from ...kernels.check import add_scores, heaviest_run
from .book.results import Book
from .rows import View

__all__ = ["SURPRISE", "LoadModel", "check_axes", "filler_by_rank"]

_LAYERS = 12  # looked at, evenly spaced
_WARM = 500  # tokens that the load is known from, before it is believed
SURPRISE = 60.0  # nats that random experts explain a run of rows better by
_NEAR = 3.0  # sigmas around what random experts would score
_EVEN = 4.0  # sigmas that the run's own load may be from even
_SHORTEST = 4
_AXIS_ROWS = 64  # of a sample that axes are looked at in,
_AXIS_FEWER = 16  # and of one whose rows do not follow the load
_AXIS_SAMPLE = 256  # tokens, and layers, that axes are judged by
_AXIS_LAYERS = 8
_OWN = 0.35  # how much a layer is like itself in a clean recording, at least
_NOBODYS = 0.15


class LoadModel:
    """The load of a dump, and runs of tokens that follow an even load instead."""

    def __init__(self, load_LE: NDArray[np.int64], top_k: int) -> None:
        """``load_LE`` counts how often each layer of the dump, or of some samples, took experts."""
        self.load_LE, self.top_k = load_LE, top_k
        num_layers, num_experts = load_LE.shape
        evenly = np.linspace(0, num_layers - 1, min(_LAYERS, num_layers))
        self.columns = np.unique(evenly.astype(np.int64))
        smooth_LE = load_LE + 1.0
        share_LE = smooth_LE / smooth_LE.sum(axis=1, keepdims=True)
        self.table_LE = np.log(share_LE * num_experts).astype(np.float32)
        self.warm = bool(load_LE[self.columns[:1]].sum() >= _WARM * top_k)

    def check(self, view: View, book: Book) -> None:
        """Add a finding where a run of a sample's rows is like random experts."""
        top_k, tokens, table_LE = self.top_k, view.routes.num_tokens, self.table_LE
        if not self.warm or tokens < _SHORTEST:
            return
        num_experts = table_LE.shape[1]
        score_T = add_scores(view.routes.ids_TLK, table_LE, self.columns, view.routes.missing_TL)
        first, end, surprise = heaviest_run(-score_T)
        if surprise < SURPRISE or end - first < _SHORTEST:
            return
        if first < 2 and end > tokens - 2 and check_axes(view, book, _AXIS_FEWER):
            return  # too short to be called so but for its load
        part_LE = table_LE[self.columns]
        spread = (num_experts - top_k) / max(num_experts - 1, 1)
        sigma = np.sqrt(top_k * spread * part_LE.var(axis=1).sum() / (end - first))
        away = abs(float(score_T[first:end].mean()) - top_k * float(part_LE.mean(axis=1).sum()))
        if away <= _NEAR * sigma and self._is_even(view, first, end):
            first = 0 if first < _SHORTEST else first  # fewer rows beside it are not judged
            end = tokens if end > tokens - _SHORTEST else end
            size = (end - first) * view.routes.ids_TLK.shape[1]
            where = "at the front" if first == 0 else "at the end" if end == tokens else ""
            book.add("R207", view.place(first), rows=size, detail=where)
            view.filler_TL[first:end] = True

    def _is_even(self, view: View, first: int, end: int) -> bool:
        """Whether the experts of a run of tokens are taken as evenly as by chance."""
        ids_TLK = view.routes.ids_TLK[first:end]
        num_experts = self.load_LE.shape[1]
        even = (end - first) * self.top_k / num_experts
        spread = 1 - self.top_k / num_experts
        squares = sum(
            float(((np.bincount(ids_TLK[:, i].ravel(), minlength=num_experts) - even) ** 2).sum())
            for i in self.columns.tolist()
        )
        cells = num_experts * len(self.columns)
        return bool(squares / even <= spread * (cells + _EVEN * np.sqrt(2 * cells)))


def _own_columns(ids_TLK: NDArray[np.unsignedinteger], num_experts: int) -> float:
    """How much more a column's load in one half is like its own in the other than like others'."""
    step, every = max(len(ids_TLK) // _AXIS_SAMPLE, 1), -(-ids_TLK.shape[1] // _AXIS_LAYERS)
    ids_TLK = ids_TLK[::step, ::every]
    half, layers = len(ids_TLK) // 2, ids_TLK.shape[1]
    sides = []
    # every other row, so that loads that move within a sample move in both halves
    for part in (ids_TLK[: 2 * half : 2], ids_TLK[1 : 2 * half : 2]):
        cells = part.astype(np.int64) + num_experts * np.arange(layers)[:, None]
        load_LE = np.bincount(cells.ravel(), minlength=layers * num_experts)
        shape_LE = load_LE.reshape(layers, -1) - load_LE.mean()
        sides.append(shape_LE / (np.linalg.norm(shape_LE, axis=1, keepdims=True) + 1e-9))
    like_LL = sides[0] @ sides[1].T
    own = float(np.trace(like_LL))
    other = float(like_LL.sum()) - own
    return float(own / layers - other / (layers * (layers - 1)))


def check_axes(view: View, book: Book, rows: int = _AXIS_ROWS) -> bool:
    """Whether the buffer makes more sense as [L, T, K]: then each layer has a load of its own.

    Not of samples of fewer than so many rows.
    """
    ids_TLK, experts = view.routes.ids_TLK, view.routes.num_experts
    tokens, layers, top_k = ids_TLK.shape
    filler = view.scan.uniform_T.any() or view.scan.flags_TL.any()
    if tokens < rows or layers < 2 or filler or view.routes.missing_TL is not None:
        return False
    here = _own_columns(ids_TLK, experts)
    if here > _NOBODYS:
        return False
    turned_TLK = ids_TLK.reshape(layers, tokens, top_k).transpose(1, 0, 2)
    if _own_columns(turned_TLK, experts) < _OWN:
        return False
    book.add("R103", view.place(0), rows=tokens * layers)
    return True


def filler_by_rank(load_LE: NDArray[np.int64], filler_L: NDArray[np.int64], ep: int) -> str | None:
    """What filler, all on expert 0, adds to the first of ``ep`` ranks, in words; None for none."""
    if ep < 2 or not filler_L.any() or load_LE.shape[1] % ep:
        return None
    ranks_LR = load_LE.reshape(len(load_LE), ep, -1).sum(axis=2).astype(np.float64)
    with_LR = ranks_LR.copy()
    with_LR[:, 0] += filler_L
    busiest = [
        float((r / np.maximum(r.mean(axis=1, keepdims=True), 1)).max()) for r in (ranks_LR, with_LR)
    ]
    return (
        f"busiest of {ep} ranks, worst layer: {busiest[1]:.3f} x mean with the filler, "
        f"{busiest[0]:.3f} without"
    )
