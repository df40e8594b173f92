"""The types of a routectl.diff/1 document and of routectl.detail/1, as docs/json.md has them."""

from typing import Literal, NotRequired, TypedDict

from ..document import (
    AskedEntry,
    CountedRows,
    DumpEntry,
    FailureEntry,
    IntervalEntry,
    PartEntry,
)
from .figures import LogprobFigures, Violations

__all__ = [
    "ComparedFigures",
    "DetailDocument",
    "DiffDocument",
    "DiffExtras",
    "DiffIntervals",
    "DiffVerdict",
    "ExampleEntry",
    "ExpertLoad",
    "FirstDifference",
    "KeptEntry",
    "LayerFigures",
    "LayerNoise",
    "MarginBin",
    "MarginFigures",
    "MarginQuantiles",
    "MarginSides",
    "NoiseEntry",
    "PlaceDetail",
    "PlaceFigures",
    "PlaceMargins",
    "PositionFigures",
    "RowFigures",
    "SampleFigures",
    "SampleParts",
    "SampleTable",
    "SequenceFigures",
    "SideMargins",
    "UnmatchedEntry",
    "WorstSample",
]


class MarginQuantiles(TypedDict):
    """Quantiles of the margins of mismatched rows."""

    p50: float | None
    p90: float | None
    p99: float | None
    max: float | None


class MarginBin(CountedRows):
    """Rows by one side's own margin, over ``above`` and up to ``to``."""

    above: float | None
    to: float | None


class MarginSides(TypedDict):
    """Rows by each side's own margin; None for a side without."""

    old: list[MarginBin] | None
    new: list[MarginBin] | None


class MarginFigures(MarginSides):
    """The mismatched rows by margin; ``eps`` in the total only."""

    eps: NotRequired[float]
    rows_with_margin: int
    margin_coverage_rate: float | None
    ties: int
    near_ties: int
    clear_flips: int
    margin_unknown: int
    tie_rate: float | None
    near_rate: float | None
    clear_rate: float | None
    mismatched_margin: MarginQuantiles


class RowFigures(CountedRows, Violations):
    """The figures of a layer, or of all: load figures are then the worst layer's."""

    overlap_rate: float | None
    order_mismatches: int
    order_mismatch_rate: float | None
    zero_overlap_rate: float | None
    swaps: list[int]
    rows_missing: int
    load_shift: float | None
    load_js: float | None
    margins: NotRequired[MarginFigures]


class LayerFigures(RowFigures):
    """The figures of one layer; its interval in a staleness report alone."""

    layer: int
    mismatch_interval: NotRequired[IntervalEntry | None]


class _TokenFigures(CountedRows):
    tokens: int
    tokens_mismatched: int
    token_mismatch_rate: float | None


class PlaceFigures(_TokenFigures):
    """The figures of the prompt, of its cached part, or of the response."""

    place: Literal["prompt", "cached", "response"]


PositionFigures = TypedDict(
    "PositionFigures",
    {
        "from": int,
        "to": int,
        "tokens": int,
        "tokens_mismatched": int,
        "token_mismatch_rate": float | None,
        "rows": int,
        "rows_mismatched": int,
        "mismatch_rate": float | None,
    },
)


class FirstDifference(TypedDict):
    """Tokens that differ in this layer first."""

    layer: int
    tokens: int


class WorstSample(CountedRows):
    """A sample and what it adds up to."""

    sample: str
    tokens: int
    tokens_mismatched: int


class SequenceFigures(TypedDict):
    """How the mismatch rates of samples are spread, and the worst of them.

    quantile_error is by how much p50, p90 and p99 may be off, relatively: 0 up to 1,024 samples.
    """

    compared: int
    mismatched: int
    mean: float | None
    p50: float | None
    p90: float | None
    p99: float | None
    quantile_error: float
    max: float | None
    worst: list[WorstSample]


class ExampleEntry(TypedDict):
    """A mismatched row; margins where a compared sample has any."""

    sample: str
    position: int
    layer: int
    old: list[int]
    new: list[int]
    margin_old: NotRequired[float | None]
    margin_new: NotRequired[float | None]


class SampleFigures(TypedDict):
    """Samples of each side, compared, and left over."""

    old: int
    new: int
    compared: int
    only_old: int
    only_new: int
    conflicts: int
    without_routes: int
    nothing_in_common: int
    starts_inferred: int
    matched_by: dict[str, int]


class ComparedFigures(RowFigures):
    """Every figure of a comparison: of all rows, by layer, place, position and sequence."""

    chance_overlap_rate: float
    tokens: int
    tokens_mismatched: int
    token_mismatch_rate: float | None
    rows_only_old: int
    rows_only_new: int
    rows_lost_old: int
    rows_lost_new: int
    rows_unmatched_old: int
    rows_unmatched_new: int
    coverage_rate: float | None
    layers_only_old: list[int]
    layers_only_new: list[int]
    layers: list[LayerFigures]
    tokens_by_differing_layers: list[int]
    tokens_by_first_differing_layer: list[FirstDifference]
    places: list[PlaceFigures]
    positions: list[PositionFigures]
    sequences: SequenceFigures
    logprobs: LogprobFigures | None
    examples: list[ExampleEntry]


class LayerNoise(CountedRows):
    """The same of one layer."""

    layer: int


class NoiseEntry(CountedRows):
    """How much a rerun of OLD differs from it."""

    name: str
    layers: list[LayerNoise]


class UnmatchedEntry(TypedDict):
    """What one side alone has and that counts as a difference: samples, layers, and of paired
    samples rows."""

    samples: int
    layers: int
    rows: int


class DiffVerdict(TypedDict):
    """What the exit code says."""

    differs: bool
    failed: list[FailureEntry]
    incomparable_layers: list[int]
    unmatched: UnmatchedEntry
    allow_unmatched: bool
    exit_code: int


class ExpertLoad(TypedDict):
    """How often experts were taken, by layer and expert: of both sides, or of a summary's dump."""

    experts_per_cell: int
    old: NotRequired[list[list[int]]]
    new: NotRequired[list[list[int]]]
    dump: NotRequired[list[list[int]]]


class SideMargins(TypedDict):
    """Rows by layer and bin of one side's own margin: 0, then up to each of ``margin_edges``."""

    rows: list[list[int]]
    rows_mismatched: list[list[int]]


class PlaceMargins(TypedDict):
    """The mismatched rows of one place by margin, a count a layer; None for a side without."""

    rows_with_margin: list[int]
    ties: list[int]
    near_ties: list[int]
    clear_flips: list[int]
    old: SideMargins | None
    new: SideMargins | None


class PlaceDetail(TypedDict):
    """Counts of one place by layer and bin of position; of a diff, what else its rows add up to.

    load is there where several places have rows, margins where a row of the place has one.
    """

    place: Literal["prompt", "response", "unknown"]
    tokens_by_differing_layers: list[int]
    rows: list[list[int]]
    rows_mismatched: list[list[int]]
    swaps: NotRequired[list[list[int]]]
    load: NotRequired[ExpertLoad]
    margins: NotRequired[PlaceMargins]


class SampleParts(TypedDict):
    """The listed samples by place, as ``places`` has them, and layer; arrays in base64."""

    tokens: list[list[int]]
    tokens_mismatched: list[list[int]]
    count_bytes: int
    rows_mismatched: str
    rows_absent: str | None


class SampleTable(TypedDict):
    """The worst samples, a row each."""

    columns: list[str]
    rows: list[list[str | int]]
    parts: NotRequired[SampleParts]


class KeptEntry(TypedDict):
    """One sequence, arrays in base64; the tokens' texts where a page has a tokenizer."""

    sample: str
    tokens: int
    position: int
    kept: int
    prompt_length: int | None
    id_bytes: int
    old: str
    new_mismatched: str
    differs: str
    missing: str | None
    old_margins: NotRequired[str | None]
    new_margins: NotRequired[str | None]
    token_ids: list[int] | None
    token_texts: NotRequired[list[str]]


class DetailDocument(TypedDict):
    """routectl.detail/1: what a page and a terminal draw beside the figures."""

    schema: Literal["routectl.detail/1"]
    bin_width: NotRequired[int]
    places: NotRequired[list[PlaceDetail]]
    margin_edges: NotRequired[list[float]]
    load: NotRequired[ExpertLoad]
    samples: NotRequired[SampleTable]
    sequences: NotRequired[list[KeptEntry]]


class DiffIntervals(TypedDict):
    """Where rates lie at a level, as far as other samples may tell: a bootstrap over samples.

    clusters are what is drawn: samples, or buckets of them where they are many. None where nothing
    varies.
    """

    level: float
    clusters: int
    mismatch_rate: IntervalEntry | None
    token_mismatch_rate: IntervalEntry | None


class DiffExtras(TypedDict, total=False):
    """What is there where a command line asked; of a part; by --rerun; for a page, in a JSON file.

    intervals are there where two samples or more were compared.
    """

    asked: AskedEntry
    part: PartEntry
    intervals: DiffIntervals
    noise: list[NoiseEntry]
    detail: DetailDocument


class DiffDocument(ComparedFigures, DiffExtras):
    """routectl.diff/1."""

    schema: Literal["routectl.diff/1"]
    old: DumpEntry
    new: DumpEntry
    samples: SampleFigures
    token_selection: str
    verdict: DiffVerdict
