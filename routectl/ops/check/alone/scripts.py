"""The edit script of one sample: at which lag, or of which sample, each of its rows is.

Shape suffixes: T rows, N rows of a window, D different tokens, S states, L MoE layers.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....dump import Dump
from ....errors import FormatError
from ....kernels.align import best_path
from ....kernels.token_tables import score_sums, score_tokens, slide
from .keeping import Kept, Tokens, kept_of
from .noise import RowNoise
from .results import TokenStretch
from .tables import BIT, Tables, slots_of

__all__ = ["Library", "Searcher", "State"]

_ALWAYS = (1, -1, 2, -2, 3, -3)  # lags that are laid against every sample that looks wrong
_WINDOW = 32  # rows that are laid at every place
_WINDOWS = 16  # of a sample
_LAGS = 24  # laid against all rows of a sample
_IDS = 128  # of a row, looked at for places
_OTHERS = 8  # samples that a window fits best, looked at whole
_LIKE_WRONG = 0.4  # of the mean score at a wrong token: what nobody's rows score less than
_TOKENS = 1 << 22  # token ids of other samples that rows are laid against
_ASKED = 1024  # samples of a dump, evenly spaced, whose rows may be named as others'
_RUNS = 8  # of one of them


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """What rows could be: their scores, what a stretch of them costs, and its name."""

    gains_T: NDArray[np.int32]
    enter: int
    kind: str
    lag: int | None = None
    source: int | None = None


@dataclass(slots=True)
class Library:
    """The tokens of some samples, to say whose rows they are; ``read`` gives them when asked for.

    At most 4 Mi token ids, of the first samples. Of a dump of more than 1,024 samples, rows of
    every n-th are looked for: ``step``.
    """

    read: Callable[[], Iterator[tuple[int, str, Tokens]]]
    step: int = 1
    _tokens: dict[int, tuple[str, Tokens]] | None = None
    _slots: Tokens | None = None
    _starts: NDArray[np.int64] | None = None

    @classmethod
    def of(cls, dump: Dump) -> "Library":
        """The first samples of a dump; of a native file one layer is read."""

        def read() -> Iterator[tuple[int, str, Tokens]]:
            few, left = dump.select(layers=dump.meta.layers_L[:1]), _TOKENS
            for index in range(len(few)):
                with suppress(FormatError):
                    sample = few[index]
                    one = kept_of(sample, index, 0)
                    if one is None:
                        continue
                    left -= len(one.tokens_N)
                    if left < 0:
                        return
                    yield index, one.name, one.tokens_N

        return cls(read, max(-(-len(dump) // _ASKED), 1))

    @property
    def tokens(self) -> dict[int, tuple[str, Tokens]]:
        """Names and tokens of the samples, by index."""
        if self._tokens is None:
            self._tokens = {index: (name, ids) for index, name, ids in self.read()}
        return self._tokens

    def shelves(self, tokens_V: Tokens) -> tuple[Tokens, NDArray[np.int64], tuple[int, ...]]:
        """All tokens end to end as slots of a table, where each sample begins, and its index."""
        indices = tuple(self.tokens)
        if self._slots is None or self._starts is None:
            parts = [slots_of(tokens_V, self.tokens[i][1]) for i in indices]
            sizes = [len(part) for part in parts]
            self._slots = np.concatenate(parts) if parts else np.zeros(0, np.int32)
            self._starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
        return self._slots, self._starts, indices


@dataclass(slots=True)
class Searcher:
    """Lays the rows of samples against tokens; without a library, against the sample's own."""

    tables: Tables
    noise: RowNoise
    main: int

    @property
    def kind(self) -> str:
        """What a stretch at the lag of the dump is."""
        return "shifted" if self.main else "own"

    def sums(self, one: Kept, folds: Tokens, tokens_T: Tokens) -> NDArray[np.int32]:
        """Each row's score over all layers were it of these tokens, int32 [T]."""
        columns = np.arange(one.ids_TLK.shape[1])
        slots = slots_of(self.tables.tokens_V, tokens_T)
        scores = self.tables.scores_FVLE
        return score_sums(slots, folds, one.ids_TLK, one.missing_TL, columns, scores)

    def stretches(
        self,
        one: Kept,
        folds: Tokens,
        own_T: NDArray[np.int32],
        library: Library | None = None,
    ) -> list[TokenStretch]:
        """The script of a sample whose rows score own_T at the main lag: at least one stretch."""
        states = [State(own_T, 0, self.kind, self.main)]
        states.append(State(np.zeros_like(own_T), self.noise.nobody, "nobody"))
        for lag in self._lags(one, folds, own_T):
            tokens_T = one.tokens_at(lag)
            gains = self.sums(one, folds, tokens_T)
            gains = np.where(tokens_T < 0, np.minimum(own_T, 0), gains)
            states.append(State(gains, self.noise.lag, "own" if lag == 0 else "shifted", lag))
        states, runs = self._fitting(states)
        lost = [r for r in runs if states[r[2]].kind == "nobody"]
        if library is not None and one.index % library.step == 0:
            others = self._others(one, folds, lost[:_RUNS], library)
            if others:
                states, runs = self._fitting([*states, *others])
        return self._named(one, states, runs, library)

    def _fitting(self, states: list[State]) -> tuple[list[State], list[tuple[int, int, int]]]:
        """The best path over states that fit their rows, and are not only less bad than others."""
        while True:
            runs = self._path(states)
            poor = {
                at
                for first, end, at in runs
                if at > 1 and states[at].gains_T[first:end].sum() < self.noise.fit
            }
            if not poor:
                return states, runs
            states = [s for at, s in enumerate(states) if at not in poor]

    def _path(self, states: Sequence[State]) -> list[tuple[int, int, int]]:
        """Runs of rows in one state: (first row, row after the last, state)."""
        gains_ST = np.stack([s.gains_T for s in states])
        at_T = best_path(gains_ST, np.array([s.enter for s in states], np.int64))
        own_T = states[0].gains_T
        bound = _LIKE_WRONG * min(self.noise.wrong, 0.0)
        for first, end in _runs_of(at_T == 1):
            if own_T[first:end].mean() > bound:
                at_T[first:end] = 0
        edges = np.flatnonzero(np.diff(at_T)) + 1
        bounds = [0, *edges.tolist(), len(at_T)]
        return [(a, b, int(at_T[a])) for a, b in pairwise(bounds)]

    def _lags(self, one: Kept, folds: Tokens, own_T: NDArray[np.int32]) -> list[int]:
        """Lags that some window of rows that look wrong fits."""
        found: dict[int, int] = {}
        distinct, columns_P = np.unique(one.tokens_N, return_inverse=True)
        slots = slots_of(self.tables.tokens_V, distinct.astype(np.int32))
        column_P = np.where(slots[columns_P] >= 0, columns_P, -1).astype(np.int32)
        for first in self._windows(own_T):
            window = self._window(one, folds, first, slots)
            place_P = slide(window, column_P)
            for best in _largest(place_P, 3):
                lag = one.start + first - (best - len(window) + 1)
                found[lag] = max(found.get(lag, 0), int(place_P[best]))
        ranked = sorted(found, key=lambda lag: (-found[lag], abs(lag)))
        near = [self.main + lag for lag in _ALWAYS]
        lags = dict.fromkeys([0, *near, *ranked[:_LAGS]])
        return [lag for lag in lags if lag != self.main]

    def _windows(self, own_T: NDArray[np.int32]) -> list[int]:
        """First rows of windows among rows that score less than their own token's would."""
        size = min(_WINDOW, len(own_T))
        means = np.convolve(own_T, np.ones(size) / size, "valid")
        low = np.flatnonzero(means < 0.3 * self.noise.own)
        if not len(low):
            return [int(means.argmin())]
        picks = np.linspace(0, len(low) - 1, min(_WINDOWS, len(low))).round().astype(int)
        return sorted({int(low[i]) for i in picks})

    def _window(self, one: Kept, folds: Tokens, first: int, slots: Tokens) -> NDArray[np.int32]:
        """The scores of a window's rows given each of some tokens, [N, D]."""
        part = slice(first, first + _WINDOW)
        layers, top_k = one.ids_TLK.shape[1:]
        columns = np.linspace(0, layers - 1, min(layers, max(1, _IDS // top_k))).astype(np.int64)
        missing = None if one.missing_TL is None else one.missing_TL[part]
        scores = self.tables.scores_FVLE
        known = np.maximum(slots, 0)
        return score_tokens(known, folds[part], one.ids_TLK[part], missing, columns, scores)

    def _others(
        self, one: Kept, folds: Tokens, runs: Sequence[tuple[int, int, int]], library: Library
    ) -> list[State]:
        """Other samples whose rows some of nobody's stretches could be."""
        found: dict[tuple[int, int], State] = {}
        for first, end, _ in runs:
            shelves, starts, indices = library.shelves(self.tables.tokens_V)
            middle = max(first, (first + end - _WINDOW) // 2)
            every = np.arange(len(self.tables.tokens_V), dtype=np.int32)
            window = self._window(one, folds, middle, every)[: end - middle]
            place_P = slide(window, shelves)
            tried: list[tuple[int, int, int, NDArray[np.int32]]] = []
            for best in _largest(place_P, _OTHERS):
                place = max(best - len(window) + 1, 0)
                shelf = int(np.searchsorted(starts, place, "right")) - 1
                index = indices[shelf]
                lag = one.start + middle - (best - len(window) + 1 - int(starts[shelf]))
                if index == one.index:
                    continue
                gains = self.sums(one, folds, one.tokens_at(lag, library.tokens[index][1]))
                tried.append((int(gains[first:end].sum()), -index, lag, gains))
            if tried:
                score, index, lag, gains = max(tried, key=lambda t: t[:3])
                if score > self.noise.other:
                    found[(-index, lag)] = State(gains, self.noise.other, "other", lag, -index)
        return list(found.values())

    def _named(
        self,
        one: Kept,
        states: Sequence[State],
        runs: Sequence[tuple[int, int, int]],
        library: Library | None,
    ) -> list[TokenStretch]:
        found = []
        for first, end, at in runs:
            state = states[at]
            gain = int(state.gains_T[first:end].sum()) - int(states[0].gains_T[first:end].sum())
            source = None
            if state.source is not None and library is not None:
                source = library.tokens[state.source][0]
            found.append(
                TokenStretch(
                    one.start + first,
                    one.start + end,
                    state.kind,
                    state.lag,
                    source,
                    gain / BIT,
                )
            )
        return found


def _runs_of(mask_T: NDArray[np.bool_]) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask_T.astype(np.int8), [0]])))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def _largest(values: NDArray[Any], count: int) -> list[int]:
    """The places of the largest values, the first of equal ones first."""
    if len(values) > 4 * count:
        least = np.partition(values, len(values) - count)[len(values) - count]
        places = np.flatnonzero(values >= least)[: 16 * count]
        return [int(places[i]) for i in np.argsort(-values[places], kind="stable")[:count]]
    return [int(i) for i in np.argsort(-values, kind="stable")[:count]]
