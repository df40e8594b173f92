"""Shares of a dump run by several processes of this machine, one a device."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING

from ...errors import RoutectlError
from ...limits import Limits, limits, within
from .share import DeviceWork, do_work

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

    from ...forward import RunProgress

__all__ = ["run_workers"]

_PATIENCE_S = 5.0  # for a process to clean up, when it is told to end


def run_workers(
    works: Sequence[DeviceWork],
    threads: int,
    on_progress: "Callable[[RunProgress], None] | None",
    say: Callable[[str], None],
) -> None:
    """Run each in a process of its own, with so many CPU threads; ``say`` what they say.

    The budgets that hold here hold there. When one fails, or on Ctrl-C, all of them end. Raises
    the first one's RoutectlError, or one that says how it was killed.
    """
    context = multiprocessing.get_context("spawn")
    workers: dict[Connection, tuple[SpawnProcess, str]] = {}
    try:
        with _sigint_ignored():
            for work in works:
                ours, theirs = context.Pipe(duplex=False)
                arguments = (work, threads, theirs, on_progress is not None, limits())
                process = context.Process(target=_worker, args=arguments, daemon=True)
                process.start()
                theirs.close()
                workers[ours] = (process, work.options.device)
        _listen(workers, on_progress, say)
    finally:
        for process, _ in workers.values():
            process.terminate()
        for process, _ in workers.values():
            process.join(_PATIENCE_S)
            process.kill()
            process.join()


@contextmanager
def _sigint_ignored() -> Iterator[None]:
    """What is started here does not hear Ctrl-C: its parent does, and ends it."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _listen(
    workers: "dict[Connection, tuple[SpawnProcess, str]]",
    on_progress: "Callable[[RunProgress], None] | None",
    say: Callable[[str], None],
) -> None:
    """Hear what the workers say until the last one is done."""
    open_ends, latest = list(workers), {}
    while open_ends:
        ready = wait(open_ends)
        for end in [end for end in open_ends if end in ready]:
            try:
                said = end.recv()
            except (EOFError, OSError):
                open_ends.remove(end)
                _check_ended(*workers[end])
                continue
            if isinstance(said, RoutectlError):
                raise said
            if isinstance(said, str):
                say(said)
            elif on_progress is not None:
                latest[end] = said
                on_progress(_sum_of(list(latest.values())))


def _check_ended(process: "SpawnProcess", device: str) -> None:
    process.join()
    code = process.exitcode
    if code:
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        raise RoutectlError(f"the process on {device} {how}")


def _sum_of(each: "Sequence[RunProgress]") -> "RunProgress":
    """Where all of them are together; they are in no common layer."""
    from ...forward import RunProgress

    samples, tokens = sum(done.samples for done in each), sum(done.tokens for done in each)
    return RunProgress(0, 0, samples, tokens, sum(done.read_bytes for done in each))


def _worker(
    work: DeviceWork, threads: int, end: Connection, watched: bool, budgets: Limits
) -> None:
    """A process: what it has to say goes to its parent, whose death it does not outlive."""
    from ...forward import pick_devices

    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # cleaning up
    if watched:
        work = work.given(work.indices, on_progress=end.send)
    try:
        with within(budgets):
            pick_devices(work.options.device, threads)
            do_work(work, end.send)
    except RoutectlError as error:
        end.send(error)
    except MemoryError:
        end.send(RoutectlError(f"out of memory on {work.options.device}"))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
