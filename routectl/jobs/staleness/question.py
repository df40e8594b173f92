"""What ``routectl staleness`` is asked of every dump, and the document that answers."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ...errors import MismatchError
from ..progress import Progress
from ..shards.crew import ALONE, Crew
from ..shards.run import added
from .work import work_of

if TYPE_CHECKING:
    from ...dump import Dump
    from ...ops.diff.thresholds import Baseline, Threshold
    from ...ops.staleness.attribution import Version
    from ...ops.staleness.counting import StalenessCounts
    from ...ops.staleness.staleness import Noise, Staleness, StalenessOptions
    from ...reports.document import Document
    from .work import VersionedDump

__all__ = ["Question"]


@dataclass(frozen=True, slots=True)
class Question:
    """How dumps are compared, and what the results are held against."""

    options: "StalenessOptions"
    limits: "tuple[Threshold, ...]"
    mini_steps: int | None
    eps: float
    progress: Progress
    baseline: "Baseline | None" = None
    allow_unmatched: bool = False
    fail_on: str | None = None
    crew: Crew = ALONE

    def refuse_one(self, dump: "Dump", names: Sequence[str]) -> None:
        """Raise MismatchError where there is one version: staleness is between two."""
        if len(names) == 1:
            raise MismatchError(
                f"{dump.meta.path}: one version is given, {names[0]}: staleness is between two",
                hint="another --at NAME=WHERE; routectl diff compares a dump with one version",
            )

    def refuse_early(self, dump: "Dump", names: Sequence[str]) -> None:
        """Raise MismatchError where the dump says nothing of these versions, before any is run.

        Says which are given in the wrong order, too.
        """
        from ...ops.staleness.attribution import Version
        from ...ops.staleness.census import census_of
        from ...ops.staleness.order import disorders_of
        from ...ops.staleness.plan import plan_of, refuse_useless
        from ...reports.staleness.document import disorder_text

        plan = plan_of(dump, [Version(name, dump) for name in names], self.options)
        census = census_of(dump, plan.attributor)
        refuse_useless(plan, census)
        self._warn(map(disorder_text, disorders_of(census)))

    def _warn(self, warnings: Iterable[str]) -> None:
        for warning in warnings:
            self.progress.note(f"warning: {warning}")

    def answer(
        self,
        dump: "Dump",
        versions: "Sequence[Version]",
        noise: "tuple[Noise, ...]" = (),
        *,
        opening: "Callable[[], VersionedDump] | None" = None,
        warned: bool = False,
    ) -> "tuple[Staleness, Document]":
        """The comparisons of a dump and the routes of versions, and their routectl.staleness/1.

        opening is how another process opens them; warned that its warnings were said before.
        """
        work = work_of(dump, versions, replace(self.options, noise=noise), opening)
        return self.judged(added(work, self.crew, self.progress), warned=warned)

    def judged(
        self, counts: "StalenessCounts", *, warned: bool = False
    ) -> "tuple[Staleness, Document]":
        """What was counted, held against the thresholds.

        warned that what is out of order was said before.
        """
        from ...ops.diff.thresholds import NOTHING, left_over
        from ...ops.staleness.staleness import staleness_of
        from ...ops.staleness.thresholds import judge_staleness
        from ...reports.staleness.advice import advise
        from ...reports.staleness.document import Judged, staleness_document, warnings_of

        options = counts.plan.options
        result = staleness_of(counts)
        advice = advise(result, mini_steps=self.mini_steps, eps=self.eps)
        failed = judge_staleness(result, self.limits, eps=self.eps, baseline=self.baseline)
        judged = Judged(
            tuple(limit.text for limit in self.limits),
            failed,
            self.eps,
            NOTHING if self.allow_unmatched else left_over(result.unmatched, self.limits),
            self.allow_unmatched,
            self.fail_on,
        )
        self._warn(warnings_of(result)[len(result.disorders) if warned else 0 :])
        document = staleness_document(result, advice, options, judged=judged)
        return result, document
