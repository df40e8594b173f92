"""Whose route each row of a sample carries: its rows laid along a reference's by content.

As a line diff aligns lines: candidate lags are those that rows ask for by where their sets are
found; the likeliest path through them is Viterbi's, each row scored by the ids that it shares.
Shape suffixes: T tokens, L layers, S lags, P pairs of layers, K top_k.
"""

import numpy as np
from numpy.typing import NDArray

from ....kernels.align import best_path, log_odds
from ....kernels.check import Hashes
from ....routes import Bools
from .side import Ints, Side, differing

__all__ = ["NOBODY", "align", "explained", "row_keys", "unplaced"]

NOBODY = -1
_LAYERS = 12  # that rows are laid by, evenly spaced
_LAGS = 62  # candidates, beside none
_VOTES = 3  # of rows, that make a lag a candidate
_FOUND = 8  # places of one set that vote; more are a common set, which says nothing
_SAME = 0.75  # chance that an id of a row is in the row that it should equal
_TEMPER = 0.5  # ids of one row are not independent
_CHANGE = 12.0  # nats that a change of lag costs, beside the logarithm of the choices
_APART = (7, 31, 101)  # rows that far from each other are unrelated
_FEW = 16  # rows from which single ones make an order, and their share
_MOST = 0.4
_FOLLOWS = 0.75  # mismatch that a lag may leave beside rows that it explains
_LESS = 0.15
_SINGLE = 0.5  # share of a row's pairs of layers that must be found at one place


def row_keys(side: Side) -> tuple[Hashes, Bools]:
    """A number of each row in every pair of adjacent layers [T, P], and whether both are there."""
    hash_TL, there_TL = side.hash_TL, side.there_TL
    if hash_TL.shape[1] == 1:
        return hash_TL, there_TL
    mixed = hash_TL[:, :-1] * np.uint64(0x9E3779B97F4A7C15)
    return mixed ^ hash_TL[:, 1:], there_TL[:, :-1] & there_TL[:, 1:]


def _found(ours: Side, theirs: Side, wrong_T: Bools) -> tuple[Ints, Ints]:
    """Pairs (row of ours, row of theirs) with an equal key, a pair for every layer pair."""
    keys, there = row_keys(ours)
    others, also = row_keys(theirs)
    rows, places = [], []
    for column in range(keys.shape[1]):
        known = np.flatnonzero(also[:, column])
        order = known[np.argsort(others[known, column], kind="stable")]
        ordered = others[order, column]
        asked = np.flatnonzero(there[:, column] & wrong_T)
        first = np.searchsorted(ordered, keys[asked, column], side="left")
        last = np.searchsorted(ordered, keys[asked, column], side="right")
        many = last - first
        use = (many > 0) & (many <= _FOUND)
        for offset in range(int(many[use].max()) if use.any() else 0):
            hit = use & (many > offset)
            rows.append(asked[hit])
            places.append(order[first[hit] + offset])
    if not rows:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    return np.concatenate(rows), np.concatenate(places)


def _table(theirs: Side, top_k: int) -> NDArray[np.float32]:
    """Nats of n shared ids in each layer, float32 [L, K + 1]; unrelated rows say what is chance."""
    bits, there, layers = theirs.bits_TLW, theirs.there_TL, theirs.there_TL.shape[1]
    shared_L, rows_L = np.zeros(layers), np.zeros(layers)
    for apart in _APART:
        if apart < len(bits):
            both = there[apart:] & there[:-apart]
            counts = np.bitwise_count(bits[apart:] & bits[:-apart]).sum(axis=2, dtype=np.int64)
            shared_L += np.where(both, counts, 0).sum(axis=0)
            rows_L += both.sum(axis=0)
    chance_L = (shared_L + 0.5) / (top_k * np.maximum(rows_L, 1) + 1.0)
    chance_L = np.clip(chance_L, 1e-3, _SAME - 0.05)
    n = np.arange(top_k + 1)
    gain = n * np.log(_SAME / chance_L)[:, None]
    gain += (top_k - n) * np.log((1 - _SAME) / (1 - chance_L))[:, None]
    return (_TEMPER * gain).astype(np.float32)


def align(ours: Side, theirs: Side, wrong_T: Bools, *, own: bool = True) -> Ints:
    """The position of the reference whose row each of our rows is, int64 [T]; NOBODY for none.

    ``wrong_T`` marks rows that are not where they should be: they alone ask for lags. ``own`` says
    that both sides are of the same tokens, so that a row may be in place. Rows that are missing
    follow their neighbours.
    """
    columns = np.unique(np.linspace(0, ours.there_TL.shape[1] - 1, _LAYERS).astype(np.int64))
    ours, theirs = ours.layers(columns), theirs.layers(columns)
    row_N, place_N = _found(ours, theirs, wrong_T)
    lags, votes = np.unique(place_N - row_N, return_counts=True)
    order = np.argsort(-votes, kind="stable")
    lags = lags[order][votes[order] >= min(_VOTES, int(wrong_T.sum()))][:_LAGS]
    if own:
        lags = np.unique(np.concatenate([[ours.start - theirs.start], lags]))
    tokens = len(ours.ids_TLK)
    if not len(lags) or not tokens or not len(theirs.ids_TLK):
        return np.full(tokens, NOBODY, np.int64)
    odds_TS = log_odds(
        (ours.bits_TLW, ours.there_TL),
        (theirs.bits_TLW, theirs.there_TL),
        lags,
        _table(theirs, ours.ids_TLK.shape[2]),
    )
    odds_ST = np.concatenate([np.zeros((1, tokens), np.float32), odds_TS.T])
    change = _CHANGE + float(np.log(odds_ST.size))
    path_T = best_path(odds_ST, np.full(len(odds_ST), change))
    source_T = np.where(path_T > 0, np.arange(tokens) + lags[path_T - 1], NOBODY)
    _single(source_T, row_N, place_N, ours.there_TL.shape[1])
    source_T = np.where(source_T >= 0, source_T + theirs.start, NOBODY)
    _fill(ours, theirs, source_T)
    return source_T


def _fill(ours: Side, theirs: Side, source_T: Ints) -> None:
    """Give a gap the lag of its neighbours where that leaves less of it than its place does."""
    known = np.flatnonzero(source_T >= 0)
    if not len(known):
        return
    edges = np.flatnonzero(np.diff(np.concatenate([[0], (source_T < 0).astype(np.int8), [0]])))
    for first, end in edges.reshape(-1, 2).tolist():
        here = np.arange(first, end) + ours.start
        lags = {here[0] - 1 - source_T[first - 1]} if first else set()
        lags |= {here[-1] + 1 - source_T[end]} if end < len(source_T) else set()
        stay = _rate(ours, theirs, here, here)
        for lag in sorted(lags):
            left = _rate(ours, theirs, here, here - lag)
            if left <= min(_FOLLOWS, stay - _LESS):
                source_T[first:end], stay = here - lag, left


def _rate(ours: Side, theirs: Side, here_N: Ints, source_N: Ints) -> float:
    wrong, both = differing(ours, theirs, here_N, source_N)
    return float(wrong.sum() / both.sum()) if both.any() else 1.0


def _single(source_T: Ints, row_N: Ints, place_N: Ints, layers: int) -> None:
    """Give rows that no lag explains the one place that most of their layers are found at.

    Only where most such rows have one, as in an order of single rows: a few are chance.
    """
    lost_N = source_T[row_N] < 0
    if not lost_N.any():
        return
    cells, votes = np.unique(np.stack([row_N[lost_N], place_N[lost_N]]), axis=1, return_counts=True)
    least = max(2, _SINGLE * max(layers - 1, 1))
    found = {}
    for row in np.unique(cells[0, votes >= least]).tolist():
        own = cells[0] == row
        best = votes[own].max()
        if (votes[own] == best).sum() == 1:
            found[row] = int(cells[1, own][votes[own].argmax()])
    if len(found) >= max(_FEW, _MOST * int((source_T < 0).sum())):
        for row, place in found.items():
            source_T[row] = place


def unplaced(ours: Side, source_T: Ints) -> Ints:
    """The same, missing rows nobody's where the lag changes at them: filler that was put in."""
    found_T, lag_T = source_T.copy(), np.arange(len(source_T)) - source_T
    absent_T = ~ours.there_TL.any(axis=1)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], absent_T.astype(np.int8), [0]])))
    for first, end in edges.reshape(-1, 2).tolist():
        if not first or end == len(found_T) or min(source_T[first - 1], source_T[end]) < 0:
            continue
        if lag_T[first - 1] != lag_T[end]:
            found_T[first:end] = NOBODY
    return found_T


def explained(ours: Side, theirs: Side, source_T: Ints) -> tuple[Bools, Bools]:
    """(differs, both there) [T, L] of rows against the rows that they are aligned with."""
    here_T = np.arange(len(source_T)) + ours.start
    return differing(ours, theirs, here_T, np.where(source_T < 0, -1, source_T))
