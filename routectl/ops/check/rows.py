"""What one sample's rows show by themselves: filler by position, constant layers, repeats.

Shape suffixes: T tokens, L MoE layers, K top_k, E experts.
"""

from dataclasses import dataclass, replace
from math import e, perm
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...dump import Sample
from ...kernels.check import ARANGE, DUPLICATE, RowScan
from ...routes import Bools, Routes
from .book.results import CONSTANT_FROM, Book, Place

__all__ = [
    "View",
    "check_holes",
    "check_rows_of",
    "rare_by_chance",
    "uniform_by_chance",
]

_MANY_LAYERS = 16  # from which two tokens with equal rows in every layer are no chance
_UNKNOWN_RUN = 8  # identical rows in a row where the tokens are not known
_BLOCK = 4  # rows of a block that is repeated; 16 where the tokens are not known
_SLIME_HOLES = 64  # tokens without routes that slime tolerates in any sample
_BY_CHANCE = 0.01  # rows 0, 1, 2, ... that a sample may be expected to have by chance
_SKEW = 30  # how much likelier than uniform a row of few popular experts may be


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A sample with routes as the checks see it; bad_TL marks rows with an id out of range.

    filler_TL are the rows that a finding calls filler, marked as they are found.
    """

    sample: Sample
    name: str
    routes: Routes
    scan: RowScan
    filler_TL: Bools
    bad_TL: Bools | None = None

    def without_filler(self, sample: Sample) -> Sample:
        """The sample as it is held against others: filler is no route, so it is missing."""
        if not self.filler_TL.any() or sample.routes is None:
            return sample
        missing_TL = sample.routes.missing_TL
        gone_TL = self.filler_TL if missing_TL is None else self.filler_TL | missing_TL
        return replace(sample, routes=replace(sample.routes, missing_TL=gone_TL))

    def place(self, row: int | None = None, column: int | None = None) -> Place:
        """A place by indices into the rows and the layers."""
        layer = None if column is None else self.routes.layers_L[column]
        return Place(self.name, None if row is None else self.routes.start + int(row), layer)

    @property
    def tokens_T(self) -> NDArray[np.int32] | None:  # noqa: N802
        """The token ids of the rows; None where not all are known."""
        ids = self.sample.token_ids
        if ids is None or self.routes.stop > len(ids):
            return None
        return ids[self.routes.start : self.routes.stop]


def _runs_of(mask_T: Any) -> list[tuple[int, int]]:
    """The runs of True as (first, after the last)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(mask_T, np.int8), [0]])))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def check_rows_of(view: View, hash_layers: tuple[int, ...], book: Book) -> None:
    """Add the findings of one sample's rows to ``book``."""
    if view.routes.num_tokens == 0:
        return
    _check_missing(view, hash_layers, book)
    _check_constant_layers(view, hash_layers, book)
    _check_flags(view, book)
    _check_uniform(view, book)
    _check_identical(view, book)
    _check_blocks(view, book)


def _check_missing(view: View, hash_layers: tuple[int, ...], book: Book) -> None:
    """Rows without a route, by where they are."""
    missing_TL = view.routes.missing_TL
    if missing_TL is None:
        return
    layers = view.routes.layers_L
    tokens = len(missing_TL)
    whole_L = missing_TL.all(axis=0)
    if whole_L.all():
        book.add("R005", view.place(0), rows=missing_TL.size, detail="every row is filler")
        return
    if tokens >= CONSTANT_FROM:
        for column in np.flatnonzero(whole_L).tolist():
            if layers[column] not in hash_layers:
                book.add("R301", view.place(0, column), rows=tokens, layers=[layers[column]])
        missing_TL = missing_TL & ~whole_L
    for first, end in _runs_of(missing_TL.any(axis=1)):
        part = missing_TL[first:end]
        column = int(np.flatnonzero(part[0])[0])
        touched = [layers[i] for i in np.flatnonzero(part.any(axis=0))]
        code, detail = _kind_of_gap(view, first, end)
        every = part.all()
        book.add(
            code,
            view.place(first, None if every else column),
            rows=int(part.sum()),
            layers=[] if every else touched,
            detail=detail,
        )


def check_holes(view: View, book: Book) -> None:
    """Tokens of a slime dump without a route in any layer, which it replays as expert 0.

    Source: slime (utils/routed_experts.py, validate_routed_experts_tensor): with top_k above 1 it
    tolerates max(64, rows // 100) of them in a sample, and raises beyond.
    """
    missing_TL = view.routes.missing_TL
    if missing_TL is None or view.routes.top_k == 1:
        return
    hole_T = np.asarray(missing_TL.all(axis=1))
    holes, tokens = int(hole_T.sum()), len(hole_T)
    if not 0 < holes < tokens:  # without any it is R005
        return
    within = holes <= max(_SLIME_HOLES, tokens // 100)
    book.add(
        "R209",
        view.place(int(np.argmax(hole_T))),
        rows=holes * missing_TL.shape[1],
        detail="slime tolerates as many" if within else "slime refuses the sample: more than that",
    )


def _kind_of_gap(view: View, first: int, end: int) -> tuple[str, str]:
    """The code of a run of tokens with missing rows, and what else is known of it."""
    tokens, start = view.routes.num_tokens, view.routes.start
    between = "between the rows of two calls"
    ends = {segment.stop for segment in view.sample.segments[:-1]}
    if _is_boundary(view, start + first, start + end) and end < tokens:
        return "R204", between if start + first in ends else ""
    if start + first in ends and end < tokens:
        return "R205", between
    if first == 0:
        cached = view.sample.cached_tokens
        known = cached is not None and start + end == cached
        return "R201", "exactly the cached tokens" if known else ""
    if end == tokens:
        return ("R203", "") if end - first == 1 else ("R202", "")
    return "R205", ""


def _is_boundary(view: View, first: int, end: int) -> bool:
    """Whether a short gap ends where the loss mask says that a turn ends."""
    mask = view.sample.loss_mask
    if mask is None or end - first > 2 or end >= len(mask):
        return False
    return bool((mask[first:end] != mask[first + 1 : end + 1]).any())


def _check_constant_layers(view: View, hash_layers: tuple[int, ...], book: Book) -> None:
    missing_TL, top_k = view.routes.missing_TL, view.routes.top_k
    enough = CONSTANT_FROM if top_k > 1 else 8 * CONSTANT_FROM
    there_L = np.full(len(view.scan.varies_L), view.routes.num_tokens)
    if missing_TL is not None:
        there_L = there_L - missing_TL.sum(axis=0)
    if view.bad_TL is not None:  # they have a finding of their own
        there_L = np.where(view.bad_TL.any(axis=0), 0, there_L)
    constant_L = ~view.scan.varies_L & (there_L >= enough)
    if len(constant_L) > 1 and constant_L.all():
        return  # whole tokens are alike: another finding
    for column in np.flatnonzero(constant_L).tolist():
        layer = view.routes.layers_L[column]
        if layer not in hash_layers:
            book.add("R302", view.place(0, column), rows=int(there_L[column]), layers=[layer])


def _add_flagged(view: View, book: Book, code: str, flag_TL: Bools, detail: str = "") -> None:
    row, column = (int(n) for n in np.argwhere(flag_TL)[0])
    layers = [view.routes.layers_L[i] for i in np.flatnonzero(flag_TL.any(axis=0))]
    book.add(code, view.place(row, column), rows=int(flag_TL.sum()), layers=layers, detail=detail)


def _check_flags(view: View, book: Book) -> None:
    flags_TL = view.scan.flags_TL
    if not flags_TL.any():
        return
    twice_TL = (flags_TL & DUPLICATE) > 0
    if twice_TL.any():
        _add_flagged(view, book, "R102", twice_TL, _why_twice(view, twice_TL))
        view.filler_TL[twice_TL & _of_one_id(view.routes)] = True
    arange_TL = (flags_TL & ARANGE) > 0
    count = int(arange_TL.sum())
    if rare_by_chance(count, flags_TL.size, view.routes.num_experts, view.routes.top_k):
        _add_flagged(view, book, "R206", arange_TL, _where(arange_TL.any(axis=1)))
        view.filler_TL[arange_TL] = True


def _of_one_id(routes: Routes) -> Bools:
    """Rows with one id in all of their slots, bool [T, L]."""
    return np.asarray((routes.ids_TLK == routes.ids_TLK[..., :1]).all(axis=2))


def _why_twice(view: View, twice_TL: Bools) -> str:
    """What rows with repeated ids look like, all of them."""
    rows_NK = view.routes.ids_TLK[twice_TL]
    top_k = rows_NK.shape[1]
    if (
        top_k % 4 == 0
        and len(rows_NK) > 3
        and not rows_NK.reshape(len(rows_NK), -1, 4)[:, :, 1:].any()
    ):
        return "int32 read as bytes"
    if (rows_NK == rows_NK[:, :1]).all():
        values = np.unique(rows_NK)
        return f"all {int(values[0])}" if len(values) == 1 else "one expert in all slots"
    if (rows_NK == view.routes.num_experts - 1).any(axis=1).all() and rows_NK.max() == 255:
        return "255 among them: a wrapped -1"
    return ""


def rare_by_chance(count: Any, rows: Any, experts: int, top_k: int) -> Any:
    """Whether so many of so many rows are 0, 1, 2, ... by more than chance; numbers or arrays."""
    chance = _SKEW * rows / perm(experts, top_k)
    return (count > 0) & ((count >= 3 + 10 * chance) | (chance < _BY_CHANCE))


def uniform_by_chance(tokens: Any, layers: int, experts: int, top_k: int) -> Any:
    """Whether one of so many tokens may have equal rows in all layers by chance."""
    odds = perm(experts, top_k)
    return tokens * min(_SKEW / odds, 1.0) ** (layers - 1) > _BY_CHANCE


def _where(mask_T: Any) -> str:
    """The part of a sample that marked tokens are in."""
    runs = _runs_of(mask_T)
    if len(runs) != 1:
        return "scattered"
    first, end = runs[0]
    if (first, end) == (0, len(mask_T)):
        return "all rows"
    return "at the front" if first == 0 else "at the end" if end == len(mask_T) else "in between"


def _check_uniform(view: View, book: Book) -> None:
    """Tokens whose every layer has the same bytes: a constant, unless it is 0, 1, 2, ..."""
    routes = view.routes
    if not view.scan.uniform_T.any():
        return
    layers = len(routes.layers_L)
    if uniform_by_chance(routes.num_tokens, layers, routes.num_experts, routes.top_k):
        return
    alike_T = view.scan.uniform_T & ~(view.scan.flags_TL.any(axis=1)) & ~_untrusted(view)
    if not alike_T.any():
        return
    row = int(np.flatnonzero(alike_T)[0])
    book.add("R208", view.place(row), rows=int(alike_T.sum()) * layers, detail=_where(alike_T))
    view.filler_TL[alike_T] = True


def _untrusted(view: View) -> Bools:
    """Tokens with a row that is missing or bad: other findings are about them."""
    masks: list[Any] = [m for m in (view.routes.missing_TL, view.bad_TL) if m is not None]
    if not masks:
        return np.zeros(view.routes.num_tokens, np.bool_)
    return np.asarray(np.logical_or.reduce(masks).any(axis=1))


def _explained(view: View) -> Bools:
    """Tokens that another finding already calls filler."""
    return _untrusted(view) | view.scan.uniform_T | view.scan.flags_TL.any(axis=1)


def _check_identical(view: View, book: Book) -> None:
    """Runs of tokens, several of them unlike, with the same bytes in every layer."""
    layers = len(view.routes.layers_L)
    if layers < 2 or view.routes.num_tokens < 2:
        return
    same_T = view.scan.hash_T[1:] == view.scan.hash_T[:-1]
    if not same_T.any():
        return
    fair_T = ~_explained(view)
    same_T &= fair_T[1:] & fair_T[:-1]
    tokens_T = view.tokens_T
    changes = 1 if layers >= _MANY_LAYERS else 2
    hits = []
    for first, end in _runs_of(same_T):
        pairs = end - first  # of tokens that may be unlike
        enough = pairs + 1 >= _UNKNOWN_RUN
        if tokens_T is not None:
            part = tokens_T[first : end + 1]
            pairs = int((part[1:] != part[:-1]).sum())
            enough = pairs >= changes
        if enough and not _alike_by_chance(view, pairs, pairs, len(same_T)):
            hits.append((first, end + 1))
    if hits:
        rows = sum(end - first for first, end in hits)
        book.add("R401", view.place(hits[0][0]), rows=rows * layers)


def _alike_by_chance(view: View, alike: int, pairs: int, places: int) -> bool:
    """Whether so many of so many pairs of tokens may be alike in all layers at one of some places.

    A slot of two rows is the same by the load of its layer, as if slots were drawn apart; the tail
    of the binomial is bounded (Chernoff).
    """
    ids_TLK = view.routes.ids_TLK
    share = 1.0
    for column in range(ids_TLK.shape[1]):
        load_E = np.bincount(ids_TLK[:, column].ravel())
        share *= float(((load_E / load_E.sum()) ** 2).sum()) ** ids_TLK.shape[2]
    return alike <= pairs * share or places * (e * pairs * share / alike) ** alike > _BY_CHANCE


def _check_blocks(view: View, book: Book) -> None:
    """Rows that were there before, in the same order, of other tokens."""
    hash_T = view.scan.hash_T
    if len(view.routes.layers_L) < 2 or len(hash_T) < 2 * _BLOCK:
        return
    order = np.argsort(hash_T, kind="stable")
    again = np.flatnonzero(hash_T[order[1:]] == hash_T[order[:-1]])
    if not len(again):
        return
    lag_T = np.zeros(len(hash_T), np.int64)
    lag_T[order[again + 1]] = order[again + 1] - order[again]
    lag_T[_explained(view) | (lag_T == 1)] = 0
    tokens_T = view.tokens_T
    for first, end in _runs_of(lag_T > 0):
        lags, counts = np.unique(lag_T[first:end], return_counts=True)
        lag, count = int(lags[counts.argmax()]), int(counts.max())
        rows = np.arange(first, end)[lag_T[first:end] == lag]
        other = tokens_T is None or (tokens_T[rows] != tokens_T[rows - lag]).mean() > 0.5
        long = count >= (_BLOCK if tokens_T is not None else 4 * _BLOCK)
        if other and long and not _alike_by_chance(view, count, end - first, len(hash_T) ** 2):
            front = "" if rows[0] != lag else "from the first row on"
            size = count * len(view.routes.layers_L)
            book.add("R402", view.place(int(rows[0])), rows=size, detail=front)
            return
