"""The larger of two parts of a dump whose routes by token are not the same.

Where half of a dump has its experts renumbered, tables of all of it fit both halves badly; those of
each half fit it well. Cuts are tried between samples and between positions. Shape suffixes: L MoE
layers, T rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ....routes import Bools
from .keeping import Kept, Tokens
from .lags import part_of
from .tables import Teaching, learn_tables

__all__ = ["larger_part"]

_CUTS = (0.25, 0.375, 0.5, 0.625, 0.75)
_BETTER = 0.06  # of what all together tell, by how much two parts tell more; of one kind they lose
_STEPS = 5
_HALVINGS = 4  # of the distance between cuts, around the best
Cut = Callable[[Kept, float], Bools]


def _mean(teaching: Teaching, tokens: Tokens, lag: int) -> NDArray[np.float64]:
    return learn_tables(teaching, teaching.placed(tokens, lag), shrinks=(3, 27))[1]


def larger_part(teaching: Teaching, lag: int) -> list[Bools]:
    """Of each kept sample the rows of the larger part, bool [T]; all rows where there is one."""
    kept = teaching.kept
    part, tokens = part_of(teaching)
    together_L = _mean(part, tokens, lag)
    best: tuple[float, Cut, float] | None = None
    larger = [np.ones(one.rows, np.bool_) for one in kept]
    looked_at = {one.index for one in part.kept}

    def tried(cut: Cut, at: float, *, known: bool = True) -> None:
        nonlocal best, larger
        early = {one.index: cut(one, at) for one in kept}
        gain, more = _gain(part, tokens, lag, together_L, early)
        if gain > (0.0 if best is None else best[0]):
            best = gain, cut, at
            larger = [
                (early[one.index] == more) & (known or one.index in looked_at) for one in kept
            ]

    for cut, places in _cuts(kept):
        for at in places:
            tried(cut, at)
        if best is not None and best[1] is cut and len(places) > 2:
            step = (places[-1] - places[0]) / (len(places) - 1)
            for _ in range(_HALVINGS):
                step /= 2
                _, _, middle = best
                tried(cut, middle - step)
                tried(cut, middle + step)
    tried(_alike(part, tokens, lag), 0.0, known=False)
    return larger


def _gain(
    part: Teaching,
    tokens: Tokens,
    lag: int,
    together_L: NDArray[np.float64],
    early: dict[int, Bools],
) -> tuple[float, bool]:
    """How much more two parts tell, 0.0 where not clearly more; whether the first tells the most.

    Of equal halves, one of them late by one, the late one tells less: it is not taken.
    """
    sides = []
    for side in (True, False):
        counted = [
            rows & (early[one.index][: len(rows)] == side)
            for one, rows in zip(part.kept, part.counted, strict=True)
        ]
        size = int(sum(rows.sum() for rows in counted))
        sides.append((size, _mean(replace(part, counted=counted), tokens, lag)))
    (a, first_L), (b, second_L) = sides
    apart_L = (a * first_L + b * second_L) / max(a + b, 1)
    gain_L = np.maximum(apart_L - together_L, 0)
    clear = a and b and (gain_L > _BETTER * np.maximum(together_L, 0) + 0.5).any()
    first_tells = bool(a * first_L.sum() >= b * second_L.sum())
    return float(gain_L.sum()) if clear else 0.0, first_tells


def _cuts(kept: Sequence[Kept]) -> list[tuple[Cut, list[float]]]:
    """Ways to cut rows in two, each with places to try: samples, positions, weight versions."""
    ends = np.cumsum([one.rows for one in kept])
    order = {one.index: n for n, one in enumerate(kept)}
    places = np.concatenate([one.start + np.arange(one.rows) for one in kept])
    samples = [float(np.searchsorted(ends, share * ends[-1])) for share in _CUTS]
    versions = [*dict.fromkeys(version for one in kept for version, _ in one.versions)]

    def before_sample(one: Kept, at: float) -> Bools:
        return np.full(one.rows, order[one.index] < at)

    def before_position(one: Kept, at: float) -> Bools:
        return np.asarray(one.start + np.arange(one.rows) < at)

    def of_version(one: Kept, at: float) -> Bools:
        return _of_version(one, versions[int(at)])

    return [
        (before_sample, samples),
        (before_position, [float(np.quantile(places, share)) for share in _CUTS]),
        (of_version, [0.0, 1.0] if len(versions) > 1 else []),
    ]


def _alike(part: Teaching, tokens: Tokens, lag: int) -> Cut:
    """Samples whose routes the longest one teaches, then those that these teach, and so on.

    Of two kinds of samples in no order, such as two replicas with their own experts' numbers, it
    finds one kind.
    """
    longest = max(range(len(part.kept)), key=lambda n: int(part.counted[n].sum()))
    members = {longest}
    for _ in range(_STEPS):
        counted = [
            rows if n in members else np.zeros_like(rows) for n, rows in enumerate(part.counted)
        ]
        taught = replace(part, counted=counted)
        tables, _ = learn_tables(taught, taught.placed(tokens, lag), shrinks=(3,))
        totals = [
            int(tables.score(one, folds, one.tokens_at(lag)).sum())
            for one, folds in zip(part.kept, part.folds, strict=True)
        ]
        members = {n for n, total in enumerate(totals) if total > 0} or {longest}
    chosen = {part.kept[n].index for n in members}

    def among(one: Kept, _at: float) -> Bools:
        return np.full(one.rows, one.index in chosen)

    return among


def _of_version(one: Kept, version: str) -> Bools:
    """The rows of a weight version, the prompt's being of the first one."""
    of_T = np.zeros(one.rows, np.bool_)
    for name, position in one.versions:
        of_T[max(position - one.start, 0) :] = name == version
    return of_T
