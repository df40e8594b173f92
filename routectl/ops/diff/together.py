"""Pairs of small samples compared many at a time, from columns: what each pair alone would give.

A pair is compared so where its two samples have rows of the same positions, none missing, and the
same tokens as far as both know them; the others are left to whoever compares one by one. Shape
suffixes: P pairs, D pairs that are compared here, R rows of them (a token in all layers).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...columns.samples import NONE, SampleColumns, sums_of
from ...kernels.rows import RowCounts
from ...keys import run_places
from ...routes import Bools, Ids
from ..pairs.align import Aligner
from .counts import Counts

__all__ = ["Together", "compare_together", "rows_alone"]

Ints = NDArray[np.int64]
Count = Callable[[Ids, Ids], RowCounts]


@dataclass(frozen=True, slots=True, eq=False)
class Together:
    """Pairs compared together.

    done_P      bool [P], which are; the arrays of D are of these, in order
    rows        what was counted of their rows, end to end; counts are what these add up to
    tokens_D, tokens_mismatched_D, rows_mismatched_D   int64
    inferred    starts that were inferred; alone_old, alone_new as in Counts
    """

    done_P: Bools
    rows: RowCounts
    counts: Counts
    tokens_D: Ints
    tokens_mismatched_D: Ints
    rows_mismatched_D: Ints
    inferred: int
    alone_old: int
    alone_new: int


def compare_together(
    aligner: Aligner,
    sides: tuple[SampleColumns, SampleColumns],
    places: tuple[Ints, Ints],
    count: Count,
) -> Together | None:
    """Compare samples of OLD's columns, at some places, with samples of NEW's; ``count`` counts.

    None where no pair can be compared so.
    """
    (old, new), (at_P, with_P) = sides, places
    of_old, of_new = old.prompt_length_S[at_P], new.prompt_length_S[with_P]
    prompt_P = np.where(of_old == NONE, of_new, of_old)
    done_P = _alike(aligner, sides, places, prompt_P)
    if not done_P.any():
        return None
    at_D, with_D, prompt_D = at_P[done_P], with_P[done_P], prompt_P[done_P]
    first_D, size_D = _selected(old, at_D, aligner.tokens, prompt_D)
    rows = count(
        _rows(old, at_D, first_D, size_D, aligner.old.columns),
        _rows(new, with_D, first_D, size_D, aligner.new.columns),
    )
    cached_D = np.maximum(np.maximum(old.cached_S[at_D], new.cached_S[with_D]), 0)
    counts = Counts.of_rows(
        rows,
        None,
        run_places(old.start_S[at_D] + first_D, size_D),
        np.repeat(prompt_D, size_D),
        np.repeat(cached_D, size_D),
    )
    tokens = int(size_D.sum())
    return Together(
        done_P,
        rows,
        counts,
        size_D,
        sums_of(rows.differing_T > 0, size_D),
        sums_of(rows.differing_T, size_D),
        int(old.inferred_S[at_D].sum() + new.inferred_S[with_D].sum()),
        tokens * len(aligner.old.alone or ()),
        tokens * len(aligner.new.alone or ()),
    )


def rows_alone(aligner: Aligner, side: SampleColumns, at_P: Ints, *, is_new: bool) -> Ints:
    """``Aligner.rows_alone`` of samples of which no row is missing, int64 [P]."""
    of_side = aligner.new if is_new else aligner.old
    prompt_P, tokens = side.prompt_length_S[at_P], aligner.tokens
    known_P = prompt_P != NONE
    _, part_P = _selected(side, at_P, tokens, np.where(known_P, prompt_P, 0))
    size_P = np.where(known_P, part_P, side.num_rows_S[at_P])
    counted = of_side.counted
    return size_P * (len(of_side.meta.layers_L) if counted is None else len(counted))


def _alike(
    aligner: Aligner,
    sides: tuple[SampleColumns, SampleColumns],
    places: tuple[Ints, Ints],
    prompt_P: Ints,
) -> Bools:
    """Which pairs have the same positions and tokens, and nothing that is looked at alone."""
    there, scored = [], []
    for side, at_P in zip(sides, places, strict=True):
        there.append(side.routed_S[at_P] & ~side.missing_S[at_P])
        scored.append(side.scored_S[at_P])
    alike_P = there[0] & there[1]
    for name in ("start_S", "num_rows_S"):
        a_P, b_P = (getattr(side, name)[at] for side, at in zip(sides, places, strict=True))
        alike_P &= a_P == b_P
    if aligner.tokens != "prompt":
        alike_P &= ~(scored[0] & scored[1])
    if aligner.tokens != "all":
        alike_P &= prompt_P != NONE
    known_P = sides[0].known_S[places[0]] & sides[1].known_S[places[1]]
    if aligner.by_prompt:
        alike_P &= known_P
    stop_P = sides[0].start_S[places[0]] + sides[0].num_rows_S[places[0]]
    same_P = _same_tokens(sides, places, known_P & alike_P, stop_P)
    return alike_P & (same_P | ~known_P)


def _same_tokens(
    sides: tuple[SampleColumns, SampleColumns],
    places: tuple[Ints, Ints],
    asked_P: Bools,
    stop_P: Ints,
) -> Bools:
    """Which of the pairs that are asked have the same token ids, at least as many as rows."""
    asked = np.flatnonzero(asked_P)
    lengths = []
    for side, at_P in zip(sides, places, strict=True):
        at = at_P[asked]
        lengths.append(side.prompt.sizes_S[at] + side.response.sizes_S[at])
    asked = asked[(lengths[0] == lengths[1]) & (stop_P[asked] <= lengths[0])]
    old, sizes = sides[0].tokens(places[0][asked])
    new, _ = sides[1].tokens(places[1][asked])
    found_P = np.zeros(len(asked_P), np.bool_)
    found_P[asked] = sums_of(old != new, sizes) == 0
    return found_P


def _selected(side: SampleColumns, at_P: Ints, tokens: str, prompt_P: Ints) -> tuple[Ints, Ints]:
    """The first selected row of each sample, and how many are."""
    rows_P = side.num_rows_S[at_P]
    if tokens == "all":
        return np.zeros_like(rows_P), rows_P
    split_P = np.clip(prompt_P - side.start_S[at_P], 0, rows_P)
    if tokens == "prompt":
        return np.zeros_like(rows_P), split_P
    return split_P, rows_P - split_P


def _rows(
    side: SampleColumns, at_D: Ints, first_D: Ints, size_D: Ints, columns: list[int] | None
) -> Ids:
    """The selected rows of samples end to end."""
    ids_RLK = side.ids_RLK
    assert ids_RLK is not None  # a sample that is compared has routes
    places_R = run_places(side.begins_S[at_D] + first_D, size_D)
    if len(places_R) and (np.diff(places_R) == 1).all():
        found = ids_RLK[places_R[0] : places_R[-1] + 1]
    else:
        found = ids_RLK[places_R]
    return found if columns is None else np.ascontiguousarray(found[:, columns])
