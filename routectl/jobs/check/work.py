"""A dump checked in shards: some samples each, by what was learnt once from some of all."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ..progress import SILENT, Progress
from ..reading import Reading, reachable
from ..shards.share import share_of
from ..shards.work import Opened, Shard, cut_runs, sample_bytes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ...dump import Dump
    from ...ops.check.against.compare import Comparer
    from ...ops.check.check import Checker, CheckPartial
    from ...ops.check.lesson import Lesson
    from ...ops.check.options import CheckOptions

__all__ = ["CheckSides", "CheckWork", "check_work"]


@dataclass(frozen=True, slots=True)
class CheckSides:
    """The dump that is checked and what it is held against, by name, in any process."""

    dump: str
    against: str | None
    reading: Reading

    def open(self, progress: Progress = SILENT) -> "tuple[Dump, Dump | None]":
        """Both; None where there is no reference."""
        if self.against is None:
            return self.reading.open(self.dump, progress=progress), None
        both = {"DUMP": self.dump, "the reference": self.against}
        dump, reference = self.reading.open_sides(both, progress).values()
        return dump, reference

    def reachable(self) -> "CheckSides":
        """The same, for other processes."""
        against = None if self.against is None else reachable(self.against)
        return CheckSides(reachable(self.dump), against, self.reading)


@dataclass(frozen=True, slots=True, eq=False)
class _Known:
    """What the process that leads has found out; arrays are by sample."""

    lesson: "Lesson"
    options: "CheckOptions"
    first_S: "NDArray[np.int32]"
    partners_S: "NDArray[np.int64] | None"


@dataclass(frozen=True, slots=True, eq=False)
class CheckWork:
    """Samples of one dump; each process opens it once, and has what was learnt.

    place is the part that is checked, from 1, and of how many.
    """

    checker: "Opened[Checker]"
    place: tuple[int, int] = (1, 1)
    doing: str = "checking"

    @property
    def identity(self) -> tuple[Any, ...]:
        """What says which samples are checked: see ``digest_of``."""
        checker = self.checker()
        dumps = (
            [checker.dump] if checker.comparer is None else [checker.dump, checker.comparer.other]
        )
        sizes = [(len(d), d.meta.file_bytes, d.meta.layers_L) for d in dumps]
        partners = () if checker.comparer is None else (checker.comparer.partners_N,)
        return checker.siblings.first_N, *partners, *sizes

    def cut(self, most: int) -> list[Shard]:
        """Samples in order, about as many bytes of each shard."""
        dump = self.checker().dump
        weights_S, shards = sample_bytes(dump), []
        begin, end = 0, len(dump)
        if self.place[1] > 1:
            parts, at = share_of(cut_runs(weights_S, self.place[1], 1), self.place)
            begin, end = parts[at].start, parts[at].stop
        for part in cut_runs(weights_S[begin:end], most):
            run = range(begin + part.start, begin + part.stop)
            name = f"{dump.meta.path}: samples {run.start} to {run.stop - 1}"
            weight = int(weights_S[run.start : run.stop].sum())
            shards.append(Shard(name, weight, len(run), run))
        return shards

    def partial(self, shard: Shard) -> "CheckPartial":
        """What the samples of a shard come to."""
        return self.checker().partial(shard.of)


def check_work(
    sides: CheckSides,
    found: "tuple[Dump, Dump | None]",
    options: "CheckOptions",
    place: tuple[int, int] = (1, 1),
) -> CheckWork:
    """The work of checking a part of a dump, which this process has opened, and its reference."""
    from ...ops.check.check import Checker, partners_of
    from ...ops.check.lesson import learn
    from ...ops.check.siblings import first_siblings

    dump, reference = found
    partners_S = None if reference is None else partners_of(dump, reference)
    lesson, reader = learn(dump, options)
    known = _Known(lesson, options, first_siblings(dump.keys), partners_S)
    here = Checker(reader, lesson, options, known.first_S, _comparer(found, known))
    return CheckWork(Opened(partial(_opened, sides.reachable(), known), here), place)


def _comparer(found: "tuple[Dump, Dump | None]", known: "_Known") -> "Comparer | None":
    from ...ops.check.against.compare import Comparer

    dump, reference = found
    if reference is None or known.partners_S is None:
        return None
    return Comparer(dump.meta, reference, known.partners_S, known.options.eps)


def _opened(sides: CheckSides, known: "_Known") -> "Checker":
    from ...ops.check.check import Checker
    from ...ops.check.lesson import Reader

    found = sides.open()
    comparer = _comparer(found, known)
    return Checker(Reader(found[0]), known.lesson, known.options, known.first_S, comparer)
