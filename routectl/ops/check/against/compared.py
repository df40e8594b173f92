"""What a comparison of some samples comes to, until those of all are judged together.

Shape suffixes: L layers.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from ..book.bottom import Bottom
from ..book.results import CheckEstimate
from .pending import KeptRuns
from .rest import Rest
from .side import Ints

__all__ = ["MOST", "ComparedSamples"]

MOST = 1 << 16  # runs that are judged when all samples are seen
_ESTIMATES = 4096


@dataclass(slots=True, eq=False)
class ComparedSamples:
    """What a comparison of some samples comes to; those of all samples add up, in any order.

    pending are runs of rows that nothing explains yet, the first ones of the dump, and apart the
    first samples that have a partner and nothing to compare; edits counts what was named.
    """

    rest: Rest
    rows_L: Ints = field(default_factory=lambda: np.zeros(1, np.int64))
    wrong_L: Ints = field(default_factory=lambda: np.zeros(1, np.int64))
    tokens: int = 0
    explained: int = 0
    edits: int = 0
    estimates: Bottom[CheckEstimate] = field(default_factory=lambda: Bottom(_ESTIMATES))
    pending: list[KeptRuns] = field(default_factory=list)
    apart: tuple[int, ...] = ()

    def keep(self, runs: KeptRuns) -> None:
        """Keep runs until all samples are seen."""
        self.pending.append(runs)
        if len(self.pending) > 2 * MOST:
            self.pending = _first(self.pending)

    def note(self, estimate: CheckEstimate) -> None:
        """Add up what estimates explain."""
        self.estimates.add(estimate.number, estimate)

    def __add__(self, other: "ComparedSamples") -> "ComparedSamples":
        return ComparedSamples(
            self.rest + other.rest,
            self.rows_L + other.rows_L,
            self.wrong_L + other.wrong_L,
            self.tokens + other.tokens,
            self.explained + other.explained,
            self.edits + other.edits,
            self.estimates + other.estimates,
            _first([*self.pending, *other.pending]),
            tuple(sorted((*self.apart, *other.apart))[:MOST]),
        )

    def spans(self) -> dict[int, tuple[str, int, int]]:
        """Names and compared positions of the samples that are judged, by index."""
        intact = {one.index: one for one in (*self.rest.intact.values(), *self.rest.differing)}
        found = {index: (one.name, one.first, one.end) for index, one in intact.items()}
        return found | {one.index: (one.name, *one.span) for one in self.pending}

    def indices(self) -> dict[str, int]:
        """Indices of these samples by name, the first of equal ones."""
        spans = self.spans()
        return {spans[index][0]: index for index in sorted(spans, reverse=True)}


def _first(pending: Iterable[KeptRuns]) -> list[KeptRuns]:
    return sorted(pending, key=lambda one: one.place)[:MOST]
