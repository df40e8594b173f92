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

__all__ = ["FAR", "Noise", "measure_noise", "tail_of"]

FAR = (5, -5, 11, -11, 19, -19, 31, -31)  # lags at which rows are other tokens'
_NEAR = (1, -1, 2, -2)
_FALSE = 1e-3  # false findings in a dump, about
_PAIR = 4  # rows of a block of differences between two lags
_RUN = 16  # rows of a block of scores of one lag
_SAMPLES = 512  # looked at


@dataclass(frozen=True, slots=True)
class Noise:
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
        return peak + math.log(np.exp(theta * values - peak).mean()) > 0

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


def _scored(
    teaching: Teaching, tables: Tables, lag: int, step: int
) -> Iterator[tuple[Kept, NDArray[np.int32]]]:
    chosen = zip(teaching.kept[::step], teaching.folds[::step], strict=True)
    for one, folds in chosen:
        yield one, tables.score(one, folds, one.tokens_at(lag))


def measure_noise(
    teaching: Teaching, tables: Tables, main: int, usable: Sequence[Bools], size: tuple[int, int]
) -> Noise:
    """Thresholds for a dump of ``size`` (rows, rows of its longest sample).

    ``main`` is the lag of the dump as a whole, and usable the rows taken for sound ones.
    """
    rows, longest = size
    step = -(-len(teaching.kept) // _SAMPLES)
    own = [s for _, s in _scored(teaching, tables, main, step)]
    masks = usable[::step]
    own_NL = np.concatenate([s[m] for s, m in zip(own, masks, strict=True)])
    runs_BL = np.concatenate([_blocks(-s, m, _RUN) for s, m in zip(own, masks, strict=True)])
    pairs, alone, wrong = [], [], []
    for lag in (*_NEAR, *FAR):
        there = [s for _, s in _scored(teaching, tables, main + lag, step)]
        gains = [
            _blocks((t.sum(axis=1) - s.sum(axis=1)), m, _PAIR)
            for t, s, m in zip(there, own, masks, strict=True)
        ]
        pairs.append(tail_of(np.concatenate(gains)))
        if lag in FAR:
            sums = [_blocks(t.sum(axis=1), m, _PAIR) for t, m in zip(there, masks, strict=True)]
            alone.append(tail_of(np.concatenate(sums)))
            wrong.append(np.concatenate([t[m] for t, m in zip(there, masks, strict=True)]))
    own_L = own_NL.mean(axis=0) if len(own_NL) else np.zeros(own_NL.shape[1])
    wrong_NL = np.concatenate(wrong)
    wrong_L = wrong_NL.mean(axis=0) if len(wrong_NL) else np.zeros(own_NL.shape[1])
    layers = own_NL.shape[1]
    return Noise(
        float(own_L.sum()),
        float(wrong_L.sum()),
        _threshold(_quartile(pairs), float(rows) * max(longest, 128)),
        _threshold(_quartile(alone), float(rows) * max(longest, 128)),
        _threshold(tail_of(runs_BL.sum(axis=1)), float(rows)),
        _threshold(_quartile(alone), float(rows) * rows),
        tuple(
            _threshold(tail_of(runs_BL[:, i]), float(rows) * layers) for i in range(layers)
        ),
        tuple(own_L.tolist()),
        tuple(wrong_L.tolist()),
    )
