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
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from ...errors import RoutectlError
from ...limits import limits
from .work import Shard, Work
from .worker import BUG, FAILED, READY, TOTAL, Told

__all__ = ["Workers"]

_BEGIN = (  # Ctrl-C is heard by the parent, which ends its workers
    "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); sys.path[:] = sys.argv[2:]; "
    "from routectl.jobs.shards.worker import serve; serve(int(sys.argv[1]))"
)
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_PATIENCE_S = 5.0  # for a process to clean up, when it is told to end


@dataclass(slots=True)
class _Worker:
    """One process; shard is what it does, None when it waits; it is not ready before it says so."""

    process: "subprocess.Popen[bytes]"
    end: Connection
    ready: bool = False
    shard: Shard | None = None


class Workers:
    """So many processes that do the same work."""

    def __init__(self, count: int, work: Work[Any], *, folds: bool) -> None:
        """With ``folds`` each adds up what its shards give, and tells it at the end."""
        task = pickle.dumps((work, folds, limits()), pickle.HIGHEST_PROTOCOL)
        self._all: list[_Worker] = []
        try:
            for _ in range(count):
                self._all.append(_started())
            for worker in self._all:
                _send(worker, task)
        except BaseException:
            self.end()
            raise

    @property
    def ready(self) -> bool:
        """Whether one of them has begun."""
        return any(worker.ready for worker in self._all)

    @property
    def waits(self) -> bool:
        """Whether one of them waits for a shard."""
        return any(worker.ready and worker.shard is None for worker in self._all)

    def hand(self, number: int, shard: Shard) -> None:
        """Give a shard to one that waits."""
        worker = next(one for one in self._all if one.ready and one.shard is None)
        worker.shard = shard
        _send(worker, pickle.dumps((number, shard), pickle.HIGHEST_PROTOCOL))

    @property
    def busy(self) -> bool:
        """Whether one of them has a shard."""
        return any(worker.shard is not None for worker in self._all)

    def hear(self, timeout_s: float | None = None) -> Iterator[Told]:
        """What some of them say now; waits for it unless told how long.

        Raises RoutectlError that names the shard where a process is lost.
        """
        by_end = {worker.end: worker for worker in self._all}
        for end in wait(list(by_end), timeout_s):
            worker = by_end[end]  # type: ignore[index]
            try:
                told: Told = worker.end.recv()
            except (EOFError, OSError):
                raise _lost(worker) from None
            if told[0] == BUG:
                raise RuntimeError(f"in a worker process:\n{told[2]}")
            if told[0] == FAILED and told[1] < 0:
                raise told[2]
            worker.ready, worker.shard = True, None
            if told[0] != READY:
                yield told

    def totals(self) -> Iterator[Any]:
        """What each has added up, of those that did anything; they end then."""
        asked = [worker for worker in self._all if worker.ready]
        for worker in asked:
            _send(worker, pickle.dumps(None))
        for worker in asked:
            try:
                kind, _, total = worker.end.recv()
            except (EOFError, OSError):
                raise _lost(worker) from None
            assert kind == TOTAL
            if total is not None:
                yield total

    def end(self) -> None:
        """End all of them, at once."""
        for worker in self._all:
            worker.process.terminate()
        for worker in self._all:
            try:
                worker.process.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
            worker.end.close()
        self._all.clear()


def _started() -> _Worker:
    """A process that waits for its work."""
    ours, theirs = socket.socketpair()
    environment = dict.fromkeys(_ONE_THREAD, "1") | os.environ
    command = [sys.executable, "-c", _BEGIN, str(theirs.fileno()), *map(os.path.abspath, sys.path)]
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
    return _Worker(process, Connection(ours.detach()))


def _send(worker: _Worker, data: bytes) -> None:
    try:
        worker.end.send_bytes(data)
    except OSError:
        raise _lost(worker) from None


def _lost(worker: _Worker) -> RoutectlError:
    """Why a process is gone, and on which shard."""
    code = worker.process.wait()
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    name = "a worker process" if worker.shard is None else f"{worker.shard.name}: the process on it"
    hint = "the system may have run out of memory: --jobs N with fewer processes uses less"
    return RoutectlError(f"{name} {how}", hint=hint if code == -signal.SIGKILL else None)
