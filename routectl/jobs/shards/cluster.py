"""Shards done by a Ray cluster: a task each, and their partials added up in a tree of tasks."""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ...errors import RoutectlError
from ..cluster.tasks import packed, unpacked
from .work import Shard, Work
from .worker import done_by

if TYPE_CHECKING:
    from ..cluster.tasks import Cluster, Here, Lent

__all__ = ["ClusterRun"]

_FAN = 8  # partials that a task adds up
_AHEAD = 2  # results for each processor that may wait for their turn


class ClusterRun:
    """Shards, each done by a task. Answers are those of a run on this machine."""

    def __init__(
        self,
        work: Work[Any],
        shards: Sequence[Shard],
        cluster: "Cluster",
        *,
        folds: bool,
        tolerant: bool = False,
    ) -> None:
        """Raises HeldHereError for work that cannot leave this process."""
        self._work, self._shards, self._cluster = work, shards, cluster
        self._folds, self._tolerant = folds, tolerant
        self._held = cluster.hold(work)
        self._waiting: list[Any] = []
        self.taken = 0  # results that whoever asked for them has seen

    def close(self) -> None:
        """Give up what nobody waits for any more."""
        self._cluster.give_up(self._waiting)
        self._waiting = []

    def answers(self) -> Iterator[tuple[int | None, Any]]:
        """The number of each shard and what came of it: with ``folds`` None or its error, as they
        come, and at last the sum without a number; else in the order of shards.

        After an error what is behind it is given up, unless errors are tolerated; there is no sum
        then. Raises RoutectlError that names a shard which Ray lost for good.
        """
        return self._counted() if self._folds else self._in_order()

    def _counted(self) -> Iterator[tuple[int | None, Any]]:
        calls = dict(self._call(shard) for shard in self._shards)
        numbers = {told: number for number, told in enumerate(calls)}
        tree, first = _Tree(self._cluster), len(numbers)
        self._waiting = list(calls)
        while self._waiting:
            done, self._waiting = self._cluster.first(self._waiting)
            for told in done:
                number, partial = numbers[told], calls.pop(told)  # let go of when it is added up
                error = self._cluster.result(told, self._shards[number].name)
                if error is None:
                    tree.add(partial)
                elif not self._tolerant:
                    first = min(first, number)
                yield number, error
            behind = [told for told in self._waiting if numbers[told] > first]
            if behind:
                self._cluster.give_up(behind)
                self._waiting = [told for told in self._waiting if numbers[told] < first]
        if first == len(numbers):
            yield None, tree.total()

    def _in_order(self) -> Iterator[tuple[int, Any]]:
        """So few are under way as the cluster needs."""
        most = _AHEAD * max(1, self._cluster.processors)
        partials: deque[Any] = deque()
        for number, shard in enumerate(self._shards):
            while len(partials) < min(most, len(self._shards) - number):
                told, partial = self._call(self._shards[number + len(partials)])
                self._waiting.append(told)
                partials.append(partial)
            error = self._cluster.result(self._waiting[0], shard.name)
            del self._waiting[0]
            partial = partials.popleft()
            came = unpacked(self._cluster.result(partial, shard.name)) if error is None else error
            yield number, came

    def _call(self, shard: Shard) -> tuple[Any, Any]:
        """What was wrong with a shard, if anything, and its partial, both to be waited for."""
        partial, told = self._cluster.call(
            _partial_of, self._held, packed(shard), num_returns=2, name=_title(self._work.doing)
        )
        return told, partial


def _title(doing: str) -> str:
    """What Ray's dashboard calls a task: one name for all shards, or Ray keeps each apart."""
    return f"routectl {doing}"


def _partial_of(here: "Here", held: "Lent", shard: bytes) -> tuple[bytes | None, Any]:
    """What a shard gives, and no error; or nothing, and the error."""
    with here.entered():
        came = done_by(held(), unpacked(shard))
    if isinstance(came, RoutectlError):
        return None, here.told(came)
    return packed(came), None


class _Tree:
    """Partials that are there, added up by tasks, so many by each."""

    def __init__(self, cluster: "Cluster") -> None:
        self._cluster = cluster
        self._floors: list[list[Any]] = [[]]

    def add(self, partial: Any, floor: int = 0) -> None:
        """One more of them; floors above the lowest have sums."""
        self._floors[floor].append(partial)
        if len(self._floors[floor]) < _FAN:
            return
        whole, self._floors[floor] = self._floors[floor], []
        if floor + 1 == len(self._floors):
            self._floors.append([])
        self.add(self._sum(whole), floor + 1)

    def total(self) -> Any:
        """The sum of all of them; None of none."""
        left = [partial for floor in self._floors for partial in floor]
        if not left:
            return None
        return unpacked(self._cluster.result(self._sum(left), "the sum of all shards"))

    def _sum(self, partials: Sequence[Any]) -> Any:
        return self._cluster.call(_sum, *partials, name=_title("adding up"))


def _sum(here: "Here", *partials: bytes) -> bytes:
    """The sum of partials."""
    with here.entered():
        total = unpacked(partials[0])
        for partial in partials[1:]:
            total += unpacked(partial)
        return packed(total)
