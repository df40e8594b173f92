"""Two dumps compared and judged: the routectl.diff/1 document of whoever compares them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..progress import SILENT, Progress
from ..reading import finite_eps

if TYPE_CHECKING:
    from ...dump import Dump
    from ...ops.diff.diff import DiffOptions, DiffResult
    from ...ops.diff.thresholds import Baseline, Threshold, Verdict
    from ...reports.diff.schema import DiffDocument

__all__ = ["Compared", "Judging", "compared", "metric_names", "parsed_limits"]


def parsed_limits(
    over: Sequence[str],
    under: Sequence[str],
    parse: "Callable[..., Threshold] | None" = None,
) -> "tuple[Threshold, ...]":
    """The thresholds of --fail-over and --fail-under, upper ones first. Raises RoutectlError.

    ``parse`` reads one, as ``parse_threshold`` of a comparison does, which is the default.
    """
    if parse is None:
        from ...ops.diff.thresholds import parse_threshold

        parse = parse_threshold
    upper = [parse(text, over=True) for text in over]
    return (*upper, *(parse(text, over=False) for text in under))


def metric_names() -> list[str]:
    """What thresholds begin with."""
    from ...ops.diff.thresholds import METRICS

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


def compared(
    old: "Dump",
    new: "Dump",
    options: "DiffOptions",
    judging: Judging,
    progress: Progress = SILENT,
    *,
    rerun: "Dump | None" = None,
) -> Compared:
    """Two dumps compared; ``rerun`` is the side of OLD, run again.

    A layer in which nothing could be compared is told by the document: its exit code is 2 then.
    Raises MismatchError where nothing at all could be.
    """
    from ...ops.diff.diff import diff_as
    from ...ops.diff.thresholds import judge

    with progress.watching(old, "comparing") as watched:
        result = diff_as(watched, new, options)
    noise = None
    if rerun is not None:
        with progress.watching(old, "comparing the rerun") as watched:
            noise = diff_as(watched, rerun, replace(options, detail=False))
    verdict = judge(
        result,
        judging.limits,
        eps=finite_eps(judging.eps),
        baseline=judging.baseline,
        allow_unmatched=judging.allow_unmatched,
    )
    return Compared(result, verdict, noise)
