"""Works that add numbers up: what a runner does with shards, workers and errors."""

import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

from routectl.errors import FormatError
from routectl.jobs.shards.work import Opened, Shard


@dataclass(frozen=True)
class Sum:
    """Numbers that were added, and the processes that did."""

    total: int
    processes: frozenset[int]

    def __add__(self, other: "Sum") -> "Sum":
        return Sum(self.total + other.total, self.processes | other.processes)


def _opened(log: Path) -> int:
    with log.open("a") as stream:
        stream.write(f"{os.getpid()}\n")
    return os.getpid()


@dataclass(frozen=True)
class Adding:
    """Adds up 0 to ``count`` - 1, a shard each of so many bytes and seconds.

    Shards of ``bad`` are damaged; one of ``deadly`` kills the process that does it.
    """

    log: Path
    count: int
    weight: int = 1 << 30
    slow_s: float = 0.0
    bad: tuple[int, ...] = ()
    deadly: tuple[int, ...] = ()
    leader: int = field(default_factory=os.getpid)
    opened: Opened[int] = field(init=False)
    doing: str = "adding"
    identity: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        from functools import partial

        object.__setattr__(self, "opened", Opened(partial(_opened, self.log)))

    def cut(self, most: int) -> list[Shard]:
        """A shard a number."""
        return [Shard(f"number {i}", self.weight, 1, i) for i in range(self.count)]

    def partial(self, shard: Shard) -> Sum:
        """The number itself."""
        process = self.opened()
        time.sleep(self.slow_s)
        if shard.of in self.bad:
            raise FormatError(f"{shard.name}: damaged", hint="mend it")
        if shard.of in self.deadly and os.getpid() != self.leader:
            os.kill(os.getpid(), signal.SIGKILL)
        return Sum(shard.of, frozenset({process}))
