"""What rows score where they belong and where they do not, and what is clear of it.

Sums of scores of runs of rows that go against the truth have an exponential tail: their largest in
a whole dump is above h in exp(-theta h) per place at most, theta being where the mean of
exp(theta x) is 1 (Karlin and Altschul, PNAS 87, 1990; Lundberg's bound). theta is measured in the
dump itself, in blocks of rows, since neighbours are alike. Shape suffixes: T rows, L MoE layers.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....routes import Bools
from .keeping import Kept
from .tables import Tables, Teaching

__all__ = ["FAR", "RowNoise", "measure_noise", "tail_of"]

FAR = (5, -5, 11, -11, 19, -19, 31, -31)  # lags at which rows are other tokens'
_NEAR = (1, -1, 2, -2)
_FALSE = 1e-3  # false findings in a dump, about
_PAIR = 4  # rows of a block of differences between two lags
_RUN = 16  # rows of a block of scores of one lag
_SAMPLES = 512  # looked at
_WINDOW = 32  # rows that are told from wrong ones by their mean,
_LIKE_WRONG = 0.4  # where it is below this share of the wrong ones'


@dataclass(frozen=True, slots=True)
class RowNoise:
    """Sums in sixteenths of a bit.

    own and wrong are the mean score of a row at its own token and at others'. A run of rows is of
    another lag where it is better there by ``lag``, nobody's where its sum is below ``-nobody``, of
    another sample where it scores ``other`` there; a layer's, where its sum is below ``-layer_L``.
    """

    own: float
    wrong: float
    lag: int
    fit: int
    nobody: int
    other: int
    layer_L: tuple[int, ...]
    own_L: tuple[float, ...]
    wrong_L: tuple[float, ...]

    @property
    def smallest_run(self) -> int:
        """Rows of a run of another lag that is just clear."""
        better = self.lag / max(self.own - self.wrong, 1e-9)
        return math.ceil(max(better, self.fit / max(self.own, 1e-9)))


def tail_of(sums: NDArray[Any]) -> float:
    """theta of sums whose mean is negative; 0.0 where it is not.

    One more sum as far above 0 as the mean is below stands for what so many sums did not show.
    """
    if len(sums) < 8 or sums.mean() >= 0:
        return 0.0
    values = np.concatenate([sums.astype(np.float64), [-float(sums.mean())]])
    low, high = 0.0, 1.0

    def above(theta: float) -> bool:
        peak = theta * values.max()
        return bool(peak + math.log(np.exp(theta * values - peak).mean()) > 0)

    while not above(high):
        high *= 2
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if above(middle) else (middle, high)
    return low


def _blocks(values_T: NDArray[Any], usable_T: Bools, size: int) -> NDArray[Any]:
    """The sums of blocks of rows all of which are usable."""
    count = len(values_T) // size
    whole = usable_T[: count * size].reshape(count, size).all(axis=1)
    shape = (count, size, *values_T.shape[1:])
    return np.asarray(values_T[: count * size].reshape(shape).sum(axis=1)[whole])


def _threshold(theta: float, places: float) -> int:
    """What sums of as many places are clear of; out of reach where theta is not known."""
    if theta <= 0:
        return 1 << 40
    return min(1 << 40, math.ceil(math.log(max(places, 2.0) / _FALSE) / theta))


def _quartile(thetas: Sequence[float]) -> float:
    return float(np.quantile(np.array(thetas), 0.25)) if len(thetas) else 0.0


def _mean(parts: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
    """The mean row, 0 where there is none."""
    rows_NL = np.concatenate(parts)
    return np.asarray(rows_NL.sum(axis=0) / max(len(rows_NL), 1), np.float64)


def _layer_threshold(
    own: Sequence[NDArray[Any]],
    masks: Sequence[Bools],
    wrong_L: NDArray[np.float64],
    column: int,
    rows: float,
) -> int:
    """That of one layer, whose rows may be wrong where those of the others are sound."""
    bound = _LIKE_WRONG * min(float(wrong_L[column]), 0.0)
    runs = [
        _blocks(-scores[:, column], mask & ~_like_wrong(scores[:, column], bound), _RUN)
        for scores, mask in zip(own, masks, strict=True)
    ]
    return _threshold(tail_of(np.concatenate(runs)), rows * len(wrong_L))


def _like_wrong(own_T: NDArray[Any], bound: float) -> Bools:
    """Rows of blocks that score as rows of wrong tokens do: no measure of what sound rows do."""
    low_T = np.zeros(len(own_T), np.bool_)
    for first in range(0, len(own_T), _WINDOW):
        low_T[first : first + _WINDOW] = own_T[first : first + _WINDOW].mean() < bound
    return low_T


def _scored(
    teaching: Teaching, tables: Tables, lag: int, step: int
) -> Iterator[tuple[Kept, NDArray[np.int32]]]:
    chosen = zip(teaching.kept[::step], teaching.folds[::step], strict=True)
    for one, folds in chosen:
        yield one, tables.score(one, folds, one.tokens_at(lag))


def measure_noise(
    teaching: Teaching, tables: Tables, main: int, usable: Sequence[Bools], size: tuple[int, int]
) -> RowNoise:
    """Thresholds for a dump of ``size`` (rows, rows of its longest sample).

    ``main`` is the lag of the dump as a whole, and usable the rows taken for sound ones.
    """
    rows, longest = size
    step = -(-len(teaching.kept) // _SAMPLES)
    own = [s for _, s in _scored(teaching, tables, main, step)]
    far = [[s for _, s in _scored(teaching, tables, main + lag, step)] for lag in FAR]
    near = [[s for _, s in _scored(teaching, tables, main + lag, step)] for lag in _NEAR]
    wrong_L = _mean([s[m] for there in far for s, m in zip(there, usable[::step], strict=True)])
    masks = [
        mask & ~_like_wrong(scores.sum(axis=1), _LIKE_WRONG * min(float(wrong_L.sum()), 0.0))
        for mask, scores in zip(usable[::step], own, strict=True)
    ]
    own_L = _mean([s[m] for s, m in zip(own, masks, strict=True)])
    runs_BL = np.concatenate([_blocks(-s, m, _RUN) for s, m in zip(own, masks, strict=True)])
    pairs, alone = [], []
    for there in (*near, *far):
        gains = [
            _blocks((t.sum(axis=1) - s.sum(axis=1)), m, _PAIR)
            for t, s, m in zip(there, own, masks, strict=True)
        ]
        pairs.append(tail_of(np.concatenate(gains)))
    for there in far:
        sums = [_blocks(t.sum(axis=1), m, _PAIR) for t, m in zip(there, masks, strict=True)]
        alone.append(tail_of(np.concatenate(sums)))
    layers = len(own_L)
    return RowNoise(
        float(own_L.sum()),
        float(wrong_L.sum()),
        _threshold(_quartile(pairs), float(rows) * max(longest, 128)),
        _threshold(_quartile(alone), float(rows) * max(longest, 128)),
        _threshold(tail_of(runs_BL.sum(axis=1)), float(rows)),
        _threshold(_quartile(alone), float(rows) * rows),
        tuple(_layer_threshold(own, masks, wrong_L, i, float(rows)) for i in range(layers)),
        tuple(own_L.tolist()),
        tuple(wrong_L.tolist()),
    )
