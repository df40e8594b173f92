"""Two dumps compared and judged: the routectl.diff/1 document of whoever compares them."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..progress import Progress
from ..reading import finite_eps

if TYPE_CHECKING:
    import pyarrow as pa

    from ...ops.diff.result import DiffResult
    from ...ops.diff.thresholds import Baseline, Threshold, Verdict
    from ...reports.diff.schema import DiffDocument
    from ..shards.crew import Crew
    from .counted import CountedPairs
    from .work import ComparedWork

    Take = Callable[[Sequence[pa.RecordBatch]], None]

__all__ = [
    "Compared",
    "Judging",
    "count",
    "judged",
    "metric_names",
    "parsed_limits",
]


def parsed_limits(
    over: Sequence[str],
    under: Sequence[str],
    parse: "Callable[..., Threshold] | None" = None,
) -> "tuple[Threshold, ...]":
    """The thresholds of --fail-over and --fail-under, upper ones first. Raises RoutectlError.

    ``parse`` reads one, as ``parse_threshold`` of a comparison does, which is the default.
    """
    if not over and not under:
        return ()
    if parse is None:
        from ...ops.diff.thresholds import parse_threshold

        parse = parse_threshold
    upper = [parse(text, over=True) for text in over]
    return (*upper, *(parse(text, over=False) for text in under))


def metric_names() -> list[str]:
    """What thresholds begin with."""
    from ...ops.diff.metrics import METRICS

    return [f"{metric.name}:" for metric in METRICS]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judging:
    """What a comparison is held against: see ``ops.diff.thresholds.judge``."""

    limits: "tuple[Threshold, ...]" = ()
    eps: float | None = None
    baseline: "Baseline | None" = None
    allow_unmatched: bool = False


@dataclass(frozen=True, slots=True)
class Compared:
    """What came of a comparison: the figures, what the thresholds say, and those of the rerun."""

    result: "DiffResult"
    verdict: "Verdict"
    noise: "DiffResult | None"

    @property
    def document(self) -> "DiffDocument":
        """The routectl.diff/1 document."""
        from ...reports.diff.document import diff_document

        return diff_document(self.result, self.verdict, noise=self.noise)


def count(
    work: "ComparedWork", crew: "Crew", progress: Progress, take: "Take | None" = None
) -> "CountedPairs":
    """All pairs counted; ``take`` is given the rows of the table of samples, by place in OLD."""
    from ..shards.run import added, in_order
    from .work import TabledWork

    if take is None:
        return added(work, crew, progress)
    total: CountedPairs | None = None
    with closing(in_order(TabledWork(work), crew, progress)) as parts:
        for counted, batches in parts:
            take(batches)
            total = counted if total is None else total + counted
    assert total is not None
    return total


def judged(counted: "CountedPairs", judging: Judging) -> Compared:
    """What was counted, held against thresholds.

    A layer in which nothing could be compared is told by the document: its exit code is 2 then.
    Raises MismatchError where nothing at all could be.
    """
    from ...ops.diff.thresholds import judge

    result, noise = counted.result, counted.noise
    assert result is not None
    for one in (result, noise):
        if one is not None:
            one.refuse_nothing()
    verdict = judge(
        result,
        judging.limits,
        eps=finite_eps(judging.eps),
        baseline=judging.baseline,
        allow_unmatched=judging.allow_unmatched,
    )
    return Compared(result, verdict, noise)
