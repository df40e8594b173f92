"""What is left of a mismatch in rows that are in place: rounding, other weights, or not decidable.

Shape suffixes: N tokens, L layers.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....routes import Bools
from ..book.results import Book, Place
from .wording import margin_words

__all__ = ["Rest"]

_FLOOR = 0.002  # mismatch that is never taken for too much
_USUAL = 0.25  # the quantile of samples whose mismatch is the usual one
_TIMES = 3.0  # how much more one part of a sample may differ than the other
_EVIDENCE = 30.0  # nats
_ALSO = 6.0  # nats for a part, in a sample that differs as a whole
_SHORTEST = 4  # tokens of a part
_TOO_MUCH = 0.35  # mismatch in all, and of the first MoE layer, that is not rounding
_TOO_EARLY = 0.12
_CLEAR = 0.5  # share of clear flips from which rows are of other weights
_DECIDED = 0.5  # share of the rows whose margins must be known to decide
Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Step:
    """A part of a sample that differs more than the other, and how many of its rows are wrong."""

    place: Place
    front: bool
    whole: bool
    wrong: int


class Rest:
    """Counts of rows that no run took, and of steps in their mismatch."""

    def __init__(self, layers: tuple[int, ...], eps: float) -> None:
        self.layers, self.eps = layers, eps
        self.rows_L, self.wrong_L = np.zeros((2, len(layers)), np.int64)
        self.known = self.clear = 0
        self.samples: list[tuple[Place, Counts, Counts]] = []
        self.indices: list[int] = []

    def add(
        self,
        index: int,
        place: Place,
        wrong_NL: Bools,
        rest_NL: Bools,
        both_NL: Bools,
        margins: tuple[int, int],
    ) -> None:
        """Add a sample's rows that are left; margins are how many are known, and are not small."""
        wrong_NL = wrong_NL & rest_NL
        self.rows_L += rest_NL.sum(axis=0)
        self.wrong_L += wrong_NL.sum(axis=0)
        self.known, self.clear = self.known + margins[0], self.clear + margins[1]
        if (rest_NL == both_NL).all() and wrong_NL.any():
            self.indices.append(index)
            self.samples.append(
                (place, wrong_NL.sum(axis=1).astype(np.int16), rest_NL.sum(axis=1).astype(np.int16))
            )

    def spare(self, wrong_NL: Bools, both_NL: Bools) -> None:
        """Add rows that a run had and nothing else is to be said of."""
        self.rows_L += both_NL.sum(axis=0)
        self.wrong_L += wrong_NL.sum(axis=0)

    def worst(self, most: int) -> list[int]:
        """The samples of which most rows differ: a quarter of them, by index."""
        rates = [wrong.sum() / max(int(rows.sum()), 1) for _, wrong, rows in self.samples]
        order = np.argsort(-np.array(rates), kind="stable")
        return [self.indices[i] for i in order[: min(most, max(8, len(order) // 4))]]

    def explain(self, before_L: Counts, kept: set[int]) -> None:
        """Take out rows that something explains, and the samples that are not among ``kept``."""
        self.wrong_L -= before_L
        pairs = zip(self.samples, self.indices, strict=True)
        self.samples = [sample for sample, index in pairs if index in kept]
        self.indices = [index for index in self.indices if index in kept]

    def judge(self, book: Book, explained_in_place: bool, explained: bool) -> int:
        """Name what is left; how many rows a step in the mismatch explains.

        ``explained_in_place`` says that most of the mismatch was named as wrong in place (R711):
        the rest of it is of the same cause. ``explained`` says that most was explained: what is
        left beside it is not judged by its rate.
        """
        stale = self._steps(book)
        rows, wrong = int(self.rows_L.sum()), int(self.wrong_L.sum()) - stale
        if not rows or wrong <= 0:
            return stale
        share = f"{100 * wrong / rows:.2f} % of the other rows differ"
        margins = margin_words(self.known, self.clear, self.eps)
        rate_L = self.wrong_L / np.maximum(self.rows_L, 1)
        decided = self.known >= _DECIDED * wrong
        said = next((facts for code, facts in book.found if code == "R711"), None)
        if explained_in_place and said is not None:
            book.add("R711", None, rows=wrong, facts=dict(said))
        elif decided and self.clear > _CLEAR * self.known:
            # beside rows that are moved, clear flips may be what is left of those
            code = "R715" if explained else "R716"
            book.add(code, None, rows=wrong, detail=f"{share}{margins}", facts={})
        elif not (stale or explained) and (wrong > _TOO_MUCH * rows or rate_L[0] > _TOO_EARLY):
            first = self.layers[int(np.flatnonzero(rate_L >= min(_TOO_EARLY, rate_L.max()))[0])]
            detail = f"wrong from layer {first} on{margins}; {share}"
            book.add("R711", None, rows=wrong, detail=detail, facts={"from_layer": first})
        elif decided:
            book.add("R712", None, rows=wrong, detail=f"{share}{margins}", facts={})
        else:
            book.add("R715", None, rows=wrong, detail=share, facts={})
        return stale

    def _steps(self, book: Book) -> int:
        """Name samples part of which differs far more than the rest; how many rows that are."""
        rates = [wrong.sum() / rows.sum() for _, wrong, rows in self.samples if rows.any()]
        if not rates:
            return 0
        usual = max(float(np.quantile(rates, _USUAL)), _FLOOR)
        explained = 0
        for place, wrong_N, rows_N in self.samples:
            step = _step(place, wrong_N.astype(np.int64), rows_N.astype(np.int64), usual)
            if step is None:
                continue
            detail = "all of the sample" if step.whole else ""
            book.add("R709" if step.front else "R718", step.place, rows=step.wrong, detail=detail)
            explained += step.wrong
        return explained


def _nats(wrong: Any, rows: Any, rate: Any) -> Any:
    """Log-likelihood of counts at a rate."""
    rate = np.clip(rate, 1e-6, 1 - 1e-6)
    return wrong * np.log(rate) + (rows - wrong) * np.log(1 - rate)


def _step(place: Place, wrong_N: Counts, rows_N: Counts, usual: float) -> _Step | None:
    """The part of a sample, first or last, that a rate of its own explains best."""
    wrong, rows = np.cumsum(wrong_N), np.cumsum(rows_N)
    total, size = int(wrong[-1]), int(rows[-1])
    found = None
    if total > _TIMES * usual * size:
        gain = float(_nats(total, size, total / size) - _nats(total, size, usual))
        if gain > _EVIDENCE:  # this sample differs: in which part of it takes less to say
            found = _split(wrong, rows, _ALSO)
            if found is None:
                return _Step(place, True, True, total)
    if found is None:
        found = _split(wrong, rows, _EVIDENCE)
    if found is None:
        return None
    cut, front = found
    first = int(wrong[cut])
    position = (place.position or 0) + (0 if front else cut + 1)
    return _Step(Place(place.sample, position), front, False, first if front else total - first)


def _split(wrong: Counts, rows: Counts, evidence: float) -> tuple[int, bool] | None:
    """The last token of the first part, and whether that differs more; None without evidence."""
    total, size = int(wrong[-1]), int(rows[-1])
    if len(wrong) < 2 * _SHORTEST:
        return None
    cuts = np.arange(_SHORTEST - 1, len(wrong) - _SHORTEST)
    one_w, one_r = wrong[cuts], np.maximum(rows[cuts], 1)
    two_w, two_r = total - one_w, np.maximum(size - rows[cuts], 1)
    even = _nats(np.array(total), np.array(size), total / size)
    gain = _nats(one_w, one_r, one_w / one_r) + _nats(two_w, two_r, two_w / two_r) - even
    best = int(gain.argmax())
    rates = one_w[best] / one_r[best], two_w[best] / two_r[best]
    if gain[best] < evidence or max(rates) < _TIMES * max(min(rates), _FLOOR):
        return None
    return int(cuts[best]), bool(rates[0] > rates[1])
