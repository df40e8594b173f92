"""The types of routectl.ci/1, as docs/json.md has it, and of its baseline: docs/ci.md."""

from typing import Literal, TypedDict

from ..document import FailureEntry

__all__ = ["BaselineDocument", "CiDocument", "CiRun", "CiVerdict", "RunCounts", "RunSubject"]

Status = Literal["passed", "failed", "trouble"]


class RunSubject(TypedDict):
    """What a run is about; key is what ``{}`` stands for, inputs are by option."""

    name: str
    check: str
    key: str | None
    verb: str
    inputs: dict[str, str | list[str]]


class CiRun(RunSubject):
    """What a run came to, in words and in numbers."""

    status: Status
    exit_code: int
    summary: str
    details: list[str]
    failed: list[FailureEntry]
    metrics: dict[str, float]
    seconds: float


class RunCounts(TypedDict):
    """Runs by status."""

    passed: int
    failed: int
    trouble: int


class CiVerdict(TypedDict):
    """The greatest exit code of the runs."""

    exit_code: int


class CiDocument(TypedDict):
    """routectl.ci/1."""

    schema: Literal["routectl.ci/1"]
    config: str
    baseline: str | None
    counts: RunCounts
    runs: list[CiRun]
    verdict: CiVerdict


class BaselineDocument(TypedDict):
    """routectl.baseline/1: accepted numbers by run and by stable name."""

    schema: Literal["routectl.baseline/1"]
    checks: dict[str, dict[str, float]]
