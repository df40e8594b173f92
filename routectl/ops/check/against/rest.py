"""What is left of a mismatch in rows that are in place: rounding, other weights, or not decidable.

Shape suffixes: N tokens, L layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ....routes import Bools
from ...adding.exceeding import exceeds
from ..book.results import Book, Place
from .prefixes import Cached, KnownFlips, cached_differ, nats
from .wording import margin_words

__all__ = ["Intact", "Rest", "beside_runs"]

_FLOOR = 0.002  # mismatch that is never taken for too much
_USUAL = 0.25  # the quantile of samples whose mismatch is the usual one
_TIMES = 3.0  # how much more one part of a sample may differ than the other
_EVIDENCE = 30.0  # nats
_ALSO = 6.0  # nats for a part, in a sample that differs as a whole
_SHORTEST = 4  # tokens of a part
_TOO_MUCH = 0.35  # mismatch in all, and of the first MoE layer, that is not rounding
_TOO_EARLY = 0.12
_CLEAR = 0.5  # share of clear flips from which rows are of other weights
_MOST = 1 << 16  # samples that are told apart
_WORST = 64
_DECIDED = 0.5  # share of the rows whose margins must be known to decide
Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Step:
    """A part of a sample that differs more than the other, its rows, and how many are wrong."""

    position: int
    front: bool
    wrong: int
    rows: int


@dataclass(frozen=True, slots=True)
class Intact:
    """A sample that no run took rows of: its compared positions, and what of its rows differs.

    plain is the step in its mismatch that stands out by itself, also the one that is told where
    the sample differs as a whole, parted the likeliest one, however little more it differs; cached
    are its rows of cached tokens.
    """

    index: int
    name: str
    first: int
    end: int
    wrong: int
    rows: int
    plain: _Step | None
    also: _Step | None
    parted: _Step | None
    cached: Cached

    @property
    def rate(self) -> float:
        """The share of its rows that differ."""
        return self.wrong / max(self.rows, 1)

    def step(self, usual: float) -> tuple[_Step, bool] | None:
        """The part that differs more than usual, and whether that is all of the sample."""
        if self.wrong > _TIMES * usual * self.rows:
            gain = float(nats(self.wrong, self.rows, self.wrong / self.rows))
            gain -= float(nats(self.wrong, self.rows, usual))
            if gain > _EVIDENCE:  # this sample differs: in which part of it takes less to say
                also = self.also or self._rear(usual)
                whole = _Step(self.first, True, self.wrong, self.rows)
                return (whole, True) if also is None else (also, False)
        return None if self.plain is None else (self.plain, False)

    def _rear(self, usual: float) -> _Step | None:
        """The later part, where that is why the sample differs: what is before is as usual."""
        one = self.parted
        if one is None or one.front:
            return None
        as_usual = self.wrong - one.wrong <= _TIMES * usual * (self.rows - one.rows)
        return one if as_usual else None


@dataclass(slots=True, eq=False)
class Rest:
    """Counts of rows that no run took, and of steps in their mismatch; those of shards add up.

    intact are the first samples in the dump whose rows no run took, by index; worst those of them
    that differ most, whichever they are; count is how many there are in all. beside are rows of
    layers that a run took other rows of, in their sample.
    """

    layers: tuple[int, ...]
    eps: float
    rows_L: Counts
    wrong_L: Counts
    known: int = 0
    clear: int = 0
    count: int = 0
    beside: Cached = field(default_factory=Cached)
    intact: dict[int, Intact] = field(default_factory=dict)
    differing: list[Intact] = field(default_factory=list)

    @classmethod
    def empty(cls, layers: tuple[int, ...], eps: float) -> "Rest":
        """Of no samples."""
        return cls(layers, eps, *np.zeros((2, len(layers)), np.int64))

    def __add__(self, other: "Rest") -> "Rest":
        return Rest(
            self.layers,
            self.eps,
            self.rows_L + other.rows_L,
            self.wrong_L + other.wrong_L,
            self.known + other.known,
            self.clear + other.clear,
            self.count + other.count,
            self.beside + other.beside,
            _first(self.intact | other.intact),
            _worst([*self.differing, *other.differing]),
        )

    def add(
        self,
        index: int,
        place: Place,
        wrong_NL: Bools,
        rest_NL: Bools,
        both_NL: Bools,
        flips: KnownFlips,
    ) -> None:
        """Add a sample's rows that are left; flips are the margins of those that differ."""
        wrong_NL = wrong_NL & rest_NL
        self.rows_L = self.rows_L + rest_NL.sum(axis=0)
        self.wrong_L = self.wrong_L + wrong_NL.sum(axis=0)
        self.known, self.clear = self.known + flips.known, self.clear + flips.clear
        beside_L = beside_runs(rest_NL, both_NL)
        sizes = int(rest_NL[:, beside_L].sum()), int(wrong_NL[:, beside_L].sum())
        self.beside += Cached(*sizes, flips.beside_known, flips.beside_clear)
        if (rest_NL == both_NL).all() and wrong_NL.any():
            one = _intact(index, place, wrong_NL.sum(axis=1), rest_NL.sum(axis=1), flips)
            self.count += 1
            self.intact[index] = one
            if len(self.intact) > 2 * _MOST:
                self.intact = _first(self.intact)
            self.differing.append(one)
            if len(self.differing) > 8 * _WORST:
                self.differing = _worst(self.differing)

    def spare(self, wrong_NL: Bools, both_NL: Bools) -> None:
        """Add rows that a run had and nothing else is to be said of."""
        self.rows_L = self.rows_L + both_NL.sum(axis=0)
        self.wrong_L = self.wrong_L + wrong_NL.sum(axis=0)
        self.beside += Cached(int(both_NL.sum()), int(wrong_NL.sum()))

    def worst(self, most: int) -> list[Intact]:
        """The samples of which most rows differ, a quarter of all at most."""
        return _worst(self.differing)[: min(most, max(8, self.count // 4))]

    def explain(self, before_L: Counts, kept: set[int]) -> None:
        """Take out rows that something explains, and the samples that are not among ``kept``."""
        self.wrong_L = self.wrong_L - before_L
        self.intact = {index: one for index, one in self.intact.items() if index in kept}

    def judge(self, book: Book, explained_in_place: bool, explained: bool, *, beside: bool) -> int:
        """Name what is left; how many rows a step in the mismatch explains.

        ``explained_in_place`` says that most of the mismatch was named as wrong in place (R711):
        the rest of it is of the same cause. ``explained`` says that most was explained: what is
        left beside it is not judged by its rate. ``beside`` says that some was.
        """
        prefixes = self._prefixes(book)
        stale = self._steps(book, prefixes is not None) + (prefixes.wrong if prefixes else 0)
        rows, wrong = int(self.rows_L.sum()), int(self.wrong_L.sum()) - stale
        known, clear = self.known, self.clear
        if prefixes is not None:
            rows, known, clear = (
                rows - prefixes.rows,
                known - prefixes.known,
                clear - prefixes.clear,
            )
        decided = known >= _DECIDED * wrong
        if explained and decided and clear > _CLEAR * known:
            # clear flips beside rows that are moved are what is left of those
            rows, wrong = rows - self.beside.rows, wrong - self.beside.wrong
            known, clear = known - self.beside.known, clear - self.beside.clear
            decided = known >= _DECIDED * wrong
        if rows <= 0 or wrong <= 0:
            return stale
        others = "other " if beside or stale or prefixes else ""
        share = f"{100 * wrong / rows:.2f} % of the {others}rows differ"
        margins = margin_words(known, clear, self.eps)
        rate_L = self.wrong_L / np.maximum(self.rows_L, 1)
        said = next((facts for code, facts in book.found if code == "R711"), None)
        if explained_in_place and said is not None:
            book.add("R711", None, rows=wrong, facts=dict(said))
        elif decided and clear > _CLEAR * known:
            book.add("R716", None, rows=wrong, detail=f"{share}{margins}", facts={})
        elif not (stale or explained) and (
            exceeds(wrong, rows, _TOO_MUCH)
            or exceeds(int(self.wrong_L[0]), int(self.rows_L[0]), _TOO_EARLY)
        ):
            first = self.layers[int(np.flatnonzero(rate_L >= min(_TOO_EARLY, rate_L.max()))[0])]
            detail = f"wrong from layer {first} on: {share}{margins}"
            book.add("R711", None, rows=wrong, detail=detail, facts={"from_layer": first})
        elif decided:
            book.add("R712", None, rows=wrong, detail=f"{share}{margins}", facts={})
        else:
            book.add("R715", None, rows=wrong, detail=share, facts={})
        return stale

    def _prefixes(self, book: Book) -> Cached | None:
        """Name rows of cached tokens where those of most samples differ more than the others."""
        samples = [one for one in self.intact.values() if one.cached.rows]
        detail = cached_differ([(one.cached, one.rows, one.wrong) for one in samples])
        if detail is None:
            return None
        for one in samples:
            if one.cached.wrong:
                place = Place(one.name, one.first)
                book.add("R709", place, rows=one.cached.wrong, detail=detail)
        return sum((one.cached for one in samples), Cached())

    def _steps(self, book: Book, cached_named: bool) -> int:
        """Name samples part of which differs far more than the rest; how many rows that are.

        ``cached_named`` says that prefixes of cached tokens are named already.
        """
        rates = [one.rate for one in self.intact.values() if one.rows]
        if not rates:
            return 0
        usual = max(float(np.quantile(rates, _USUAL)), _FLOOR)
        explained = 0
        for one in self.intact.values():
            found = one.step(usual)
            if found is None:
                continue
            step, whole = found
            if cached_named and step.front and one.cached.wrong:
                continue
            detail = "all of the sample" if whole else ""
            place = Place(one.name, step.position)
            book.add("R709" if step.front else "R718", place, rows=step.wrong, detail=detail)
            explained += step.wrong
        return explained


def beside_runs(rest_NL: Bools, both_NL: Bools) -> Bools:
    """The layers that a run took rows of, [L]."""
    return np.asarray((rest_NL != both_NL).any(axis=0))


def _first(intact: dict[int, Intact]) -> dict[int, Intact]:
    """The first samples in the order of the dump."""
    return {index: intact[index] for index in sorted(intact)[:_MOST]}


def _worst(samples: Sequence[Intact]) -> list[Intact]:
    """Those of which most rows differ."""
    return sorted(samples, key=lambda one: (-one.rate, one.index))[:_WORST]


def _intact(index: int, place: Place, wrong_N: Counts, rows_N: Counts, flips: KnownFlips) -> Intact:
    """What is kept of a sample."""
    wrong, rows = np.cumsum(wrong_N), np.cumsum(rows_N)
    total, size, begin = int(wrong[-1]), int(rows[-1]), place.position or 0
    least = (_EVIDENCE, _TIMES), (_ALSO, _TIMES), (_ALSO, 1.0)
    plain, also, parted = (_step(begin, wrong, rows, _split(wrong, rows, *e)) for e in least)
    cached, end = flips.cached_of(wrong_N, rows_N), begin + len(wrong)
    return Intact(index, place.sample, begin, end, total, size, plain, also, parted, cached)


def _step(begin: int, wrong: Counts, rows: Counts, found: tuple[int, bool] | None) -> _Step | None:
    if found is None:
        return None
    cut, front = found
    if front:
        return _Step(begin, True, int(wrong[cut]), int(rows[cut]))
    return _Step(begin + cut + 1, False, int(wrong[-1] - wrong[cut]), int(rows[-1] - rows[cut]))


def _split(wrong: Counts, rows: Counts, evidence: float, times: float) -> tuple[int, bool] | None:
    """The last token of the first part, and whether that differs more; None without evidence.

    Tokens without rows count for neither part.
    """
    total, size = int(wrong[-1]), int(rows[-1])
    there = np.flatnonzero(np.diff(rows, prepend=0))
    if len(there) < 2 * _SHORTEST:
        return None
    cuts = there[_SHORTEST - 1 : -_SHORTEST]
    one_w, one_r = wrong[cuts], np.maximum(rows[cuts], 1)
    two_w, two_r = total - one_w, np.maximum(size - rows[cuts], 1)
    even = nats(np.array(total), np.array(size), total / size)
    gain = nats(one_w, one_r, one_w / one_r) + nats(two_w, two_r, two_w / two_r) - even
    best = int(gain.argmax())
    rates = one_w[best] / one_r[best], two_w[best] / two_r[best]
    if gain[best] < evidence or max(rates) < times * max(min(rates), _FLOOR):
        return None
    return int(cuts[best]), bool(rates[0] > rates[1])
