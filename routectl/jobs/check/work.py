"""A dump checked in shards: some samples each, by what was learnt once from some of all."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ..reading import Reading
from ..shards.work import Opened, Shard, cut_runs

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ...dump import Dump
    from ...ops.check.check import Checker, CheckPartial
    from ...ops.check.lesson import Lesson
    from ...ops.check.options import CheckOptions

__all__ = ["CheckWork", "check_work"]

_SAMPLE_BYTES = 1 << 14  # of a sample, where nobody says


@dataclass(frozen=True, slots=True, eq=False)
class CheckWork:
    """Samples of one dump; each process opens it once, and has what was learnt."""

    checker: "Opened[Checker]"
    doing: str = "checking"

    def cut(self, most: int) -> list[Shard]:
        """Samples in order, about as many bytes of each shard."""
        dump = self.checker().dump
        size = (dump.meta.file_bytes or _SAMPLE_BYTES * len(dump)) // max(len(dump), 1)
        shards = []
        for run in cut_runs([max(size, 1)] * len(dump), most) if len(dump) else [range(0)]:
            name = f"{dump.meta.path}: samples {run.start} to {run.stop - 1}"
            shards.append(Shard(name, size * len(run), len(run), run))
        return shards

    def partial(self, shard: Shard) -> "CheckPartial":
        """What the samples of a shard come to."""
        return self.checker().partial(shard.of)


def check_work(
    path: str, reading: Reading, opened: "Dump", options: "CheckOptions"
) -> "tuple[CheckWork, Lesson]":
    """The work of checking a dump, which this process has opened, and what was learnt from it."""
    from ...ops.check.check import Checker
    from ...ops.check.lesson import learn
    from ...ops.check.siblings import first_siblings

    lesson, reader = learn(opened, options)
    first_N = first_siblings(opened.keys)
    here = Checker(reader, lesson, options, first_N)
    return CheckWork(
        Opened(partial(_opened, path, reading, lesson, options, first_N), here)
    ), lesson


def _opened(
    path: str,
    reading: Reading,
    lesson: "Lesson",
    options: "CheckOptions",
    first_N: "NDArray[np.int32]",
) -> "Checker":
    from ...ops.check.check import Checker
    from ...ops.check.lesson import Reader

    return Checker(Reader(reading.open(path)), lesson, options, first_N)
