"""The types of routectl.check/1 and of a line of routectl.watch/1, as docs/json.md has them."""

from typing import Literal, NotRequired, TypedDict

from ..document import AskedEntry, CountedRows, DumpEntry, PartEntry

__all__ = [
    "CandidateEntry",
    "CandidatesEntry",
    "CheckDocument",
    "CheckVerdict",
    "ExplanationEntry",
    "FindingEntry",
    "FindingPlace",
    "HypothesisEntry",
    "LayerLift",
    "LayerMismatch",
    "MadePart",
    "NoiseLimit",
    "PermutationEntry",
    "SeverityCounts",
    "TokensEntry",
    "WatchDocument",
    "WorstFinding",
]

Severity = Literal["error", "warning", "undecided", "note"]


class FindingPlace(TypedDict):
    """Where a finding is; None where it is of all. ``note`` is what is known of this place."""

    sample: str
    position: int | None
    layer: int | None
    note: str | None


class WorstFinding(TypedDict):
    """A finding in short; ``detail`` tells findings of one code apart."""

    code: str
    severity: Severity
    title: str
    detail: str | None
    rows: int
    samples: int


class FindingEntry(WorstFinding):
    """A finding: what tells it from others of its code, how much of it, where, what to do."""

    facts: dict[str, int | str]
    layers: list[int]
    places: list[FindingPlace]
    cause: str
    action: str
    upstream: list[str]


class SeverityCounts(TypedDict):
    """Findings by severity."""

    errors: int
    warnings: int
    undecided: int
    notes: int


class LayerMismatch(CountedRows):
    """The mismatch of one layer."""

    layer: int


class HypothesisEntry(TypedDict):
    """What was done to some rows, and the mismatch with it undone and as they are."""

    code: str
    hypothesis: str
    rows: int
    mismatch_rate: float | None
    mismatch_rate_before: float | None


class PermutationEntry(TypedDict):
    """What the ids of one layer stand for.

    ``to`` has the reference's expert for each id of the dump, -1 where none was seen; where the map
    is not ``invertible``, the dump's id for each expert of the reference.
    """

    layer: int
    to: list[int]
    map: str
    invertible: bool


class ExplanationEntry(CountedRows):
    """What a comparison with a reference came to."""

    rows_explained: int
    layers: list[LayerMismatch]
    hypotheses: list[HypothesisEntry]
    permutations: list[PermutationEntry]


class LayerLift(TypedDict):
    """How much better a row's ids are known by its token than by its layer, in bits an id."""

    layer: int
    bits: float


class TokensEntry(TypedDict):
    """What a dump's own tokens could tell of its rows.

    rows were laid against their tokens, learnt are those that routes by token were learnt from,
    tokens the different ones of these. smallest_run is the least run of rows of other tokens that
    would have been named; None, with the reason, where nothing could be.
    """

    rows: int
    learnt: int
    tokens: int
    smallest_run: int | None
    reason: str | None
    layers: list[LayerLift]


class CandidateEntry(TypedDict):
    """A candidate: samples that it made, and the mismatch of all samples against it."""

    name: str
    samples: int
    mismatch_rate: float | None


class NoiseLimit(TypedDict):
    """What the rows of a candidate differ by where it made them: the median over samples.

    clear_share is that of clear flips among the rows that differ, None without margins: then
    nobody knows whether that is rounding.
    """

    candidate: str
    samples: int
    mismatch_rate: float
    clear_share: float | None


class MadePart(TypedDict):
    """A sample, or the rows of one version in it.

    made_by is a candidate; none: farther from each than rounding goes; undecided: several may have.
    """

    sample: str
    version: str | None
    expected: str | None
    made_by: str | None
    none: bool
    alike: list[str]
    z: float | None
    rows: int
    mismatch_rates: list[float]


class CandidatesEntry(TypedDict):
    """Which of several weights made the rows, sample by sample.

    parts are those that another than the expected made or that are not told, then others: the
    first 4,096. lacking samples were not judged: a candidate has no routes of them.
    """

    confidence: float
    expected: str | None
    candidates: list[CandidateEntry]
    samples: int
    none: int
    undecided: int
    several: int
    lacking: int
    noise: NoiseLimit | None
    parts: list[MadePart]


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
    by_tokens: TokensEntry | None
    candidates: NotRequired[CandidatesEntry]
    verdict: CheckVerdict
    asked: NotRequired[AskedEntry]
    part: NotRequired[PartEntry]


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
