"""The comparisons of a dump and its versions as work that is cut into runs of samples."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..held import HeldHereError
from ..shards.share import share_of
from ..shards.work import Opened, Shard, cut_runs, starts_in

if TYPE_CHECKING:
    from ...dump import Dump
    from ...ops.staleness.attribution import Version
    from ...ops.staleness.counting import StalenessCounts
    from ...ops.staleness.options import StalenessOptions
    from ...ops.staleness.plan import Side, StalenessPlan
    from ...ops.staleness.sides import SampleRun

__all__ = ["StalenessWork", "VersionedDump", "work_of"]

_SAMPLE_BYTES = 1 << 16  # of a sample, where no file tells


@dataclass(frozen=True, slots=True, eq=False)
class VersionedDump:
    """A dump, and the recompute of each version and mode."""

    dump: "Dump"
    routes: "Mapping[Side, Dump]"


class _Here:
    """Dumps that only this process has: a program made them, or weights were run for them."""

    def __reduce__(self) -> tuple[Any, ...]:
        raise HeldHereError

    def __call__(self) -> VersionedDump:
        raise AssertionError("opened already")


class StalenessWork:
    """A dump compared with its versions, and these with each other; a partial may have no row.

    whole is what is joined, in the process that leads alone; place is the part of it that is done,
    from 1, and of how many.
    """

    doing = "comparing"

    def __init__(
        self,
        plan: "StalenessPlan",
        compared: Opened[VersionedDump],
        whole: "SampleRun | None" = None,
        place: tuple[int, int] = (1, 1),
    ) -> None:
        self._plan, self._compared, self._whole, self._place = plan, compared, whole, place

    def __reduce__(self) -> tuple[Any, ...]:
        return StalenessWork, (self._plan, self._compared)

    @property
    def identity(self) -> tuple[Any, ...]:
        """What says which samples are compared: see ``digest_of``."""
        assert self._whole is not None
        compared = self._compared()
        dumps = [compared.dump, *(compared.routes[side] for side in sorted(compared.routes))]
        sizes = [(len(d), d.meta.file_bytes, d.meta.layers_L) for d in dumps]
        partners = self._whole.partners_S
        return *(partners[side] for side in sorted(partners)), *sizes

    def cut(self, most: int) -> Sequence[Shard]:
        """Runs of the dump's samples."""
        whole = self._whole
        assert whole is not None
        compared, path = self._compared(), self._plan.dump.path
        dumps = [compared.dump, *compared.routes.values()]
        size, part = _sample_bytes(dumps), range(len(whole))
        each_S = np.full(len(part), size // len(dumps))  # runs have so many bytes of a side
        if self._place[1] > 1:
            starts = starts_in(compared.dump, part)
            runs, at = share_of(
                cut_runs(each_S, self._place[1], least=1, starts=starts), self._place
            )
            part = runs[at]
        found = []
        for run in cut_runs(each_S[: len(part)], most, starts=starts_in(compared.dump, part)):
            begin, end = part.start + run.start, part.start + run.stop
            name = f"{path}: samples {begin} to {end - 1}" if len(run) else path
            found.append(Shard(name, len(run) * size, len(run), whole.part(begin, end)))
        return found

    def partial(self, shard: Shard) -> "StalenessCounts":
        """What a run of samples gives."""
        from ...ops.staleness.counting import count_run

        compared = self._compared()
        return count_run(self._plan, compared.dump, compared.routes, shard.of)


def work_of(
    dump: "Dump",
    versions: "Sequence[Version]",
    options: "StalenessOptions",
    opening: Callable[[], VersionedDump] | None = None,
    place: tuple[int, int] = (1, 1),
) -> StalenessWork:
    """The work of a dump and its versions; ``opening`` is how another process opens them.

    Raises MismatchError where they cannot be compared.
    """
    from ...ops.staleness.sides import lay_out

    sides = lay_out(dump, versions, options)
    compared = VersionedDump(dump, sides.routes)
    opened = Opened(_Here() if opening is None else opening, compared)
    return StalenessWork(sides.plan, opened, sides.whole, place)


def _sample_bytes(dumps: "Sequence[Dump]") -> int:
    """About how many bytes of ids are read for a sample."""
    known = [(dump.meta.file_bytes or 0) // max(len(dump), 1) for dump in dumps]
    return sum(known) or _SAMPLE_BYTES
