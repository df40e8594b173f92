"""The runner: shards handed out, partials added up or taken in order, progress told.

A run begins in this process. Workers are started once it is known that what is left takes long
enough to be worth their start; so small inputs stay in one process, and pay nothing. Where partials
are added up this process goes on as one of those that count.
"""

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ...errors import RoutectlError
from ...kernels.threads import using_threads
from ...reports.text.wording import bytes_text
from ..held import HeldHereError
from ..progress import Advance, Progress
from .crew import ALONE, Crew
from .processes import Workers
from .queue import Queue
from .team import current_team
from .work import Partial, Shard, Work
from .worker import done_by, with_more

if TYPE_CHECKING:
    from .cluster import ClusterRun

__all__ = ["Counted", "added", "counted", "in_order"]

P = TypeVar("P", bound=Partial)
R = TypeVar("R")
_WORTH_S = 2.0  # of work for each worker: it takes about one to import and to open
_SURE_BYTES = 1 << 30  # that are worth it whatever is done with them
_AHEAD = 2  # results for each process that may wait for their turn
_NEXT = 3  # shards that a worker has: some are twice as long, and this process may be at one


@dataclass(frozen=True, slots=True)
class Counted(Generic[R]):
    """What came of all shards: the sum of those that could be read, and what the others said.

    partial is None where no shard could be read; errors are in the order of shards; samples are
    those of all shards.
    """

    partial: R | None
    errors: tuple[RoutectlError, ...] = ()
    samples: int = 0


def added(work: Work[P], crew: Crew, progress: Progress) -> P:
    """The sum of all partials.

    Raises what the first of the shards that failed raised, whatever the number of processes, and
    RoutectlError that names the shard where a process is lost.
    """
    found = _counted(work, crew, progress, tolerant=False)
    assert found.partial is not None
    return found.partial


def counted(work: Work[P], crew: Crew, progress: Progress) -> Counted[P]:
    """The sum of the partials of what could be read, and what was wrong with the rest.

    Raises RoutectlError where a process is lost.
    """
    return _counted(work, crew, progress, tolerant=True)


def in_order(work: Work[R], crew: Crew, progress: Progress) -> Generator[R, None, None]:
    """What each shard gives, in their order; few of them are in memory at a time.

    Raises, in its turn, what a shard raised. To be closed where it is not taken to its end.
    """
    shards = work.cut(crew.most)
    waiting: dict[int, R | RoutectlError | None] = {}
    with (
        _told(work, shards, progress) as advance,
        closing(_run(work, shards, crew, progress, folds=False)) as run,
    ):
        for number, came in run.answers():
            assert number is not None
            waiting[number] = came
            while run.taken in waiting:
                result = waiting.pop(run.taken)
                if isinstance(result, RoutectlError):
                    raise result
                advance(shards[run.taken].weight, shards[run.taken].samples)
                run.taken += 1
                yield result  # type: ignore[misc]


def _counted(work: Work[P], crew: Crew, progress: Progress, *, tolerant: bool) -> Counted[P]:
    shards = work.cut(crew.most)
    total: P | None = None
    errors: dict[int, RoutectlError] = {}
    with (
        _told(work, shards, progress) as advance,
        closing(_run(work, shards, crew, progress, folds=True, tolerant=tolerant)) as run,
    ):
        for number, came in run.answers():
            if number is not None:
                run.taken += 1
                advance(shards[number].weight, shards[number].samples)
            if isinstance(came, RoutectlError):
                assert number is not None
                errors[number] = came
            elif came is not None:
                total = with_more(total, came)
    found = tuple(errors[number] for number in sorted(errors))
    if found and not tolerant:
        raise found[0]
    return Counted(total, found, sum(shard.samples for shard in shards))


def _told(
    work: Work[Any], shards: Sequence[Shard], progress: Progress
) -> AbstractContextManager[Advance]:
    """The line that shows how far the shards are."""
    samples = sum(shard.samples for shard in shards)
    unit = getattr(work, "unit", "samples")
    return progress.counting(work.doing, samples, unit, lambda s: f"{bytes_text(int(s))}/s")


def _run(
    work: Work[R],
    shards: Sequence[Shard],
    crew: Crew,
    progress: Progress,
    *,
    folds: bool,
    tolerant: bool = False,
) -> "_Run[R] | ClusterRun":
    """Who does the shards: this machine, or a cluster, unless it cannot have what they are of."""
    if crew.ray is not None:
        from .cluster import ClusterRun

        try:
            return ClusterRun(work, shards, crew.cluster, folds=folds, tolerant=tolerant)
        except HeldHereError:
            progress.note(f"{work.doing} here: no other process has what this one holds")
            crew = ALONE
    return _Run(work, shards, crew, folds=folds, tolerant=tolerant)


class _Run(Generic[R]):
    """Shards, each done once: by this process at first, then by workers."""

    def __init__(
        self,
        work: Work[R],
        shards: Sequence[Shard],
        crew: Crew,
        *,
        folds: bool,
        tolerant: bool = False,
    ) -> None:
        self._work, self._shards, self._size = work, shards, crew.size
        self._folds, self._tolerant = folds, tolerant
        self._queue = Queue(len(shards))
        self._left = sum(shard.weight for shard in shards)
        self._speed: float | None = None  # of this process, in bytes a second
        self._last: int | None = None  # that this process did
        self._workers: Workers | None = None
        self._whole = False  # all is done, and no worker at anything
        self.taken = 0  # results that whoever asked for them has seen

    def close(self) -> None:
        """End the workers, unless a team has them for the run after this one."""
        if self._workers is None:
            return
        team = current_team()
        if team is not None and team.workers is None and self._whole:
            team.workers = self._workers
        else:
            self._workers.end()

    def answers(self) -> Iterator[tuple[int | None, R | RoutectlError | None]]:
        """The number of each shard and what came of it, as it comes; None where a worker keeps it
        for its sum. Sums come last, without a number.

        After an error no shard behind it is handed out, unless errors are tolerated.
        """
        while self._queue or (self._workers is not None and self._workers.busy):
            self._man()
            workers = self._workers
            if workers is None:
                yield self._here()
                continue
            self._feed(workers)
            here = bool(self._queue) and (self._folds or not workers.ready)
            if here:
                yield self._here()
            yield from self._heard(workers, 0 if here else None)
        if self._workers is not None:
            totals = list(self._workers.totals())
            self._whole = True
            yield from ((None, total) for total in totals if self._folds)

    def _feed(self, workers: Workers) -> None:
        """Give workers that wait what they are to do next."""
        few = len(self._queue) <= _NEXT * self._size
        most = _NEXT if self._folds and not few else 1
        while (worker := workers.idle(most)) is not None:
            lowest = self._queue.lowest
            if lowest is None or lowest >= self.taken + self._most:
                return
            workers.hand(worker, *self._take(worker.last, far=True))

    @property
    def _most(self) -> int:
        """How many shards are under way, or wait for their turn, at most."""
        return len(self._shards) if self._folds else _AHEAD * self._size

    def _man(self) -> None:
        """Take the workers of a team, or start some, where what is left is worth it."""
        if self._workers is not None or self._size == 1:
            return
        count = min(self._size, len(self._queue))
        if self._left < _SURE_BYTES:
            seconds = 0.0 if self._speed is None else self._left / self._speed
            count = min(count, int(seconds / _WORTH_S))
        team, at_once = current_team(), False
        if team is not None and team.workers is not None:
            self._workers, team.workers = team.workers, None
            at_once = count >= self._size  # a shard for this process, too
        elif count < 2:
            return
        else:
            self._workers = Workers(0)
        self._workers.grow(count - self._folds)
        try:
            self._workers.begin(self._work, folds=self._folds, at_once=at_once)
        except HeldHereError:
            self._workers.end()
            self._workers, self._size = None, 1

    def _take(self, last: int | None, *, far: bool) -> tuple[int, Shard]:
        """The next shard for whoever did the one of a number, and its number."""
        number = self._queue.take(last, far=far) if self._folds else self._queue.take_lowest()
        self._left -= self._shards[number].weight
        return number, self._shards[number]

    def _here(self) -> tuple[int, R | RoutectlError]:
        """Do the next shard in this process."""
        begun = time.monotonic()
        first = self._last is None
        number, shard = self._take(self._last, far=self._last is not None)
        self._last = number
        with using_threads(1 if self._workers is not None else self._size):
            result = done_by(self._work, shard)
        if not first:  # it has loaded what all need
            self._speed = shard.weight / max(time.monotonic() - begun, 1e-6)
        return number, self._seen(number, result)

    def _heard(
        self, workers: Workers, timeout_s: float | None
    ) -> Iterator[tuple[int, R | RoutectlError | None]]:
        for _, number, result in workers.hear(timeout_s):
            yield number, self._seen(number, result)

    def _seen(self, number: int, result: Any) -> Any:
        """What came of a shard; an error ends the work behind it."""
        if isinstance(result, RoutectlError) and not self._tolerant:
            self._queue.drop(number)
        return result
