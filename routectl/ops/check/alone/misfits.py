"""Rows in their place that fit no token: experts renumbered, layers exchanged, or neither.

The rows of a layer that do not fit are pooled; what they would score as another layer's, or with
their ids mapped, says what they are. Shape suffixes: N rows, L MoE layers, K top_k, E experts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

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

__all__ = ["Misfits"]

_ROWS = 8192  # of a layer that are looked at
_OF_ONE = (128, 16)  # of one run, and once half of those are held
_SPANS = 1024  # of a layer that are named
_MAPS = 4  # different ones of a layer
_FITS = 0.4  # of the mean score of a row at its own token: what rows that fit have at least
_LIKE_WRONG = 0.4  # of the mean score at a wrong token: what rows that do not fit have at most
_SURE = 16 * BIT  # what an id scores above any other expert before its place is no guess


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """Rows of one layer of a sample that do not fit; of long runs the ids of the first only."""

    span: Span
    slots_N: Tokens
    folds_N: Tokens
    ids_NK: Ids
    nobody: bool  # in no layer do these rows fit


@dataclass(slots=True)
class Misfits:
    """Takes what does not fit, sample by sample, and names it in the end."""

    layers: tuple[int, ...]
    tables: Tables
    noise: RowNoise
    main: int
    runs: list[list[_Run]] = field(default_factory=list)
    held: list[int] = field(default_factory=list)
    renumbered: list[RenumberedLayer] = field(default_factory=list)
    exchanged: list[ExchangedLayer] = field(default_factory=list)
    strange: list[StrangeLayer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.runs = [[] for _ in self.layers]
        self.held = [0 for _ in self.layers]

    def add(
        self, one: Kept, folds: Tokens, own_TL: NDArray[np.int32], stretches: Sequence[TokenStretch]
    ) -> None:
        """Take a sample's rows that are nobody's, and of its own rows the layers that do not fit.

        own_TL are the rows' scores at the lag of the dump.
        """
        tokens = one.tokens_at(self.main)
        for part in stretches:
            first, end = part.first - one.start, part.end - one.start
            if part.kind == "nobody":
                for column in range(len(self.layers)):
                    self._take(one, folds, tokens, column, (first, end), nobody=True)
            elif part.lag == self.main and part.source is None:
                self._own(one, folds, tokens, own_TL, (first, end))

    def _own(
        self,
        one: Kept,
        folds: Tokens,
        tokens: Tokens,
        own_TL: NDArray[np.int32],
        rows: tuple[int, int],
    ) -> None:
        part_TL = own_TL[rows[0] : rows[1]]
        worst_L = worst_runs(part_TL)
        for column in np.flatnonzero(worst_L > np.array(self.noise.layer_L)).tolist():
            own_T = part_TL[:, column]
            gains_ST = np.stack([own_T, np.zeros_like(own_T)])
            at_T = best_path(gains_ST, np.array([0, self.noise.layer_L[column]], np.int64))
            edges = np.flatnonzero(np.diff(np.concatenate([[0], at_T, [0]])))
            for first, end in edges.reshape(-1, 2).tolist():
                if own_T[first:end].mean() <= _LIKE_WRONG * self.noise.wrong_L[column]:
                    self._take(one, folds, tokens, column, (rows[0] + first, rows[0] + end))

    def _take(
        self,
        one: Kept,
        folds: Tokens,
        tokens: Tokens,
        column: int,
        rows: tuple[int, int],
        *,
        nobody: bool = False,
    ) -> None:
        size = min(rows[1] - rows[0], _OF_ONE[2 * self.held[column] >= _ROWS])
        if self.held[column] + size > _ROWS or len(self.runs[column]) >= _SPANS:
            return
        part = slice(rows[0], rows[0] + size)
        slots = slots_of(self.tables.tokens_V, tokens[part])
        if one.missing_TL is not None:
            slots[one.missing_TL[part, column]] = -1
        self.held[column] += size
        self.runs[column].append(
            _Run(
                Span(one.name, one.start + rows[0], one.start + rows[1]),
                slots,
                folds[part].copy(),
                one.ids_TLK[part, column].copy(),
                nobody,
            )
        )

    def name(self) -> None:
        """Say what the rows of each layer are."""
        for column, layer in enumerate(self.layers):
            left = self._exchange(column, self.runs[column])
            for _ in range(_MAPS):
                rest = self._renumber(column, left)
                if len(rest) == len(left):
                    break
                left = rest
            alone = [run for run in left if not run.nobody]
            if alone:
                self.strange.append(StrangeLayer(layer, *_spans(alone)))

    def kind_of(self, span: Span) -> str:
        """What nobody's rows are in most layers, after all: renumbered, exchanged, or nobody's."""
        counts = {
            "renumbered": sum(span in one.spans for one in self.renumbered),
            "exchanged": sum(span in one.spans for one in self.exchanged),
        }
        most = max(counts, key=lambda kind: counts[kind])
        return most if 2 * sum(counts.values()) >= len(self.layers) else "nobody"

    def _exchange(self, column: int, runs: list[_Run]) -> list[_Run]:
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
        self.exchanged.append(
            ExchangedLayer(self.layers[column], self.layers[other], *_spans(fitting))
        )
        return [run for run, yes in zip(runs, fits, strict=True) if not yes]

    def _fits(self, score: int, run: _Run, column: int) -> bool:
        """Whether rows score as those of a layer do."""
        return score > _FITS * self.noise.own_L[column] * max(int((run.slots_N >= 0).sum()), 1)

    def _renumber(self, column: int, runs: list[_Run]) -> list[_Run]:
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
        self.renumbered.append(
            RenumberedLayer(
                self.layers[column],
                tuple(to_E.tolist()),
                tuple(sure_E.tolist()),
                *_spans(fitting),
            )
        )
        taken = {id(run) for run in fitting}
        return [run for run in runs if id(run) not in taken]


def _spans(runs: Sequence[_Run]) -> tuple[tuple[Span, ...], int]:
    return tuple(r.span for r in runs), sum(r.span.end - r.span.first for r in runs)


def _mapped(run: _Run, to_E: NDArray[np.int64], scores_FVE: NDArray[np.int8]) -> int:
    """What the ids of a run score when they are mapped."""
    known = run.slots_N >= 0
    folds, slots = run.folds_N[known, None], run.slots_N[known, None]
    return int(scores_FVE[folds, slots, to_E[run.ids_NK[known]]].sum(dtype=np.int64))


def _map(
    runs: Sequence[_Run], scores_FVE: NDArray[np.int8]
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
