"""Small samples looked at many at a time: those of which nothing is to be told are counted here.

What no sample alone could be told apart by is decided for all samples of some columns at once, on
the safe side: one that might have a finding is left to ``Checker``, which looks at each by itself.
So what is counted is what it would count. Shape suffixes: S samples, R rows of all of them (a token
in all layers), L MoE layers, K top_k.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...columns.samples import NONE, SampleColumns, sums_of
from ...kernels.check import ARANGE, DUPLICATE, RowScan, add_scores, scan_sample
from ...kernels.rows import count_load
from ...kernels.token_tables import score_rows
from ...keys import run_places
from ...routes import Bools, Ids
from .alone.judged import Learnt, least_suspicious
from .alone.tables import slots_of
from .book.results import CONSTANT_FROM
from .lesson import Lesson
from .load import SURPRISE
from .options import CheckOptions
from .rows import rare_by_chance, uniform_by_chance
from .samples import LEAST_ROWS

__all__ = ["SMALL", "Quiet", "quiet_samples"]

Ints = NDArray[np.int64]
SMALL = 64  # rows of a sample that is looked at by itself: its axes are judged too
_REPEATS_FROM = 8  # rows, from which blocks that are repeated are looked for
_NEAR = 0.1  # of what is compared with a limit: sums here are of other order


@dataclass(frozen=True, slots=True, eq=False)
class Quiet:
    """Samples without a finding: bool [S], which; how often each expert was in their rows."""

    there_S: Bools
    load_LE: Ints


def quiet_samples(
    columns: SampleColumns,
    asked_S: Bools,
    first_S: NDArray[np.int32],
    lesson: Lesson,
    options: CheckOptions,
) -> Quiet | None:
    """Which of the asked samples nothing is to be told of, as far as that is seen together.

    first_S are the first siblings of the columns' samples, -1 for none. None where all are to be
    looked at one by one.
    """
    ids_RLK, learnt = columns.ids_RLK, lesson.learnt
    if ids_RLK is None or lesson.verdict or (learnt is not None and not _judges_at_place(learnt)):
        return None
    experts = lesson.load.load_LE.shape[1]
    scan = scan_sample(ids_RLK, experts, zero_twice=options.zero_experts > 0)
    quiet_S = asked_S & _said(columns) & _rows_quiet(columns, ids_RLK, scan, lesson, experts)
    quiet_S &= _like_first(columns, first_S, ids_RLK)
    if learnt is not None:
        quiet_S &= _own_tokens(columns, ids_RLK, learnt)
    loud_S = columns.routed_S & ~quiet_S
    load_LE = scan.load_LE
    if loud_S.any():
        places_R = run_places(columns.begins_S[loud_S], columns.num_rows_S[loud_S])
        load_LE = load_LE - count_load(ids_RLK[places_R], experts)
    return Quiet(quiet_S, load_LE)


def _said(columns: SampleColumns) -> Bools:
    """Whose numbers say nothing but that one row is there for each token but the last."""
    tokens_S, stop_S = columns.num_tokens_S, columns.start_S + columns.num_rows_S
    lists_S = columns.prompt.sizes_S + columns.response.sizes_S
    found_S = columns.routed_S & ~columns.missing_S & (columns.num_rows_S < SMALL)
    found_S &= (tokens_S == NONE) | (stop_S == tokens_S - 1)
    found_S &= ~columns.known_S | (stop_S <= lists_S)
    found_S &= ~(columns.inferred_S & (columns.start_S != 0))
    found_S &= (columns.retractions_S <= 0) & (columns.spans_S <= 1)
    found_S &= (columns.spans_S == 0) | (columns.cached_S <= 0)
    return found_S


def _any(marks_R: Any, columns: SampleColumns) -> Bools:
    """Which samples have a marked row."""
    found_S: Bools = sums_of(marks_R, columns.num_rows_S) > 0
    return found_S


def _rows_quiet(
    columns: SampleColumns, ids_RLK: Ids, scan: RowScan, lesson: Lesson, experts: int
) -> Bools:
    """Whose rows are not alike, not twice, not in order and not like random experts."""
    (_, layers, top_k), size_S = ids_RLK.shape, columns.num_rows_S
    loud_S = _any(((scan.flags_TL & DUPLICATE) > 0).any(axis=1), columns)
    ordered_S = sums_of((scan.flags_TL & ARANGE > 0).sum(axis=1), size_S)
    loud_S |= rare_by_chance(ordered_S, size_S * layers, experts, top_k)
    if top_k > 1:
        loud_S |= _any(((ids_RLK == 0).sum(axis=2) > 1).any(axis=1), columns)
    alike_S = _any(scan.uniform_T, columns)
    loud_S |= alike_S & ~uniform_by_chance(size_S, layers, experts, top_k)
    if layers > 1:
        loud_S |= _repeated(columns, scan)
    long_S = size_S >= CONSTANT_FROM
    if long_S.any():
        of_R = np.repeat(np.arange(len(size_S)), size_S)
        first_RLK = ids_RLK[np.minimum(columns.begins_S, len(ids_RLK) - 1)][of_R]
        other_RL: Any = (ids_RLK != first_RLK).any(axis=2)
        for column in range(layers):
            loud_S |= long_S & ~_any(other_RL[:, column], columns)
    load = lesson.load
    if load.warm:
        score_R = -add_scores(ids_RLK, load.table_LE, load.columns).astype(np.float64)
        loud_S |= _sums_above_0(score_R, columns) > SURPRISE * (1 - _NEAR)
    return ~loud_S


def _sums_above_0(values_R: NDArray[np.float64], columns: SampleColumns) -> NDArray[np.float64]:
    """The sum of each sample's positive values: no run of its rows has a greater one."""
    total = np.concatenate([[0.0], np.cumsum(np.maximum(values_R, 0))])
    ends_S = columns.begins_S + columns.num_rows_S
    found_S: NDArray[np.float64] = total[ends_S] - total[columns.begins_S]
    return found_S


def _repeated(columns: SampleColumns, scan: RowScan) -> Bools:
    """Whose rows are there twice: next to each other with other tokens, or anywhere in many."""
    size_S, hash_R = columns.num_rows_S, scan.hash_T
    of_R = np.repeat(np.arange(len(size_S)), size_S)
    same_R = np.zeros(len(hash_R), np.bool_)
    same_R[1:] = (hash_R[1:] == hash_R[:-1]) & (of_R[1:] == of_R[:-1])
    if same_R.any():
        token_R = _token_of_rows(columns)
        alike_R = np.zeros(len(hash_R), np.bool_)
        alike_R[1:] = (token_R[1:] == token_R[:-1]) & (token_R[1:] != NONE)
        same_R &= ~alike_R
    loud_S = _any(same_R, columns)
    long_R = (size_S >= _REPEATS_FROM)[of_R]
    if long_R.any():
        order = np.lexsort((hash_R, of_R))
        again_R = np.zeros(len(hash_R), np.bool_)
        again_R[order[1:]] = (hash_R[order[1:]] == hash_R[order[:-1]]) & (
            of_R[order[1:]] == of_R[order[:-1]]
        )
        loud_S |= _any(again_R & long_R, columns)
    return loud_S


def _token_of_rows(columns: SampleColumns) -> NDArray[np.int32]:
    """The token of each row, int32 [R]; -1 where it has no id, or a sample's are not all known."""
    size_S, lists_S = columns.num_rows_S, columns.prompt.sizes_S + columns.response.sizes_S
    whole_S = columns.known_S & (columns.start_S + size_S <= lists_S)
    places_S = np.flatnonzero(whole_S)
    ids, sizes = columns.tokens(places_S)
    begins = np.cumsum(sizes) - sizes + columns.start_S[places_S]
    found_R = np.full(int(size_S.sum()), NONE, np.int32)
    into_R = run_places(columns.begins_S[places_S], size_S[places_S])
    found_R[into_R] = ids[run_places(begins, size_S[places_S])]
    return found_R


def _like_first(columns: SampleColumns, first_S: NDArray[np.int32], ids_RLK: Ids) -> Bools:
    """Whose prompt's rows are too few to be compared with its first sibling's, or the same."""
    prompt_S, start_S, layers = columns.prompt_length_S, columns.start_S, ids_RLK.shape[1]
    size_S = np.minimum(prompt_S, start_S + columns.num_rows_S) - start_S
    quiet_S: Bools = (first_S < 0) | (prompt_S == NONE) | (size_S * layers < LEAST_ROWS)
    at_S = first_S.astype(np.int64) - columns.first
    inside_S = ~quiet_S & (at_S >= 0)
    places = np.flatnonzero(inside_S)
    leaders = at_S[places]
    fit = columns.routed_S[leaders] & ~columns.missing_S[leaders]
    fit &= (columns.prompt_length_S[leaders] != NONE) & (start_S[leaders] == start_S[places])
    places, leaders = places[fit], leaders[fit]
    size = np.minimum(size_S[places], columns.num_rows_S[leaders])
    own_R = run_places(columns.begins_S[places], size)
    other_R = run_places(columns.begins_S[leaders], size)
    differing = sums_of((ids_RLK[own_R] != ids_RLK[other_R]).any(axis=(1, 2)), size)
    quiet_S[places[differing == 0]] = True
    return quiet_S


def _judges_at_place(learnt: Learnt) -> bool:
    """Whether sound rows are those of their own tokens, or nothing is judged by tokens."""
    return learnt.searcher is None or not learnt.power.enough or learnt.searcher.main == 0


def _own_tokens(columns: SampleColumns, ids_RLK: Ids, learnt: Learnt) -> Bools:
    """Whose rows surely are not suspicious, given their tokens, and fit in each layer."""
    searcher, misfits = learnt.searcher, learnt.misfits
    if searcher is None or misfits is None or not learnt.power.enough:
        return np.ones(len(columns), np.bool_)
    token_R = np.maximum(_token_of_rows(columns), NONE)
    slots_R = np.where(token_R < 0, NONE, slots_of(searcher.tables.tokens_V, token_R))
    folds_R = learnt.folds_of(columns)
    own_RL = score_rows(
        slots_R.astype(np.int32), folds_R, ids_RLK, None, searcher.tables.scores_FVLE
    )
    half, limit = least_suspicious(searcher.noise)
    quiet_S: Bools = _sums_above_0(half - own_RL.sum(axis=1), columns) <= limit * (1 - _NEAR)
    for column, most in enumerate(searcher.noise.layer_L):
        quiet_S &= _sums_above_0(-own_RL[:, column].astype(np.float64), columns) <= most
    return quiet_S
