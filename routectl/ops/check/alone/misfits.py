"""Rows in their place that fit no token: experts renumbered, layers exchanged, or neither.

The rows of a layer that do not fit are pooled; what they would score as another layer's, or with
their ids mapped, says what they are. Shape suffixes: N rows, L MoE layers, K top_k, E experts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....kernels.align import best_path
from ....kernels.token_tables import (
    assign_largest,
    renumbering_gains,
    score_layers,
    worst_runs,
)
from ....routes import Bools, Ids
from .keeping import Kept, Tokens
from .noise import RowNoise
from .results import ExchangedLayer, RenumberedLayer, Span, StrangeLayer, TokenStretch
from .tables import BIT, Tables, slots_of

__all__ = ["Misfit", "Misfits", "Named", "Pool"]

_OF_ONE = (128, 16)  # rows of a run that are looked at: of the first runs of a layer, and of others
_FIRST = 32
_SPANS = 1024  # runs of a layer, the first ones, that are named
_MAPS = 4  # different ones of a layer
_FITS = 0.4  # of the mean score of a row at its own token: what rows that fit have at least
_LIKE_WRONG = 0.4  # of the mean score at a wrong token: what rows that do not fit have at most
_SURE = 16 * BIT  # what an id scores above any other expert before its place is no guess


@dataclass(frozen=True, slots=True, eq=False)
class Misfit:
    """Rows of one layer of a sample that do not fit; of long runs the ids of the first only."""

    span: Span
    slots_N: Tokens
    folds_N: Tokens
    ids_NK: Ids
    nobody: bool  # in no layer do these rows fit

    @property
    def place(self) -> tuple[int, int]:
        """What runs are ordered by."""
        return self.span.index, self.span.first

    def short(self) -> "Misfit":
        """The same with fewer rows."""
        size = _OF_ONE[1]
        if len(self.ids_NK) <= size:
            return self
        slots, folds, ids = self.slots_N[:size], self.folds_N[:size], self.ids_NK[:size]
        return Misfit(self.span, slots.copy(), folds.copy(), ids.copy(), self.nobody)


@dataclass(slots=True)
class Pool:
    """Runs that do not fit, by layer's column: the first ones of the dump; shards add up."""

    runs: dict[int, list[Misfit]] = field(default_factory=dict)

    def put(self, column: int, run: Misfit) -> None:
        """Take in a run."""
        held = self.runs.setdefault(column, [])
        held.append(run)
        if len(held) > 2 * _SPANS:
            self.runs[column] = _trimmed(held)

    def first(self, column: int) -> list[Misfit]:
        """The runs of a column that are looked at, in order."""
        return _trimmed(self.runs.get(column, []))

    def __add__(self, other: "Pool") -> "Pool":
        columns = sorted({*self.runs, *other.runs})
        both = {n: [*self.runs.get(n, []), *other.runs.get(n, [])] for n in columns}
        return Pool({n: _trimmed(runs) for n, runs in both.items()})


def _trimmed(runs: Sequence[Misfit]) -> list[Misfit]:
    """The first runs in order, and less of those that are not among the very first."""
    held = sorted(runs, key=lambda run: run.place)[:_SPANS]
    return [*held[:_FIRST], *(run.short() for run in held[_FIRST:])]


@dataclass(frozen=True, slots=True)
class Named:
    """What the runs of a pool are."""

    layers: int
    renumbered: tuple[RenumberedLayer, ...] = ()
    exchanged: tuple[ExchangedLayer, ...] = ()
    strange: tuple[StrangeLayer, ...] = ()

    def kind_of(self, span: Span) -> str:
        """What nobody's rows are in most layers, after all: renumbered, exchanged, or nobody's."""
        counts = {
            "renumbered": sum(span in one.spans for one in self.renumbered),
            "exchanged": sum(span in one.spans for one in self.exchanged),
        }
        most = max(counts, key=lambda kind: counts[kind])
        return most if 2 * sum(counts.values()) >= self.layers else "nobody"


@dataclass(slots=True)
class Misfits:
    """Finds what does not fit in one sample, and names what did not fit in all of them."""

    layers: tuple[int, ...]
    tables: Tables
    noise: RowNoise
    main: int

    def found(
        self, one: Kept, folds: Tokens, own_TL: NDArray[np.int32], stretches: Sequence[TokenStretch]
    ) -> list[tuple[int, Misfit]]:
        """A sample's rows that are nobody's, and of its own rows the layers that do not fit.

        own_TL are the rows' scores at the lag of the dump.
        """
        found: list[tuple[int, Misfit]] = []
        tokens = one.tokens_at(self.main)
        for part in stretches:
            first, end = part.first - one.start, part.end - one.start
            if part.kind == "nobody":
                for column in range(len(self.layers)):
                    run = self._run(one, folds, tokens, column, (first, end), nobody=True)
                    found.append((column, run))
            elif part.lag == self.main and part.source is None:
                for column, rows in self._own(own_TL, (first, end)):
                    found.append((column, self._run(one, folds, tokens, column, rows)))
        return found

    def _own(
        self, own_TL: NDArray[np.int32], rows: tuple[int, int]
    ) -> Iterator[tuple[int, tuple[int, int]]]:
        """(column, rows) of runs of own rows that score like wrong ones in a layer."""
        part_TL = own_TL[rows[0] : rows[1]]
        worst_L = worst_runs(part_TL)
        for column in np.flatnonzero(worst_L > np.array(self.noise.layer_L)).tolist():
            own_T = part_TL[:, column]
            gains_ST = np.stack([own_T, np.zeros_like(own_T)])
            at_T = best_path(gains_ST, np.array([0, self.noise.layer_L[column]], np.int64))
            edges = np.flatnonzero(np.diff(np.concatenate([[0], at_T, [0]])))
            for first, end in edges.reshape(-1, 2).tolist():
                if own_T[first:end].mean() <= _LIKE_WRONG * self.noise.wrong_L[column]:
                    yield column, (rows[0] + first, rows[0] + end)

    def _run(
        self,
        one: Kept,
        folds: Tokens,
        tokens: Tokens,
        column: int,
        rows: tuple[int, int],
        *,
        nobody: bool = False,
    ) -> Misfit:
        part = slice(rows[0], min(rows[1], rows[0] + _OF_ONE[0]))
        slots = slots_of(self.tables.tokens_V, tokens[part])
        if one.missing_TL is not None:
            slots[one.missing_TL[part, column]] = -1
        span = Span(one.name, one.start + rows[0], one.start + rows[1], one.index)
        return Misfit(span, slots, folds[part].copy(), one.ids_TLK[part, column].copy(), nobody)

    def named(self, pool: Pool) -> Named:
        """Say what the rows of each layer are."""
        found: list[RenumberedLayer | ExchangedLayer | StrangeLayer] = []
        for column, layer in enumerate(self.layers):
            left = self._exchange(column, pool.first(column), found)
            for _ in range(_MAPS):
                rest = self._renumber(column, left, found)
                if len(rest) == len(left):
                    break
                left = rest
            alone = [run for run in left if not run.nobody]
            if alone:
                found.append(StrangeLayer(layer, *_spans(alone)))
        return Named(
            len(self.layers),
            tuple(one for one in found if isinstance(one, RenumberedLayer)),
            tuple(one for one in found if isinstance(one, ExchangedLayer)),
            tuple(one for one in found if isinstance(one, StrangeLayer)),
        )

    def _exchange(self, column: int, runs: list[Misfit], found: list[Any]) -> list[Misfit]:
        """Runs that no single other layer has the routes of."""
        scores = self.tables.scores_FVLE
        if not runs or scores.shape[2] < 2:
            return runs
        by_run_RL = np.stack([score_layers(r.slots_N, r.folds_N, r.ids_NK, scores) for r in runs])
        total_L = by_run_RL.sum(axis=0)
        total_L[column] = np.iinfo(np.int64).min
        other = int(total_L.argmax())
        fits = [
            bool(self._fits(int(by_run_RL[n, other]), runs[n], other)) for n in range(len(runs))
        ]
        fitting = [run for run, yes in zip(runs, fits, strict=True) if yes]
        score = int(by_run_RL[np.array(fits, np.bool_), other].sum())
        if not fitting or score <= self.noise.layer_L[other]:
            return runs
        found.append(ExchangedLayer(self.layers[column], self.layers[other], *_spans(fitting)))
        return [run for run, yes in zip(runs, fits, strict=True) if not yes]

    def _fits(self, score: int, run: Misfit, column: int) -> bool:
        """Whether rows score as those of a layer do."""
        return score > _FITS * self.noise.own_L[column] * max(int((run.slots_N >= 0).sum()), 1)

    def _renumber(self, column: int, runs: list[Misfit], found: list[Any]) -> list[Misfit]:
        """Runs that one map of ids does not explain."""
        if not runs:
            return runs
        scores = np.ascontiguousarray(self.tables.scores_FVLE[:, :, column])
        fitting = runs
        for _ in range(3):
            to_E, sure_E, held_out = _map(fitting, scores)
            again = [r for r in runs if self._fits(_mapped(r, to_E, scores), r, column)]
            if again == fitting or not again:
                break
            fitting = again
        if not again or held_out <= self.noise.layer_L[column]:
            return runs
        found.append(
            RenumberedLayer(
                self.layers[column],
                tuple(to_E.tolist()),
                tuple(sure_E.tolist()),
                *_spans(fitting),
            )
        )
        taken = {id(run) for run in fitting}
        return [run for run in runs if id(run) not in taken]


def _spans(runs: Sequence[Misfit]) -> tuple[tuple[Span, ...], int]:
    return tuple(r.span for r in runs), sum(r.span.end - r.span.first for r in runs)


def _mapped(run: Misfit, to_E: NDArray[np.int64], scores_FVE: NDArray[np.int8]) -> int:
    """What the ids of a run score when they are mapped."""
    known = run.slots_N >= 0
    folds, slots = run.folds_N[known, None], run.slots_N[known, None]
    return int(scores_FVE[folds, slots, to_E[run.ids_NK[known]]].sum(dtype=np.int64))


def _map(
    runs: Sequence[Misfit], scores_FVE: NDArray[np.int8]
) -> tuple[NDArray[np.int64], Bools, int]:
    """The map of all rows, where it is sure, and what half of the rows score by the others' map."""
    slots, folds, ids = (
        np.concatenate([getattr(r, name) for r in runs])
        for name in ("slots_N", "folds_N", "ids_NK")
    )
    keep_EE = np.eye(scores_FVE.shape[2]) * 1e-3  # an id that tells nothing keeps its number
    halves = [renumbering_gains(slots[n::2], folds[n::2], ids[n::2], scores_FVE) for n in (0, 1)]
    to_E = assign_largest(halves[0] + keep_EE)
    held_out = float(halves[1][np.arange(len(to_E)), to_E].sum())
    gains_EE = halves[0] + halves[1]
    to_E = assign_largest(gains_EE + keep_EE)
    own_E = gains_EE[np.arange(len(to_E)), to_E]
    gains_EE[np.arange(len(to_E)), to_E] = -np.inf
    return to_E, own_E - gains_EE.max(axis=1) >= _SURE, int(held_out)
