"""One comparison of staleness, added up sample by sample."""

from typing import Any, NamedTuple

import numpy as np

from ...dump import Sample, SampleKey
from ..adding.least import Worst
from ..diff.options import DiffOptions
from ..diff.result import ComparedSample, SequenceCount
from ..diff.tally import DiffTally
from ..pairs.align import common_layers
from ..pairs.join import Pairs
from ..pairs.parts import JoinPart
from .clusters import SampleCluster
from .comparison import BROKEN, BROKEN_TOKENS, ClusterSums, ComparisonCounts
from .plan import StalenessPlan

__all__ = ["ComparisonTally", "Which"]

_TOGETHER = 256  # samples whose sums are added up at a time
_NONE = np.zeros(0, np.int64)
_NO_PART = JoinPart(Pairs(_NONE, _NONE), _NONE, _NONE, "id")


class Which(NamedTuple):
    """What is compared.

    kind  own: rows of the dump that version ``old`` made; before: those at a boundary after it;
          total: all of the dump's; pair: the routes of version ``old``. Against version ``new``
    had   of own: the groups of the sample's rows of that version, and kept: those compared
    """

    kind: str
    old: int
    new: int
    mode: str
    had: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()


class ComparisonTally:
    """Adds up the samples of one comparison."""

    def __init__(self, which: Which, plan: StalenessPlan) -> None:
        options = plan.options
        self._whole = which.kind != "own" or which.old == which.new  # its figures are all told
        self._wanted = DiffOptions(
            match="id",
            tokens=options.tokens,
            layers=options.layers,
            examples=options.examples if self._whole else 0,
            detail=options.detail and self._whole,
            part=which.kind != "pair" or options.rows == "dump",
            each=options.each and self._whole,
        )
        old = plan.sides[which.old, which.mode] if which.kind == "pair" else plan.dump
        new = plan.sides[which.new, which.mode]
        self._tally = DiffTally(old, new, self._wanted, self._told)
        layers = len(common_layers(old, new, options.layers)[0])
        self._sums = ClusterSums.empty(layers if self._whole else 0)
        self._waiting: list[tuple[int, Any]] = []
        self._broken, self._worst = 0, Worst[SequenceCount](1)
        self._cluster: SampleCluster | None = None
        self._compared = False

    def add(
        self,
        old: Sample | None,
        new: Sample | None,
        index: int,
        key: SampleKey,
        cluster: SampleCluster,
    ) -> bool:
        """Compare a sample, or leave one that one side lacks; whether rows were compared."""
        self._compared, self._cluster = False, cluster
        if old is not None and new is not None:
            self._tally.add(old, new, index, key)
        elif old is not None:
            self._tally.leave(old, is_new=False)
        elif new is not None and not self._wanted.part:
            self._tally.leave(new, is_new=True)
        return self._compared

    def _told(self, found: ComparedSample) -> None:
        assert self._cluster is not None
        self._compared = True
        self._waiting.append((self._cluster.bucket, self._sums.row(found)))
        if len(self._waiting) >= _TOGETHER:
            self._flush()
        if found.counts.tokens >= BROKEN_TOKENS:
            self._broken += found.counts.mismatch_rate > BROKEN
            self._worst.add(found.counts)

    def _flush(self) -> None:
        if self._waiting:
            self._sums.add(*zip(*self._waiting, strict=True))
            self._waiting = []

    def counted(self) -> ComparisonCounts:
        """What was added up."""
        self._flush()
        return ComparisonCounts(self._tally.result(_NO_PART), self._sums, self._broken, self._worst)
