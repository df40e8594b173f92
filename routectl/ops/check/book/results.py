"""What a check comes to: findings with their first places, and what explains a mismatch.

Results of shards add up.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from ....dump import DumpMeta
from ....visible import visible
from ..alone.results import Power
from ..candidates.made_by import MadeBy
from .bottom import number_of
from .findings import kind_of
from .kind import SEVERITIES, FindingKind
from .words import word_of

__all__ = [
    "CONSTANT_FROM",
    "PLACES",
    "SHIFTED",
    "Book",
    "CheckEstimate",
    "CheckFinding",
    "CheckResult",
    "Explanation",
    "Fact",
    "Facts",
    "FoundMap",
    "Place",
    "copied",
    "ordered",
]

PLACES = 5
CONSTANT_FROM = 8  # rows of a layer that are alike before it is called constant; 64 with K = 1
SHIFTED = "every id"  # how a map is named that adds one number to each, before the number
_SHIFT_CAUSE = (
    "Every id is off by the same number: ids that begin at 0 were read as ids that begin at 1, or "
    "the reverse, or the first expert of a rank was added."
)
Fact = int | str
Facts = tuple[tuple[str, Fact], ...]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a finding is: a sample, and within it a position and a layer where it has one.

    note says what is known of this place alone, such as whose rows it holds.
    """

    sample: str
    position: int | None = None
    layer: int | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class CheckFinding:
    """What is wrong in one way: rows (a token in one layer), samples, layers and first places.

    facts, typed and in order, tell findings of one code apart: a lag, a size, a name; detail says
    them in words. rows is 0 where a finding is of samples as a whole; samples counts each once.
    next_step is what to do where that is known better than of the kind.
    """

    code: str
    detail: str
    rows: int
    samples: int
    layers: tuple[int, ...]
    places: tuple[Place, ...]
    facts: Facts = ()
    next_step: str | None = None

    @property
    def kind(self) -> FindingKind:
        """The entry of the table."""
        return kind_of(self.code)

    @property
    def cause(self) -> str:
        """What is likely behind it: that of its kind, but for ids that one number was added to."""
        shifted = str(dict(self.facts).get("map", "")).startswith(SHIFTED)
        return _SHIFT_CAUSE if shifted else self.kind.cause

    @property
    def action(self) -> str:
        """What to do about it: what its kind says, where nothing is known better."""
        return self.kind.action if self.next_step is None else self.next_step

    @property
    def key(self) -> tuple[str, Facts]:
        """What findings that add up have in common."""
        return self.code, self.facts

    def __add__(self, other: "CheckFinding") -> "CheckFinding":
        if self.key != other.key:
            raise ValueError(f"{self.code} and {other.code} are not one finding")
        return replace(
            self,
            rows=self.rows + other.rows,
            samples=self.samples + other.samples,
            layers=tuple(sorted({*self.layers, *other.layers})),
            places=(*self.places, *other.places)[:PLACES],
        )


@dataclass(slots=True)
class _Entry:
    """A finding as it grows: its rows in each sample, so that a sample is counted once."""

    detail: str
    rows: int = 0
    samples: dict[str, int] = field(default_factory=dict)
    layers: set[int] = field(default_factory=set)
    places: list[Place] = field(default_factory=list)


@dataclass(slots=True)
class Book:
    """Findings as they come in."""

    found: dict[tuple[str, Facts], _Entry] = field(default_factory=dict)

    def add(
        self,
        code: str,
        where: Place | None,
        *,
        rows: int = 0,
        layers: Iterable[int] = (),
        detail: str = "",
        facts: Mapping[str, Fact] | None = None,
    ) -> None:
        """One sample's part of a finding; ``where`` is its first place, None for the whole dump.

        ``facts`` is what tells it from others of its code; without them ``detail`` does, which
        then holds no number that changes from sample to sample.
        """
        if facts is None:
            facts = {"kind": detail} if detail else {}
        entry = self.found.setdefault((code, tuple(facts.items())), _Entry(detail))
        entry.layers |= set(layers)
        if where is None:
            entry.rows += rows
            return
        entry.samples[where.sample] = entry.samples.get(where.sample, 0) + rows
        if len(entry.places) < PLACES:
            entry.places.append(where)

    def has(self, code: str, sample: str) -> bool:
        """Whether a finding of a code is in a sample."""
        return any(sample in e.samples for (c, _), e in self.found.items() if c == code)

    def retract(self, code: str, sample: str | None = None) -> None:
        """Take one sample, or all, out of the findings of a code: another one explains them."""
        for key in [k for k in self.found if k[0] == code]:
            entry = self.found[key]
            if sample is None:
                del self.found[key]
            elif entry.samples.pop(sample, None) is not None:
                entry.places = [p for p in entry.places if p.sample != sample]
                if not entry.samples and not entry.rows:
                    del self.found[key]


def copied(book: Book) -> Book:
    """The same book apart, to be added to."""
    return Book(
        {
            key: _Entry(e.detail, e.rows, dict(e.samples), set(e.layers), list(e.places))
            for key, e in book.found.items()
        }
    )


def ordered(findings: Iterable[CheckFinding]) -> tuple[CheckFinding, ...]:
    """Errors first, then by code, then by rows."""
    rank = {name: -i for i, name in enumerate(SEVERITIES)}
    return tuple(
        sorted(
            findings,
            key=lambda f: (rank[f.kind.severity], f.code, -f.rows, f.detail, repr(f.facts)),
        )
    )


@dataclass(frozen=True, slots=True)
class CheckEstimate:
    """What was done to some rows, and how many of them differ with it undone and as they are.

    rows is those of the region that both sides have once it is undone.
    """

    code: str
    name: str
    rows: int
    mismatched: int
    before: int

    @property
    def number(self) -> int:
        """What estimates of one kind have in common."""
        return number_of(f"{self.code} {self.name}")

    @property
    def rate(self) -> float | None:
        """The mismatch that the estimate leaves."""
        return self.mismatched / self.rows if self.rows else None

    @property
    def rate_before(self) -> float | None:
        """The mismatch of these rows as they stand."""
        return self.before / self.rows if self.rows else None

    def __add__(self, other: "CheckEstimate") -> "CheckEstimate":
        return CheckEstimate(
            self.code,
            self.name,
            self.rows + other.rows,
            self.mismatched + other.mismatched,
            self.before + other.before,
        )


@dataclass(frozen=True, slots=True)
class FoundMap:
    """Ids of the dump that stand for others, by layer, and the rows that they hold in.

    to          a layer and, by the dump's id, the reference's, -1 where none was seen
    invertible  whether the dump's ids still say which expert it was
    where       runs of rows: (index of the sample in the dump, first position, after the last)
    """

    name: str
    to: tuple[tuple[int, tuple[int, ...]], ...]
    invertible: bool
    where: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """The comparison: rows and mismatched rows, in all and outside of what was explained.

    layers, rows_L and mismatched_L are of the compared layers; estimates of what was done, the one
    that explains most rows first; maps of layers whose ids stand for others.
    """

    rows: int
    mismatched: int
    explained: int
    layers: tuple[int, ...]
    rows_L: tuple[int, ...]
    mismatched_L: tuple[int, ...]
    estimates: tuple[CheckEstimate, ...]
    maps: tuple[FoundMap, ...] = ()

    def __add__(self, other: "Explanation") -> "Explanation":
        """Of two shards; maps say where they hold by the index in one dump, so one side's go."""
        if self.layers != other.layers:
            raise ValueError("explanations of other layers do not add up")
        merged: dict[tuple[str, str], CheckEstimate] = {}
        for found in (*self.estimates, *other.estimates):
            key = (found.code, found.name)
            merged[key] = merged[key] + found if key in merged else found
        pairs = zip(self.rows_L, other.rows_L, strict=True)
        wrong = zip(self.mismatched_L, other.mismatched_L, strict=True)
        return Explanation(
            self.rows + other.rows,
            self.mismatched + other.mismatched,
            self.explained + other.explained,
            self.layers,
            tuple(a + b for a, b in pairs),
            tuple(a + b for a, b in wrong),
            tuple(merged.values()),
            self.maps or other.maps,
        )


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class CheckResult:
    """What check found: counts of what it looked at, and the findings.

    tokens are those with a place in the routes, rows those that are there. explanation is None
    without a reference; power is what the dump's own tokens could tell, None where they were not
    asked; made_by is who made the rows, None without candidates. Two results of shards of one dump
    add up; what takes samples of both shards to see (siblings, swapped samples) is not looked for
    across them.
    """

    meta: DumpMeta
    samples: int
    tokens: int
    rows: int
    findings: tuple[CheckFinding, ...]
    explanation: Explanation | None = None
    power: Power | None = None
    made_by: MadeBy | None = None

    @property
    def word(self) -> str:
        """The verdict in one word: that of what is worst."""
        return word_of({severity: self.count(severity) for severity in SEVERITIES})

    def __repr__(self) -> str:
        counts = ", ".join(f"{name} {self.count(name)}" for name in reversed(SEVERITIES))
        codes = " ".join(dict.fromkeys(f.code for f in self.findings))
        return (
            f"<CheckResult of {visible(self.meta.path, 120, end=40)}: {self.word}, {counts}\n"
            f" {self.samples:,} samples, {self.tokens:,} tokens, {self.rows:,} rows"
            f"{codes and f'; findings {codes}'}>"
        )

    def __add__(self, other: "CheckResult") -> "CheckResult":
        merged: dict[tuple[str, Facts], CheckFinding] = {}
        for finding in (*self.findings, *other.findings):
            known = merged.get(finding.key)
            merged[finding.key] = finding if known is None else known + finding
        whole = self.explanation or other.explanation
        if self.explanation is not None and other.explanation is not None:
            whole = self.explanation + other.explanation
        return CheckResult(
            self.meta,
            self.samples + other.samples,
            self.tokens + other.tokens,
            self.rows + other.rows,
            ordered(merged.values()),
            whole,
            self.power or other.power,
            self.made_by or other.made_by,
        )

    def selected(self, select: Iterable[str], ignore: Iterable[str]) -> "CheckResult":
        """With the findings whose code starts with one of ``select`` and none of ``ignore``."""
        wanted, left_out = tuple(select), tuple(ignore)
        kept = [f for f in self.findings if not wanted or f.code.startswith(wanted)]
        kept = [f for f in kept if not (left_out and f.code.startswith(left_out))]
        return replace(self, findings=tuple(kept))

    def count(self, severity: str) -> int:
        """How many findings are of a severity."""
        return sum(f.kind.severity == severity for f in self.findings)
