"""Findings of many samples, counted: what the books of single samples come to.

Ledgers of shards add up, in any order and any tree, to that of the whole. They are bounded: of a
finding its first places are kept, of findings of one code that differ in numbers alone the first
few and the range, of those that differ in words so many.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from .bottom import Bottom, number_of
from .results import PLACES, Book, CheckFinding, Fact, Facts, Place, ordered

__all__ = ["FindingTally", "Ledger"]

_VARIANTS = 4  # findings of one code that differ in a number alone, told apart up to so many
_KINDS = 64  # of one code that differ in words
_WHOLE = (-1, 0)  # where a finding of the dump as a whole stands
_MORE = "of more kinds"
_BOUNDS = ("least_", "greatest_")  # numbers so named bound what findings of one kind hold together
Words = tuple[tuple[str, str | None], ...]


@dataclass(frozen=True, slots=True)
class FindingTally:
    """Rows, samples, layers and first places of some findings.

    places are (index of the sample, order in it, place); first is where the first of all stands,
    whose ``detail`` speaks for them.
    """

    first: tuple[int, int]
    detail: str = ""
    rows: int = 0
    samples: int = 0
    layers: frozenset[int] = frozenset()
    places: tuple[tuple[int, int, Place], ...] = ()

    @classmethod
    def of(cls, index: int, place: Place, rows: int = 0, detail: str = "") -> "FindingTally":
        """One sample's."""
        return cls((index, 0), detail, rows, 1, frozenset(), ((index, 0, place),))

    def __add__(self, other: "FindingTally") -> "FindingTally":
        early, late = (self, other) if self.first <= other.first else (other, self)
        places = early.places
        if len(places) < PLACES or (late.places and late.places[0][:2] < places[-1][:2]):
            places = tuple(sorted((*places, *late.places), key=lambda p: p[:2])[:PLACES])
        return FindingTally(
            early.first,
            early.detail,
            self.rows + other.rows,
            self.samples + other.samples,
            self.layers | other.layers,
            places,
        )

    def finding(self, code: str, facts: Facts, detail: str | None = None) -> CheckFinding:
        """The finding that it comes to."""
        places = tuple(place for _, _, place in self.places)
        said = self.detail if detail is None else detail
        layers = tuple(sorted(self.layers))
        return CheckFinding(code, said, self.rows, self.samples, layers, places, facts)


@dataclass(frozen=True, slots=True)
class _Kind:
    """Findings of one code that differ in numbers alone.

    numbers are names with the least and the greatest value; variants by their facts, None from one
    more on than are told apart, and where numbers are bounds.
    """

    words: Words
    total: FindingTally
    numbers: tuple[tuple[str, int, int], ...]
    variants: dict[Facts, FindingTally] | None

    def __add__(self, other: "_Kind") -> "_Kind":
        total = self.total + other.total
        if self.words != other.words:
            return _Kind((("kind", _MORE),), total, (), None)
        pairs = zip(self.numbers, other.numbers, strict=True)
        numbers = tuple((n, min(a, c), max(b, d)) for (n, a, b), (_, c, d) in pairs)
        variants = None
        if self.variants is not None and other.variants is not None:
            variants = dict(self.variants)
            for facts, tally in other.variants.items():
                known = variants.get(facts)
                variants[facts] = tally if known is None else known + tally
            if len(variants) > _VARIANTS:
                variants = None
        return _Kind(self.words, total, numbers, variants)

    def findings(self, code: str) -> list[CheckFinding]:
        """One each while they are few, else one with the least and the greatest."""
        if self.variants is not None:
            return [tally.finding(code, facts) for facts, tally in self.variants.items()]
        ranges = {name: (least, greatest) for name, least, greatest in self.numbers}
        facts: dict[str, Fact] = {}
        for name, word in self.words:
            if word is not None:
                facts[name] = word
            elif name.startswith(_BOUNDS):
                facts[name] = ranges[name][not name.startswith(_BOUNDS[0])]
            elif ranges[name][0] == ranges[name][1]:
                facts[name] = ranges[name][0]
            else:
                facts |= {f"least_{name}": ranges[name][0], f"greatest_{name}": ranges[name][1]}
        told = [v for v in facts.values() if isinstance(v, str)]
        bounds = [name for name in ranges if name.startswith(_BOUNDS)]
        told += [f"{n} {a} to {b}" for n, (a, b) in ranges.items() if a != b and n not in bounds]
        said = "; ".join(told)
        if bounds:
            least, greatest = (facts[name] for name in bounds)
            named = bounds[0].removeprefix(_BOUNDS[0])
            said = f"{named} {least}{'' if least == greatest else f' to {greatest}'}: {said}"
        return [self.total.finding(code, tuple(facts.items()), said)]


def _kind(facts: Facts, tally: FindingTally, samples: int) -> _Kind:
    """A kind of one variant; ``samples`` are those of it that the kind does not have yet."""
    words = tuple((n, v if isinstance(v, str) else None) for n, v in facts)
    numbers = tuple((n, v, v) for n, v in facts if not isinstance(v, str))
    bounded = any(name.startswith(_BOUNDS) for name, _, _ in numbers)
    variants = None if bounded else {facts: tally}
    return _Kind(words, replace(tally, samples=samples), numbers, variants)


@dataclass(slots=True)
class Ledger:
    """Findings by code and by what tells them apart in words."""

    codes: dict[str, Bottom[_Kind]] = field(default_factory=dict)

    def take(self, book: Book, index: Mapping[str, int] | int) -> None:
        """Count what a book says, of the sample of an index or of several by their names."""
        held: dict[tuple[str, Words], set[str]] = {}
        for order, ((code, facts), entry) in enumerate(book.found.items()):
            spots = tuple(
                (index if isinstance(index, int) else index[p.sample], PLACES * order + n, p)
                for n, p in enumerate(entry.places)
            )
            rows = entry.rows + sum(entry.samples.values())
            names, layers = set(entry.samples), frozenset(entry.layers)
            first = spots[0][:2] if spots else _WHOLE
            tally = FindingTally(first, entry.detail, rows, len(names), layers, spots)
            words = tuple((n, v if isinstance(v, str) else None) for n, v in facts)
            seen = held.setdefault((code, words), set())
            self._add(code, _kind(facts, tally, len(names - seen)))
            seen |= names

    def put(
        self,
        code: str,
        tally: FindingTally | None,
        facts: Mapping[str, Fact] | None = None,
        detail: str | None = None,
    ) -> None:
        """Count findings of many samples, None for none; facts and detail as in ``Book.add``."""
        if tally is None:
            return
        told = tally if detail is None else replace(tally, detail=detail)
        if facts is None:
            facts = {"kind": told.detail} if told.detail else {}
        self._add(code, _kind(tuple(facts.items()), told, told.samples))

    def _add(self, code: str, kind: _Kind) -> None:
        known = self.codes.get(code)
        if known is None:
            known = self.codes[code] = Bottom(_KINDS)
        known.add(number_of(repr(kind.words)), kind)

    def __add__(self, other: "Ledger") -> "Ledger":
        none: Bottom[_Kind] = Bottom(_KINDS)
        codes = sorted({*self.codes, *other.codes})
        return Ledger({c: self.codes.get(c, none) + other.codes.get(c, none) for c in codes})

    def findings(self) -> tuple[CheckFinding, ...]:
        """In order: errors first, then by code, then by rows."""
        found: list[CheckFinding] = []
        for code, kinds in self.codes.items():
            kinds.trim()
            for kind in (*kinds.held.values(), *([kinds.rest] if kinds.rest else [])):
                found += kind.findings(code)
        return ordered(found)
