"""Worker processes of this machine: started, told of shards, heard, ended.

Each is a Python of its own, not a fork: a process that has run Arrow's threads is not safe to fork
(a lock that another thread held stays held), and not multiprocessing's spawn, which runs the main
module of a program that calls routectl a second time.
"""

import os
import pickle
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

from ...errors import RoutectlError
from ...limits import limits
from .work import Shard, Work
from .worker import BUG, FAILED, READY, TOTAL, Told

__all__ = ["Worker", "Workers"]

_OBJECTS = 50_000  # as of a command's own process, before anything is loaded
_BEGIN = (  # Ctrl-C is heard by the parent, which ends its workers
    f"import atexit, gc, signal, sys; gc.set_threshold({_OBJECTS}); atexit.register(gc.freeze); "
    "signal.signal(signal.SIGINT, signal.SIG_IGN); sys.path[:] = sys.argv[3:]; "
    "from routectl.jobs.shards.worker import serve; serve(int(sys.argv[1]), sys.argv[2].split())"
)
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_PATIENCE_S = 5.0  # for a process to clean up, when it is told to end


@dataclass(slots=True)
class Worker:
    """One process; shards are what it does and what it does next, last the number of the latest.

    It says when it is ready, or is taken to be.
    """

    process: "subprocess.Popen[bytes]"
    end: Connection
    ready: bool = False
    shards: deque[Shard] = field(default_factory=deque)
    last: int | None = None


class Workers:
    """So many processes that do the same work, one work after another."""

    def __init__(self, count: int, modules: Sequence[str] = ()) -> None:
        """They import ``modules``, and wait for what they are to do."""
        self._all: list[Worker] = []
        self.grow(count, modules)

    def grow(self, count: int, modules: Sequence[str] = ()) -> None:
        """Start others, before a work is begun, until there are so many."""
        try:
            while len(self._all) < count:
                self._all.append(_started(modules))
        except BaseException:
            self.end()
            raise

    def begin(self, work: Work[Any], *, folds: bool, at_once: bool = False) -> None:
        """Give all of them a work; with ``folds`` each adds up what its shards give.

        ``at_once`` takes them to be ready: shards may be handed to them before they say so. Raises
        HeldHereError for what cannot leave this process.
        """
        task = pickle.dumps((work, folds, limits()), pickle.HIGHEST_PROTOCOL)
        for worker in self._all:
            _send(worker, task)
            worker.ready = at_once

    @property
    def ready(self) -> bool:
        """Whether one of them has begun."""
        return any(worker.ready for worker in self._all)

    def idle(self, most: int) -> Worker | None:
        """The one that has fewest shards, where these are less than so many; None for none."""
        ready = [one for one in self._all if one.ready and len(one.shards) < most]
        return min(ready, key=lambda one: len(one.shards), default=None)

    def hand(self, worker: Worker, number: int, shard: Shard) -> None:
        """Give a shard to one of them."""
        worker.shards.append(shard)
        worker.last = number
        _send(worker, pickle.dumps((number, shard), pickle.HIGHEST_PROTOCOL))

    @property
    def busy(self) -> bool:
        """Whether one of them has a shard."""
        return any(worker.shards for worker in self._all)

    def hear(self, timeout_s: float | None = None) -> Iterator[Told]:
        """All that some of them say now; waits for it unless told how long.

        Raises RoutectlError that names the shard where a process is lost.
        """
        by_end = {worker.end: worker for worker in self._all}
        for end in wait(list(by_end), timeout_s):
            worker = by_end[end]  # type: ignore[index]
            yield from _heard(worker)
            while worker.end.poll():
                yield from _heard(worker)

    def totals(self) -> Iterator[Any]:
        """What each has added up, of those that did anything; the others are ended.

        They may be given another work then.
        """
        self.end(late=True)
        for worker in self._all:
            _send(worker, pickle.dumps(None))
        for worker in self._all:
            kind = READY
            while kind == READY:  # of one that was given no shard
                try:
                    kind, _, total = worker.end.recv()
                except (EOFError, OSError):
                    raise _lost(worker) from None
            assert kind == TOTAL
            worker.ready, worker.last = False, None
            if total is not None:
                yield total

    def end(self, *, late: bool = False) -> None:
        """End all of them, or those that are not ready yet, at once."""
        ended = [worker for worker in self._all if not (late and worker.ready)]
        self._all = [worker for worker in self._all if late and worker.ready]
        for worker in ended:
            worker.process.terminate()
        for worker in ended:
            try:
                worker.process.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
            worker.end.close()


def _started(modules: Sequence[str]) -> Worker:
    """A process that waits for its work."""
    ours, theirs = socket.socketpair()
    environment = dict.fromkeys(_ONE_THREAD, "1") | os.environ
    told = [str(theirs.fileno()), " ".join(modules), *map(os.path.abspath, sys.path)]
    command = [sys.executable, "-c", _BEGIN, *told]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        with theirs:
            process = subprocess.Popen(  # noqa: S603 - this very Python
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=environment,
            )
    except OSError as error:
        ours.close()
        raise RoutectlError(f"no process can be started: {error.strerror}") from None
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return Worker(process, Connection(ours.detach()))


def _heard(worker: Worker) -> Iterator[Told]:
    """The next that it says, where that is of a shard."""
    try:
        told: Told = worker.end.recv()
    except (EOFError, OSError):
        raise _lost(worker) from None
    if told[0] == BUG:
        raise RuntimeError(f"in a worker process:\n{told[2]}")
    if told[0] == FAILED and told[1] < 0:
        raise told[2]
    worker.ready = True
    if told[0] != READY:
        worker.shards.popleft()
        yield told


def _send(worker: Worker, data: bytes) -> None:
    try:
        worker.end.send_bytes(data)
    except OSError:
        raise _lost(worker) from None


def _lost(worker: Worker) -> RoutectlError:
    """Why a process is gone, and on which shard."""
    code = worker.process.wait()
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    name = f"{worker.shards[0].name}: the process on it" if worker.shards else "a worker process"
    hint = "the system may have run out of memory: --jobs N with fewer processes uses less"
    return RoutectlError(f"{name} {how}", hint=hint if code == -signal.SIGKILL else None)
