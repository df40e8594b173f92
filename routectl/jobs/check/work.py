"""A dump checked in shards: some samples each, by what was learnt once from some of all."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..progress import SILENT, Progress
from ..reading import Reading, reachable
from ..recompute.partner import open_partner
from ..shards.crew import ALONE, Crew
from ..shards.run import added
from ..shards.share import share_of
from ..shards.work import Opened, Shard, cut_runs, sample_bytes, starts_in

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ...dump import Dump, Sample
    from ...errors import FormatError
    from ...ops.check.against.compare import Comparer
    from ...ops.check.check import Checker, CheckPartial
    from ...ops.check.lesson import Lesson
    from ...ops.check.options import CheckOptions

__all__ = ["CheckSides", "CheckWork", "KeptReference", "check_work"]

_LESSON_BYTES = 2 << 20  # of ids of samples that one process reads at a time


@dataclass(frozen=True, slots=True)
class KeptReference:
    """A reference that was run: its weights, and what opens the routes that are kept of it."""

    weights: Path
    routes: "Callable[[], Dump]"


@dataclass(frozen=True, slots=True)
class CheckSides:
    """The dump that is checked and what it is held against, by name, in any process.

    against is the path of a dump; kept a checkpoint's routes, in its place.
    """

    dump: str
    against: str | None
    reading: Reading
    kept: KeptReference | None = None

    def open(self, progress: Progress = SILENT) -> "tuple[Dump, Dump | None]":
        """Both; None where there is no reference."""
        if self.kept is not None:
            opened = open_partner(self.dump, self.reading, self.kept.weights, progress)
            return opened, self.kept.routes()
        if self.against is None:
            return self.reading.open(self.dump, progress=progress), None
        both = {"DUMP": self.dump, "the reference": self.against}
        dump, reference = self.reading.open_sides(both, progress).values()
        return dump, reference

    def reachable(self) -> "CheckSides":
        """The same, for other processes."""
        against = None if self.against is None else reachable(self.against)
        return replace(self, dump=reachable(self.dump), against=against)


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
            starts = starts_in(dump, range(len(dump)))
            parts, at = share_of(cut_runs(weights_S, self.place[1], 1, starts=starts), self.place)
            begin, end = parts[at].start, parts[at].stop
        starts = starts_in(dump, range(begin, end))
        for part in cut_runs(weights_S[begin:end], most, starts=starts):
            run = range(begin + part.start, begin + part.stop)
            name = f"{dump.meta.path}: samples {run.start} to {run.stop - 1}"
            weight = int(weights_S[run.start : run.stop].sum())
            shards.append(Shard(name, weight, len(run), run))
        return shards

    def partial(self, shard: Shard) -> "CheckPartial":
        """What the samples of a shard come to."""
        return self.checker().partial(shard.of)


@dataclass(frozen=True, slots=True, eq=False)
class _Read:
    """Samples that were read, or what their reader says of them."""

    samples: "dict[int, Sample | FormatError]"

    def __add__(self, other: "_Read") -> "_Read":
        return _Read(self.samples | other.samples)


@dataclass(frozen=True, slots=True, eq=False)
class _Lessons:
    """The samples that are learnt from: each costs a row group, so that all processes read them."""

    dump: "Opened[Dump]"
    doing: str = "learning"

    def cut(self, most: int) -> list[Shard]:
        """Some samples each."""
        from ...ops.check.lesson import taught_by

        dump = self.dump()
        wanted, sizes_S = taught_by(dump), sample_bytes(dump)
        if not wanted:
            return [Shard(dump.meta.path, 1, 0, [])]
        runs = cut_runs(sizes_S[wanted], most, _LESSON_BYTES)
        parts = [wanted[run.start : run.stop] for run in runs]
        return [Shard(dump.meta.path, int(sizes_S[part].sum()), len(part), part) for part in parts]

    def partial(self, shard: Shard) -> _Read:
        """The samples of a shard."""
        from ...ops.check.lesson import Reader

        reader = Reader(self.dump())
        return _Read({index: reader.raw(index) for index in shard.of})


def _dump_of(sides: CheckSides) -> "Dump":
    return sides.open()[0]


def check_work(
    sides: CheckSides,
    found: "tuple[Dump, Dump | None]",
    options: "CheckOptions",
    place: tuple[int, int] = (1, 1),
    crew: Crew = ALONE,
) -> CheckWork:
    """The work of checking a part of a dump, which this process has opened, and its reference.

    What is learnt from is read by the processes of a crew, as far as they are of this machine.
    """
    from ...ops.check.check import Checker, partners_of
    from ...ops.check.lesson import learn
    from ...ops.check.siblings import first_siblings

    dump, reference = found
    partners_S = None if reference is None else partners_of(dump, reference)
    opened = Opened(partial(_dump_of, sides.reachable()), dump)
    known = added(_Lessons(opened), crew if crew.ray is None else ALONE, SILENT).samples
    lesson, reader = learn(dump, options, known)
    told = _Known(lesson, options, first_siblings(dump.keys), partners_S)
    here = Checker(reader, lesson, options, told.first_S, _comparer(found, told))
    return CheckWork(Opened(partial(_opened, sides.reachable(), told), here), place)


def _comparer(found: "tuple[Dump, Dump | None]", known: "_Known") -> "Comparer | None":
    from ...ops.check.against.compare import Comparer

    dump, reference = found
    if reference is None or known.partners_S is None:
        return None
    options = known.options
    return Comparer(dump.meta, reference, known.partners_S, options.eps, options.candidates)


def _opened(sides: CheckSides, known: "_Known") -> "Checker":
    from ...ops.check.check import Checker
    from ...ops.check.lesson import Reader

    found = sides.open()
    comparer = _comparer(found, known)
    return Checker(Reader(found[0]), known.lesson, known.options, known.first_S, comparer)
