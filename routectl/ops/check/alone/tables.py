"""Routes by token: counts of a dump, and the scores that they give a row.

Shape suffixes: V tokens that have a table, L MoE layers, K top_k, E experts, F folds, T rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ....dump import DumpMeta
from ....errors import MismatchError
from ....kernels.token_tables import (
    Scores,
    count_rows,
    score_counts,
    score_rows,
    score_totals,
)
from ....keys import run_places
from ....routes import Bools
from .keeping import FOLDS, Kept, Tokens

__all__ = [
    "BIT",
    "Dictionary",
    "OnTokens",
    "Tables",
    "Teaching",
    "learn_tables",
    "mean_score",
    "slots_of",
    "tables_of",
]

BIT = 16  # scores are in sixteenths of a bit
_CELLS = 1 << 22  # of a fold's counts
_TOKENS = 4096
_SHRINK = (1, 3, 9, 27)  # rows that the layer's own frequencies weigh as much as
Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Dictionary:
    """What a model's routers chose, by token: of one dump, or of several added up.

    tokens_V are token ids, ascending; counts_VLE how often each expert was in a row of the token,
    rows_V its rows. At most 4,096 tokens and 4 Mi counts, the commonest tokens: 32 MiB.
    """

    tokens_V: Tokens
    counts_VLE: Counts
    rows_V: Counts
    layers_L: tuple[int, ...]
    top_k: int

    def check(self, meta: DumpMeta) -> None:
        """Raise MismatchError where a dump is of another model than this."""
        own = (self.layers_L, self.top_k, self.counts_VLE.shape[2])
        if own != (meta.layers_L, meta.top_k, meta.num_experts):
            raise MismatchError(
                f"{meta.path}: got layers, K, E {meta.layers_L, meta.top_k, meta.num_experts}, "
                f"expected those of what was learnt before, {own}"
            )

    def __add__(self, other: "Dictionary") -> "Dictionary":
        same = (self.layers_L, self.top_k, self.counts_VLE.shape[2])
        if same != (other.layers_L, other.top_k, other.counts_VLE.shape[2]):
            raise MismatchError(
                "dictionaries of two models do not add up: "
                f"layers, K, E are {same} and "
                f"{(other.layers_L, other.top_k, other.counts_VLE.shape[2])}"
            )
        tokens = np.union1d(self.tokens_V, other.tokens_V).astype(np.int32)
        counts = np.zeros((len(tokens), *self.counts_VLE.shape[1:]), np.int64)
        rows = np.zeros(len(tokens), np.int64)
        for side in (self, other):
            at = np.searchsorted(tokens, side.tokens_V)
            counts[at] += side.counts_VLE
            rows[at] += side.rows_V
        kept = np.sort(np.argsort(-rows, kind="stable")[: _room(counts.shape[1:])])
        return Dictionary(tokens[kept], counts[kept], rows[kept], self.layers_L, self.top_k)


def _room(shape: tuple[int, ...]) -> int:
    """How many tokens have a table."""
    return max(1, min(_TOKENS, _CELLS // int(np.prod(shape))))


@dataclass(frozen=True, slots=True, eq=False)
class Tables:
    """The scores of ids given a token: int8 sixteenths of log2 P(id | token) / P(id).

    scores_FVLE[f] was learnt from the other folds than f; with one fold, from another dump.
    """

    tokens_V: Tokens
    scores_FVLE: Scores

    def score(self, one: Kept, folds_T: Tokens, tokens_T: Tokens) -> NDArray[np.int32]:
        """Of each row, its score were it of these tokens: int32 [T, L]."""
        slots_T = slots_of(self.tokens_V, tokens_T)
        return score_rows(slots_T, folds_T, one.ids_TLK, one.missing_TL, self.scores_FVLE)


def slots_of(tokens_V: Tokens, tokens_N: Tokens) -> Tokens:
    """The index of each token among those that have a table, int32; -1 for the others."""
    if not len(tokens_V):
        return np.full(len(tokens_N), -1, np.int32)
    at_N = np.minimum(np.searchsorted(tokens_V, tokens_N), len(tokens_V) - 1)
    return np.where(tokens_V[at_N] == tokens_N, at_N, -1).astype(np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class OnTokens:
    """Rows laid on tokens: of each sample the slot of each row's token, int32 [T], -1 for none.

    Slots are those of ``tokens_V``. Rows that do not count have none; ``rows`` have a token, with a
    table or without.
    """

    tokens_V: Tokens
    slots: list[Tokens]
    rows: int


@dataclass(frozen=True, slots=True, eq=False)
class Teaching:
    """Rows to learn from: of each kept sample its folds and which rows count."""

    kept: Sequence[Kept]
    folds: Sequence[Tokens]
    counted: Sequence[Bools]
    num_experts: int

    def first(self, samples: int) -> "Teaching":
        """The first samples alone."""
        cut = slice(samples)
        return Teaching(self.kept[cut], self.folds[cut], self.counted[cut], self.num_experts)

    def dictionary(self, lag: int, layers: tuple[int, ...]) -> Dictionary:
        """The counts of all folds, to be the reference of another dump of the model."""
        tokens = self.vocabulary()
        counts, rows = self.count(self.placed(tokens, lag))
        top_k = self.kept[0].ids_TLK.shape[2]
        total = counts.sum(axis=0, dtype=np.int64)
        return Dictionary(tokens, total, rows.sum(axis=0), layers, top_k)

    def vocabulary(self, most: int = _TOKENS) -> Tokens:
        """The commonest tokens of the counted rows, ascending."""
        found = [one.tokens_at(0)[c] for one, c in zip(self.kept, self.counted, strict=True)]
        tokens, counts = np.unique(np.concatenate(found), return_counts=True)
        tokens, counts = tokens[tokens >= 0], counts[tokens >= 0]
        room = min(most, _room((self.kept[0].ids_TLK.shape[1], self.num_experts)))
        return np.sort(tokens[np.argsort(-counts, kind="stable")[:room]]).astype(np.int32)

    def placed(self, tokens_V: Tokens, lag: int) -> OnTokens:
        """The slots of the counted rows' tokens at a lag, of all samples at a time."""
        sizes_S = np.array([one.rows for one in self.kept])
        lengths_S = np.array([len(one.tokens_N) for one in self.kept])
        own_N = np.concatenate([one.tokens_N for one in self.kept])
        place_R = run_places(np.array([one.start - lag for one in self.kept]), sizes_S)
        begin_R = np.repeat(np.cumsum(lengths_S) - lengths_S, sizes_S)
        inside_R = (place_R >= 0) & (place_R < np.repeat(lengths_S, sizes_S))
        inside_R &= np.concatenate(self.counted)
        at_R = np.where(inside_R, begin_R + place_R, 0)
        known_R = inside_R & (own_N >= 0)[at_R]
        slots_R = np.where(known_R, slots_of(tokens_V, own_N)[at_R], -1).astype(np.int32)
        slots = np.split(slots_R, np.cumsum(sizes_S)[:-1])
        return OnTokens(tokens_V, slots, int(known_R.sum()))

    def count(self, placed: OnTokens) -> tuple[NDArray[np.uint32], Counts]:
        """Counts by fold, token, layer and expert, and rows by fold and token."""
        shape = (FOLDS, len(placed.tokens_V), self.kept[0].ids_TLK.shape[1], self.num_experts)
        counts, rows = np.zeros(shape, np.uint32), np.zeros(shape[:2], np.int64)
        for one, folds, slots_T in zip(self.kept, self.folds, placed.slots, strict=True):
            count_rows(slots_T, folds, one.ids_TLK, one.missing_TL, counts, rows)
        return counts, rows

    def mean_of(self, placed: OnTokens, scores_FVLE: Scores) -> NDArray[np.float64]:
        """The mean score of the placed rows, by layer, [L], in sixteenths of a bit."""
        totals_L = np.zeros(self.kept[0].ids_TLK.shape[1], np.int64)
        for one, folds, slots_T in zip(self.kept, self.folds, placed.slots, strict=True):
            score_totals(slots_T, folds, one.ids_TLK, one.missing_TL, scores_FVLE, totals_L)
        return totals_L / max(placed.rows, 1)


def learn_tables(
    teaching: Teaching, placed: OnTokens, shrinks: Sequence[int] = _SHRINK
) -> tuple[Tables, NDArray[np.float64]]:
    """Tables of rows laid on tokens, and their mean score in each layer, [L], in sixteenths.

    How much a layer's own frequencies are blended in is what serves best in rows of other folds.
    """
    counts, _ = teaching.count(placed)
    top_k = teaching.kept[0].ids_TLK.shape[2]
    best_L = np.full(counts.shape[2], -np.inf)
    best = np.zeros(counts.shape, np.int8)
    for shrink in shrinks:
        tried = score_counts(counts, shrink * top_k, BIT)
        mean_L = teaching.mean_of(placed, tried)
        for layer in np.flatnonzero(mean_L > best_L).tolist():
            best[:, :, layer] = tried[:, :, layer]
        best_L = np.maximum(best_L, mean_L)
    return Tables(placed.tokens_V, best), best_L


def tables_of(prior: Dictionary, teaching: Teaching) -> Tables:
    """Tables of another dump's counts, blended as serves best in rows of this one at lag 0."""
    counts = np.minimum(prior.counts_VLE, np.iinfo(np.uint32).max).astype(np.uint32)[None]
    placed = teaching.placed(prior.tokens_V, 0)
    best: tuple[float, Tables] | None = None
    for shrink in _SHRINK:
        tried = score_counts(counts, shrink * prior.top_k, BIT)
        score = float(teaching.mean_of(placed, tried).sum())
        if best is None or score > best[0]:
            best = score, Tables(prior.tokens_V, tried)
    assert best is not None
    return best[1]


def mean_score(teaching: Teaching, tables: Tables, lag: int) -> NDArray[np.float64]:
    """The mean score of the counted rows with a token, by layer, [L], in sixteenths of a bit."""
    return teaching.mean_of(teaching.placed(tables.tokens_V, lag), tables.scores_FVLE)
