"""The types of routectl.recompute/1, as docs/json.md has them."""

from typing import Literal, NotRequired, TypedDict

from ..diff.schema import DetailDocument, DiffDocument
from ..document import CountedRows, DumpEntry, FailureEntry

__all__ = [
    "CrossedIn",
    "ModeComparison",
    "NoiseRunEntry",
    "RecomputeDocument",
    "RecomputeVerdict",
    "WrittenEntry",
]


class WrittenEntry(TypedDict):
    """A file that was written: of a mode, or of ``router inputs``."""

    mode: str
    path: str
    samples: int
    tokens: int
    file_bytes: int


class ModeComparison(TypedDict):
    """The dump (OLD) against the routes of a mode (NEW)."""

    mode: str
    diff: DiffDocument


class NoiseRunEntry(CountedRows):
    """One more run of the same, in which one thing was otherwise; ``refused`` is why it was not."""

    name: str
    refused: str | None


class CrossedIn(FailureEntry):
    """A threshold that was crossed, and in which mode."""

    mode: str


class RecomputeVerdict(TypedDict):
    """What the exit code says; without thresholds it is 0."""

    thresholds: list[str]
    failed: list[CrossedIn]
    exit_code: int


class RecomputeDocument(TypedDict):
    """routectl.recompute/1; ``detail`` is that of the first comparison."""

    schema: Literal["routectl.recompute/1"]
    checkpoint: str
    dump: DumpEntry | None
    inputs: str | None
    provenance: dict[str, str]
    files: list[WrittenEntry]
    comparisons: list[ModeComparison]
    not_compared: str | None
    noise: list[NoiseRunEntry]
    verdict: RecomputeVerdict
    detail: NotRequired[DetailDocument]
