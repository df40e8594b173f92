"""What a check comes to: findings with their first places, and what explains a mismatch.

Results of shards add up.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from ...dump import DumpMeta
from .findings import SEVERITIES, FindingKind, kind_of

__all__ = ["Book", "CheckFinding", "CheckResult", "Explanation", "Place", "Score"]

_PLACES = 5
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a finding is: a sample, and within it a position and a layer where it has one."""

    sample: str
    position: int | None = None
    layer: int | None = None


@dataclass(frozen=True, slots=True)
class CheckFinding:
    """What is wrong in one way: rows (a token in one layer), samples, layers and first places.

    detail tells findings of one code apart, numbers in it aside, and adds what the table does not
    know. rows is 0 where a finding is of samples as a whole.
    """

    code: str
    detail: str
    rows: int
    samples: int
    layers: tuple[int, ...]
    places: tuple[Place, ...]

    @property
    def kind(self) -> FindingKind:
        """The entry of the table."""
        return kind_of(self.code)

    @property
    def key(self) -> tuple[str, str]:
        """What findings that add up have in common."""
        return self.code, _NUMBER.sub("#", self.detail)

    def __add__(self, other: "CheckFinding") -> "CheckFinding":
        if self.key != other.key:
            raise ValueError(f"{self.code} and {other.code} are not one finding")
        layers = tuple(sorted({*self.layers, *other.layers}))
        return replace(
            self,
            rows=self.rows + other.rows,
            samples=self.samples + other.samples,
            layers=layers,
            places=(*self.places, *other.places)[:_PLACES],
        )


@dataclass(slots=True)
class Book:
    """Findings as they come in."""

    found: dict[tuple[str, str], CheckFinding] = field(default_factory=dict)

    def add(
        self,
        code: str,
        where: Place | None,
        *,
        rows: int = 0,
        layers: Iterable[int] = (),
        detail: str = "",
    ) -> None:
        """One sample's part of a finding; ``where`` is its first place."""
        samples, places = (0, ()) if where is None else (1, (where,))
        new = CheckFinding(code, detail, rows, samples, tuple(sorted(set(layers))), places)
        known = self.found.get(new.key)
        self.found[new.key] = new if known is None else known + new

    def findings(self) -> tuple[CheckFinding, ...]:
        """In order: errors first, then by code, then by rows."""
        return _ordered(self.found.values())


def _ordered(findings: Iterable[CheckFinding]) -> tuple[CheckFinding, ...]:
    rank = {name: -i for i, name in enumerate(SEVERITIES)}
    return tuple(sorted(findings, key=lambda f: (rank[f.kind.severity], f.code, -f.rows, f.detail)))


@dataclass(frozen=True, slots=True)
class Score:
    """Rows that a hypothesis was tried on, and those that differ with and without it.

    rows is the region's rows that both sides have under the hypothesis.
    """

    code: str
    name: str
    rows: int
    mismatched: int
    before: int

    @property
    def rate(self) -> float | None:
        """The mismatch that the hypothesis would leave."""
        return self.mismatched / self.rows if self.rows else None

    @property
    def rate_before(self) -> float | None:
        """The mismatch of these rows as they stand."""
        return self.before / self.rows if self.rows else None

    def __add__(self, other: "Score") -> "Score":
        return Score(
            self.code,
            self.name,
            self.rows + other.rows,
            self.mismatched + other.mismatched,
            self.before + other.before,
        )


@dataclass(frozen=True, slots=True)
class Explanation:
    """The comparison: rows and mismatched rows, in all and outside of what was explained.

    layers, rows_L and mismatched_L are of the compared layers; scores of hypotheses, the best
    first; permutations are of layers whose experts are renumbered, ``to[dump id] = reference id``.
    """

    rows: int
    mismatched: int
    explained: int
    layers: tuple[int, ...]
    rows_L: tuple[int, ...]
    mismatched_L: tuple[int, ...]
    scores: tuple[Score, ...]
    permutations: tuple[tuple[int, tuple[int, ...]], ...] = ()

    def __add__(self, other: "Explanation") -> "Explanation":
        if self.layers != other.layers:
            raise ValueError("explanations of other layers do not add up")
        merged: dict[tuple[str, str], Score] = {}
        for score in (*self.scores, *other.scores):
            key = (score.code, score.name)
            merged[key] = merged[key] + score if key in merged else score
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
            tuple(dict([*self.permutations, *other.permutations]).items()),
        )


@dataclass(frozen=True, slots=True, eq=False)
class CheckResult:
    """What check found: counts of what it looked at, and the findings.

    tokens are those with a place in the routes, rows those that are there. explanation is None
    without a reference. Two results of shards of one dump add up; what takes samples of both
    shards to see (siblings, swapped samples) is not looked for across them.
    """

    meta: DumpMeta
    samples: int
    tokens: int
    rows: int
    findings: tuple[CheckFinding, ...]
    explanation: Explanation | None = None

    def __add__(self, other: "CheckResult") -> "CheckResult":
        merged: dict[tuple[str, str], CheckFinding] = {}
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
            _ordered(merged.values()),
            whole,
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
