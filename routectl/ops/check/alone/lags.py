"""The lag of a dump as a whole: at which routes by token say the most.

A dump all of whose samples are late by one teaches, at lag 0, the routes of the token before: less
than at lag 1, since language tells the next token only in part. Shape suffixes: L MoE layers.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ....kernels.token_tables import score_rows
from .keeping import Kept, Tokens
from .tables import Tables, Teaching, learn_tables, mean_score

__all__ = ["LAGS", "dump_lag", "lag_by", "part_of"]

LAGS = 64  # tried on both sides
_SAMPLES = 32  # laid at every lag against tables of another dump
_ROWS = 1 << 13  # learnt from for each of them
_GOLDEN = 0.6180339887498949
_TABLE = 512  # experts of all layers taken
_TOKENS = 256
_FIRST = (1, -1, 2, -2, 3, -3, 17, -17)
_PLAIN = 1.5  # times what those tell, from which lag 0 is the dump's
_BLOCK = 64  # rows whose sum is one observation
_CLEAR = 6.0  # standard errors by which another lag is better


def part_of(teaching: Teaching) -> tuple[Teaching, Tokens]:
    """Some samples, some layers of them, and their commonest tokens."""
    kept = teaching.kept
    layers = kept[0].ids_TLK.shape[1]
    columns = np.linspace(0, layers - 1, min(layers, max(1, _TABLE // teaching.num_experts)))
    mean_rows = max(sum(min(one.rows, _ROWS) for one in kept) // len(kept), 1)
    spread = sorted(range(len(kept)), key=lambda n: n * _GOLDEN % 1.0)  # in step with no pattern
    chosen = sorted(spread[: max(_ROWS // mean_rows, 2)])
    part = Teaching(
        [_with_layers(kept[i], columns.astype(int)) for i in chosen],
        [teaching.folds[i][:_ROWS] for i in chosen],
        [teaching.counted[i][:_ROWS] for i in chosen],
        teaching.num_experts,
    )
    return part, part.vocabulary(_TOKENS)


def _with_layers(one: Kept, columns: NDArray[np.int64]) -> Kept:
    missing = None if one.missing_TL is None else one.missing_TL[:_ROWS, columns]
    ids = np.ascontiguousarray(one.ids_TLK[:_ROWS, columns])
    return replace(one, ids_TLK=ids, missing_TL=missing)


def lag_by(tables: Tables, teaching: Teaching) -> int:
    """The lag at which rows score best by tables of another dump, 0 unless that is above 0."""
    part = teaching.first(_SAMPLES)
    scores = {lag: mean_score(part, tables, lag).sum() for lag in range(-LAGS, LAGS + 1)}
    best = max(scores, key=lambda lag: (scores[lag], -abs(lag)))
    return best if scores[best] > 0 else 0


def _row_scores(teaching: Teaching, tokens: NDArray[np.int32], lag: int) -> NDArray[np.float64]:
    """What blocks of counted rows score at a lag, by tables of that lag."""
    placed = teaching.placed(tokens, lag)
    tables, _ = learn_tables(teaching, placed, shrinks=(9,))
    means: list[NDArray[np.int64]] = []
    for one, folds, slots_T in zip(teaching.kept, teaching.folds, placed.slots, strict=True):
        rows_TL = score_rows(slots_T, folds, one.ids_TLK, one.missing_TL, tables.scores_FVLE)
        sums = np.add.reduceat(rows_TL.sum(axis=1), np.arange(0, len(rows_TL), _BLOCK))
        means.append(sums)
    return np.concatenate(means).astype(np.float64)


def dump_lag(teaching: Teaching) -> int:
    """The lag at which rows of other folds are told best, 0 unless another is clearly better.

    Where lag 0 tells several times what a few others do, the rest are not tried.
    """
    part, tokens = part_of(teaching)
    tried = {lag: _row_scores(part, tokens, lag) for lag in (0, *_FIRST)}
    rest = max(float(tried[lag].sum()) for lag in _FIRST)
    if tried[0].sum() > _PLAIN * max(rest, 0.0) and tried[0].sum() > 0:
        return 0
    for lag in range(-LAGS, LAGS + 1):
        if lag not in tried:
            tried[lag] = _row_scores(part, tokens, lag)
    best = max(tried, key=lambda lag: (tried[lag].sum(), -abs(lag)))
    gain = tried[best] - tried[0]
    error = gain.std() * np.sqrt(len(gain)) + 1e-9
    return best if tried[best].sum() > 0 and gain.sum() > _CLEAR * error else 0
