"""The types of routectl.check/1 and of a line of routectl.watch/1, as docs/json.md has them."""

from typing import Literal, NotRequired, TypedDict

from ..document import CountedRows, DumpEntry

__all__ = [
    "CheckDocument",
    "CheckVerdict",
    "ExplanationEntry",
    "FindingEntry",
    "FindingPlace",
    "HypothesisEntry",
    "LayerMismatch",
    "PermutationEntry",
    "SeverityCounts",
    "WatchDocument",
    "WorstFinding",
]

Severity = Literal["error", "warning", "note"]


class FindingPlace(TypedDict):
    """Where a finding is; None where it is of all."""

    sample: str
    position: int | None
    layer: int | None


class WorstFinding(TypedDict):
    """A finding in short; ``detail`` tells findings of one code apart."""

    code: str
    severity: Severity
    title: str
    detail: str | None
    rows: int
    samples: int


class FindingEntry(WorstFinding):
    """A finding: how much of it, where first, and what to do."""

    layers: list[int]
    places: list[FindingPlace]
    cause: str
    action: str
    upstream: list[str]


class SeverityCounts(TypedDict):
    """Findings by severity."""

    errors: int
    warnings: int
    notes: int


class LayerMismatch(CountedRows):
    """The mismatch of one layer."""

    layer: int


class HypothesisEntry(TypedDict):
    """What was tried on some rows, and the mismatch that it would leave."""

    code: str
    hypothesis: str
    rows: int
    mismatch_rate: float | None
    mismatch_rate_before: float | None


class PermutationEntry(TypedDict):
    """The reference's expert for each of the dump's, in one layer."""

    layer: int
    to: list[int]


class ExplanationEntry(CountedRows):
    """What a comparison with a reference came to."""

    rows_explained: int
    layers: list[LayerMismatch]
    hypotheses: list[HypothesisEntry]
    permutations: list[PermutationEntry]


class CheckVerdict(TypedDict):
    """The least severity that fails, and what came of it."""

    fail_on: Severity
    exit_code: int


class CheckDocument(TypedDict):
    """routectl.check/1."""

    schema: Literal["routectl.check/1"]
    dump: DumpEntry
    reference: DumpEntry | None
    tokens: int
    rows: int
    counts: SeverityCounts
    findings: list[FindingEntry]
    explanation: ExplanationEntry | None
    verdict: CheckVerdict


class WatchDocument(TypedDict):
    """routectl.watch/1: a look at a file; what is not required is there unless ``error`` is."""

    schema: Literal["routectl.watch/1"]
    time: str
    file: str
    error: str | None
    samples: NotRequired[int]
    tokens: NotRequired[int]
    rows: NotRequired[int]
    counts: NotRequired[SeverityCounts]
    codes: NotRequired[list[str]]
    worst: NotRequired[WorstFinding | None]
    exit_code: int
