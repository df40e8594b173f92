"""How well frozen, extrapolated and predicted routes meet those of later versions.

Results hold counts by sequence. Shape suffixes: T tokens, L MoE layers, K top_k, S sequences,
X kinds of routes.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ...errors import RoutectlError
from ...routes import Bools, Ids
from ..adding.intervals import Bootstrap, Interval, rate_intervals
from ..diff.threshold_words import unknown_metric, wrong_form

__all__ = [
    "RATIOS",
    "Estimate",
    "GainLimit",
    "LagScores",
    "PredictionScores",
    "ReplaceLimit",
    "Replaced",
    "above",
    "below",
    "parse_gain",
    "parse_replaced",
    "predictor_scores",
]

_PATTERN = re.compile(r"(?P<name>[A-Za-z_][\w.@-]*):(?P<number>[^%]+)(?P<percent>%?)")
_FROZEN, _PREDICTED = "frozen", "predicted"
RATIOS = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0)  # of a slot's score and that of the weakest own expert
Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A ratio of sums over sequences, and its interval; None where it is not defined."""

    value: float | None
    interval: Interval | None


@dataclass(frozen=True, slots=True, eq=False)
class Replaced:
    """Slots by layer, and those of them that are replaced, at each of RATIOS."""

    slots: int
    replaced_RL: Counts

    def rate(self, ratio: int, layer: int | None = None) -> float | None:
        """The share that is replaced at one of RATIOS, by its index; of a layer's index, or all."""
        layers = self.replaced_RL.shape[1] if layer is None else 1
        counts_L = self.replaced_RL[ratio]
        replaced = int(counts_L.sum() if layer is None else counts_L[layer])
        return replaced / (self.slots * layers) if self.slots else None


@dataclass(frozen=True, slots=True, eq=False)
class LagScores:
    """Routes of an old version, by each kind, against a later version's own, in counts.

    new, lag        the later version, and how many versions on it is.
    kinds           of frozen, extrapolated and predicted those that there are.
    layers_L        the layers that select by logits.
    rows_S          rows of one layer.
    shared_XLS      ids that are in both sets; of rows_S x K.
    mismatched_XLS  rows whose sets differ.
    replaced        slots of frozen routes that the later version finds implausible, where counted.
    """

    new: str
    lag: int
    kinds: tuple[str, ...]
    layers_L: tuple[int, ...]
    top_k: int
    rows_S: Counts
    shared_XLS: Counts
    mismatched_XLS: Counts
    replaced: Replaced | None = None

    def _sums(self, counts_XLS: Counts, kind: str, layer: int | None) -> Counts:
        counts_LS = counts_XLS[self.kinds.index(kind)]
        if layer is None:
            return np.asarray(counts_LS.sum(axis=0))
        return np.asarray(counts_LS[self.layers_L.index(layer)])

    def _slots(self, layer: int | None) -> Counts:
        return self.rows_S * self.top_k * (len(self.layers_L) if layer is None else 1)

    def accuracy(self, kind: str, layer: int | None = None) -> Estimate:
        """Top-k accuracy: shared ids / K, mean over rows; of a layer, or of all."""
        return _estimate(self._sums(self.shared_XLS, kind, layer), self._slots(layer))

    def gain(self, kind: str, layer: int | None = None) -> Estimate:
        """Accuracy less that of frozen routes, paired by sequence."""
        own_S, frozen_S = (self._sums(self.shared_XLS, name, layer) for name in (kind, _FROZEN))
        return _estimate(own_S - frozen_S, self._slots(layer))

    def mismatch(self, kind: str, layer: int | None = None) -> Estimate:
        """Share of the rows whose sets differ; that of frozen routes is the staleness."""
        return _estimate(
            self._sums(self.mismatched_XLS, kind, layer), self._slots(layer) // self.top_k
        )

    def removed(self, kind: str, layer: int | None = None) -> Estimate:
        """The share of the staleness, in rows, that is gone; below 0 where rows were added."""
        frozen_S = self._sums(self.mismatched_XLS, _FROZEN, layer)
        return _estimate(frozen_S - self._sums(self.mismatched_XLS, kind, layer), frozen_S)


@dataclass(frozen=True, slots=True, eq=False)
class PredictionScores:
    """An old version's frozen, extrapolated and predicted routes against those of later versions.

    previous     the version before, out of which weights were extrapolated, or None.
    comparisons  one a later version, ascending by lag.
    fitted       names of the later versions that the predictor was fitted to.
    tokens       tokens that count; left_out: those fitted on, or seen before.
    """

    old: str
    previous: str | None
    comparisons: tuple[LagScores, ...]
    fitted: tuple[str, ...]
    tokens: int
    left_out: int

    @property
    def judged(self) -> tuple[LagScores, ...]:
        """The comparisons that the verdict is about: versions not fitted to, if there are any."""
        new = tuple(one for one in self.comparisons if one.new not in self.fitted)
        return new or self.comparisons

    @property
    def beats(self) -> tuple[LagScores, ...]:
        """Those of them in which the gain of predicted routes has an interval above 0."""
        gains = [(one, one.gain(_PREDICTED).interval) for one in self.judged]
        return tuple(one for one, interval in gains if interval is not None and interval.low > 0)


@dataclass(frozen=True, slots=True)
class GainLimit:
    """The least gain in accuracy of predicted over frozen routes."""

    text: str
    limit: float


@dataclass(frozen=True, slots=True)
class ReplaceLimit:
    """The greatest replace rate of frozen routes, at one of RATIOS by its index."""

    text: str
    ratio: int
    limit: float


def _limit_of(
    text: str, known: Sequence[str], least: float, form: tuple[str, str]
) -> tuple[str, float]:
    """The metric of METRIC:N[%], one of those known, and the rate N of ``least`` to 1.

    Raises RoutectlError; form is METRIC..., and an example of it.
    """
    parse = partial(_limit_of, known=known, least=least, form=form)
    parts = _PATTERN.fullmatch(text.strip())
    if parts is None:
        raise wrong_form(text, known, parse, form)
    name, number = parts["name"], parts["number"]
    if name not in known:
        raise unknown_metric(text, name, known, parse, form)
    try:
        limit = float(number) / (100 if parts["percent"] else 1)
    except ValueError:
        limit = math.nan
    if not math.isfinite(limit):
        raise RoutectlError(f"threshold {text!r}: {number!r} is not a number")
    if not least <= limit <= 1:
        percent = 1 < abs(limit) <= 100 and not parts["percent"]
        raise RoutectlError(
            f"threshold {text!r}: {name} is a rate: got {limit:g}, expected {least:g}..1",
            hint=f"{name}:{number}% if percent was meant" if percent else None,
        )
    return name, limit


def parse_gain(text: str) -> GainLimit:
    """Read gain:N[%], -1 to 1 as a rate. Raises RoutectlError."""
    return GainLimit(text, _limit_of(text, ("gain",), -1, ("gain:N[%]", "gain:0.1%"))[1])


def parse_replaced(text: str) -> ReplaceLimit:
    """Read replaced@RATIO:N[%], a rate of 0 to 1; RATIO is one of RATIOS. Raises RoutectlError."""
    known = [f"replaced@{ratio:g}" for ratio in RATIOS]
    name, limit = _limit_of(text, known, 0, ("replaced@RATIO:N[%]", "replaced@0.5:1%"))
    return ReplaceLimit(text, known.index(name), limit)


def above(scores: PredictionScores, limit: ReplaceLimit) -> tuple[tuple[str, str, float], ...]:
    """(threshold, later version, rate) of each comparison whose replace rate is over the limit."""
    rates = [
        (one.new, one.replaced.rate(limit.ratio))
        for one in scores.comparisons
        if one.replaced is not None
    ]
    return tuple((limit.text, new, r) for new, r in rates if r is not None and r > limit.limit)


def below(scores: PredictionScores, limit: GainLimit) -> tuple[tuple[str, str, float], ...]:
    """(threshold, later version, gain) of each judged comparison whose gain is under the limit."""
    gains = [(one.new, one.gain(_PREDICTED).value) for one in scores.judged]
    return tuple((limit.text, new, g) for new, g in gains if g is not None and g < limit.limit)


def _estimate(over_S: Counts, under_S: Counts) -> Estimate:
    total = int(under_S.sum())
    value = float(over_S.sum() / total) if total else None
    known_S = under_S != 0
    found = rate_intervals(over_S[known_S, None], under_S[known_S, None], Bootstrap())
    return Estimate(value, found[0] if total else None)


def predictor_scores(
    routes: Mapping[str, Ids],
    true_TLK: Ids,
    later: tuple[str, int],
    layers_L: Sequence[int],
    of: tuple[Bools, Sequence[int]],
) -> LagScores:
    """Count the routes [T, L, K] of each kind against a later version's.

    ``later`` is its name and lag, ``of`` the rows that count, bool [T], and the sequences' lengths.
    All arrays have the columns ``layers_L``, ascending.
    """
    rows_T, lens = of
    sequence_T = np.repeat(np.arange(len(lens)), lens)[rows_T]
    top_k = true_TLK.shape[2]
    shape = (len(routes), len(layers_L), len(lens))
    shared_XLS, mismatched_XLS = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for x, ids_TLK in enumerate(routes.values()):
        for column in range(len(layers_L)):
            theirs_TK, ours_TK = true_TLK[rows_T, column], ids_TLK[rows_T, column]
            shared_T = (ours_TK[:, :, None] == theirs_TK[:, None, :]).any(-1).sum(-1)
            shared_XLS[x, column] = np.bincount(sequence_T, shared_T, len(lens)).astype(np.int64)
            differing_T = sequence_T[shared_T < top_k]
            mismatched_XLS[x, column] = np.bincount(differing_T, minlength=len(lens))
    rows_S = np.bincount(sequence_T, minlength=len(lens))
    return LagScores(
        *later, tuple(routes), tuple(layers_L), top_k, rows_S, shared_XLS, mismatched_XLS
    )
