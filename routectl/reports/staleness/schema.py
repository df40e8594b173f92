"""The types of routectl.staleness/1 and routectl.staleness_series/1, as docs/json.md has them."""

from typing import Literal, NotRequired, TypedDict

from ..diff.schema import ComparedFigures, DetailDocument, SampleFigures, UnmatchedEntry
from ..document import CountedRows, DumpEntry, FailureEntry, IntervalEntry
from .shift import RouterShiftEntry

__all__ = [
    "AdviceEntry",
    "AdviceFinding",
    "ApartEntry",
    "BoundaryEntry",
    "ComparisonEntry",
    "ComparisonExtras",
    "ComparisonIntervals",
    "CrossingEntry",
    "DriftEntry",
    "ExpertEntry",
    "FTauEntry",
    "GainDocument",
    "GainEntry",
    "HalfLifeEntry",
    "LackingEntry",
    "NearestEntry",
    "OwnRows",
    "ReplayEntry",
    "ReplayIntervals",
    "SeriesDocument",
    "SkippedStep",
    "SpanEntry",
    "SpeedEntry",
    "StalenessDocument",
    "StepEntry",
    "ThresholdVerdict",
    "TrainerNoise",
    "TrendEntry",
    "UnmeasuredEntry",
    "VersionEntry",
    "Why",
]


Kind = Literal["mismatch", "staleness", "total"]
Mode = Literal["free", "forced"]
Why = Literal["prompt", "dump", "free", "forced", "R2", "tokens"]


class ThresholdVerdict(TypedDict):
    """Thresholds as given, and those that are crossed; what no version covers; alarms.

    Of a series, the last step's.
    """

    thresholds: list[str]
    failed: list[FailureEntry]
    unmatched: UnmatchedEntry
    allow_unmatched: bool
    fail_on: Literal["alarm"] | None
    alarms: int
    exit_code: int


class ComparisonIntervals(TypedDict):
    """Intervals of a comparison's rates, over so many clusters."""

    clusters: int
    mismatch_rate: IntervalEntry | None
    overlap_rate: IntervalEntry | None
    token_mismatch_rate: IntervalEntry | None
    k3: IntervalEntry | None
    f_tau: IntervalEntry | None


class ComparisonExtras(TypedDict, total=False):
    """What is there where routes carry gate log-probabilities, and where it was asked for."""

    router_shift: RouterShiftEntry
    detail: DetailDocument


class ComparisonEntry(ComparedFigures, ComparisonExtras):
    """A comparison: what with what, all of its figures, and the intervals of some."""

    kind: Kind
    old: str
    new: str
    lag: int | None
    mode: Mode
    pairs: list[list[str]]
    samples: SampleFigures
    intervals: ComparisonIntervals


class LackingEntry(TypedDict):
    """How many of the dump's samples a version lacks, by mode; null: no routes of that mode."""

    free: int | None
    forced: int | None


class VersionEntry(TypedDict):
    """A version: where it stands, the rows that it surely made, its routes by mode."""

    name: str
    place: int
    rows: int
    free: DumpEntry | None
    forced: DumpEntry | None
    samples_lacking: NotRequired[LackingEntry]


class OwnRows(CountedRows):
    """The dump's rows of one version against the routes of another."""

    own: str
    version: str
    lag: int
    mode: str


class ApartEntry(CountedRows):
    """The mismatch of a group of rows."""

    group: str
    mode: str
    mismatch_interval: IntervalEntry | None


class SpanEntry(TypedDict):
    """Rows and samples by what the dump's weight-version spans say."""

    rows: dict[str, int]
    by_version: dict[str, int]
    unknown: dict[str, int]
    samples: int
    one_version: int
    several_versions: int
    without_spans: int
    retracted: int
    boundaries: int


class BoundaryEntry(TypedDict):
    """Rows that may be of either of two versions; exact where the engine's spans leave none."""

    engine: str | None
    exact: bool
    known: bool
    tokens: int
    rows: int


class SpeedEntry(CountedRows):
    """What changed over the smallest lag, of all layers or of one."""

    layer: int | None
    lag: int
    mismatch_interval: IntervalEntry | None
    per_update: float


class HalfLifeEntry(TypedDict):
    """After how many updates half of the rows have other experts."""

    layer: int | None
    updates: float | None
    interval: IntervalEntry | None
    exponent: float | None
    extrapolated: bool
    lags: list[int]
    bounds: list[float] | None


class ExpertEntry(TypedDict):
    """An expert that rows entered and left."""

    layer: int
    expert: int
    entered: int
    left: int
    load_old: int
    load_new: int
    rows: int
    moved_rate: float


class NearestEntry(TypedDict):
    """The version that is closest to a version's rows."""

    own: str
    mode: str
    nearest: str
    mismatch_rates: dict[str, float]
    gap: IntervalEntry | None
    is_other: bool


class DriftEntry(TypedDict):
    """How fast routes drift, and what moves most."""

    mode: str | None
    speeds: list[SpeedEntry]
    half_lives: list[HalfLifeEntry]
    fastest_layers: list[int]
    experts: list[ExpertEntry]
    experts_between: list[str] | None
    nearest: list[NearestEntry]


class FTauEntry(TypedDict):
    """F(tau): tokens with a ratio over tau or under 1 / tau."""

    tau: float
    f_tau: float | None
    interval: IntervalEntry | None


class ReplayIntervals(TypedDict):
    """Intervals of a mode's means over tokens."""

    k1: IntervalEntry | None
    k3: IntervalEntry | None
    mean_abs_d: IntervalEntry | None


class ReplayEntry(TypedDict):
    """The log-probs of some weights under one replay mode against the dump's own.

    gain is k3 without replay over k3 of this mode, its interval over the same sequences; null of
    none. A figure that is not finite is null; not_finite, there where one is, says which and what.
    """

    mode: Literal["none", "R2", "R3"]
    k1: float | None
    k3: float | None
    mean_abs_d: float | None
    max_abs_d: float | None
    f_taus: list[FTauEntry]
    intervals: ReplayIntervals
    gain: float | None
    gain_interval: IntervalEntry | None
    not_finite: NotRequired[dict[str, str]]


class GainEntry(TypedDict):
    """What replay gains at the weights of a version; lag is null where samples are of several.

    best is the mode with the lower k3 beyond its interval, the lesser intervention of two that are
    not apart. tokens_of_one_side have a log-prob on some sides alone, and are in no figure.
    r2_path is where R2's log-probs are, null where they are those without replay.
    """

    version: str
    lag: int | None
    samples: int
    tokens: int
    tokens_of_one_side: int
    clusters: int
    best: Literal["none", "R2", "R3"]
    modes: list[ReplayEntry]
    r2_over_r3: float | None
    r2_over_r3_interval: IntervalEntry | None
    r2_path: str | None


class UnmeasuredEntry(TypedDict):
    """What is missing for what replay gains, of which versions, and what makes it."""

    why: Why
    versions: list[str]
    text: str


class GainDocument(TypedDict):
    """What replay gains, by version."""

    versions: list[GainEntry]
    unmeasured: list[UnmeasuredEntry]


class TrainerNoise(CountedRows):
    """A run of the trainer against itself."""

    name: str


class AdviceFinding(TypedDict):
    """One thing that the numbers say."""

    about: str
    alarm: bool
    text: str
    evidence: list[str]


class AdviceEntry(TypedDict):
    """The replay mode, and all findings, alarms first."""

    mode: str | None
    findings: list[AdviceFinding]


class StalenessDocument(TypedDict):
    """routectl.staleness/1."""

    schema: Literal["routectl.staleness/1"]
    dump: DumpEntry
    versions: list[VersionEntry]
    token_selection: str
    row_selection: str
    clusters: str
    level: float
    eps: float
    comparisons: list[ComparisonEntry]
    by_lag: list[ComparisonEntry]
    own_rows: list[OwnRows]
    apart: list[ApartEntry]
    cached_apart: bool
    spans: SpanEntry
    boundary: BoundaryEntry
    unmatched: UnmatchedEntry
    drift: DriftEntry
    gain: GainDocument
    noise: list[TrainerNoise]
    advice: AdviceEntry
    warnings: list[str]
    verdict: ThresholdVerdict


class StepEntry(TypedDict):
    """A step of a run, with its figures by name."""

    step: int
    entry: str
    advice: str | None
    alarms: list[str]
    figures: dict[str, float | None]
    not_finite: NotRequired[dict[str, str]]


class SkippedStep(TypedDict):
    """An entry that is no step, and why."""

    entry: str
    reason: str


class TrendEntry(TypedDict):
    """A figure over the steps that have it."""

    figure: str
    steps: int
    first: float
    last: float
    slope: float | None


class CrossingEntry(TypedDict):
    """The first step that crossed a threshold."""

    threshold: str
    first_step: int | None


class SeriesDocument(TypedDict):
    """routectl.staleness_series/1."""

    schema: Literal["routectl.staleness_series/1"]
    path: str
    steps: list[StepEntry]
    skipped: list[SkippedStep]
    trends: list[TrendEntry]
    crossings: list[CrossingEntry]
    verdict: ThresholdVerdict
