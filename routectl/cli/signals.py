"""Signals end a run as an error does: what it was writing is cleaned up, then it ends by them.

SIGINT, SIGTERM and SIGHUP, where they are not ignored, and SIGPIPE (the reader of stdout is gone)
raise ``Ended`` in the main thread. The exit code is 128 and the signal's number.
"""

import atexit
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

__all__ = ["Ended", "EndedBy", "ended_by_signals"]

_ENDING = ("SIGINT", "SIGTERM", "SIGHUP", "SIGPIPE")
_PIPE = getattr(signal, "SIGPIPE", None)
_SPEAKING = ("routectl.engines", "wandb")  # with servers
_AGAIN_S = 0.5  # an exception that nobody heard is raised again
_NEXT_S = 0.001  # sooner where Python says that nobody did: in a callback of C, in a finalizer
_PATIENCE_S = 3.0  # for cleaning up; a signal after that ends the run at once


class Ended(KeyboardInterrupt):
    """A signal that ends the run."""


class EndedBy:
    """The first signal that came, if one did."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.over = False
        self._since = 0.0

    def code(self, own: int) -> int:
        """The exit code: that of the signal, else the run's own."""
        return own if self.number is None else 128 + self.number

    def hear(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: raise Ended for the first one, and let it do its work."""
        if self.over or (number == _PIPE and _is_of_a_socket()):
            return
        if self.number is None:
            self.number, self._since = number, time.monotonic()
            signal.setitimer(signal.ITIMER_REAL, _AGAIN_S, _AGAIN_S)
            raise Ended
        if time.monotonic() - self._since > _PATIENCE_S:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def insist(self, number: int, frame: FrameType | None) -> None:
        """Raise Ended again, unless it is being heard: code that cleans up is left alone."""
        error = sys.exception()
        if self.over:
            return
        while error is not None:
            if isinstance(error, KeyboardInterrupt):
                return
            error = error.__context__
        raise Ended

    def unheard(self, lost: "sys.UnraisableHookArgs") -> None:
        """Raise Ended again soon where it was lost, without a traceback; others are told of."""
        if not isinstance(lost.exc_value, Ended):
            sys.__unraisablehook__(lost)
        elif not self.over:
            signal.setitimer(signal.ITIMER_REAL, _NEXT_S, _AGAIN_S)

    def end(self) -> None:
        """Die of a broken pipe as any Unix tool does, when everything else is done."""
        if self.number is not None and self.number == _PIPE:
            signal.signal(self.number, signal.SIG_DFL)
            os.kill(os.getpid(), self.number)


def _is_of_a_socket() -> bool:
    """Whether SIGPIPE is no end of the run: a server hung up, and who wrote to it is told."""
    return not _reader_is_gone() and any(name in sys.modules for name in _SPEAKING)


def _reader_is_gone() -> bool:
    """Whether nobody reads stdout or stderr."""
    found = select.poll()
    for fd in (1, 2):
        found.register(fd, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in found.poll(0))


@contextmanager
def ended_by_signals() -> Iterator[EndedBy]:
    """Signals raise Ended in the block, once; the value says which one came.

    A KeyboardInterrupt or Ended that leaves the block is taken for heard. Signals that come after
    it are not heard: the run is at its end.
    """
    ended = EndedBy()
    atexit.register(ended.end)  # the first that is registered is the last that is called
    for name in _ENDING:
        number = getattr(signal, name)
        if number == _PIPE or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, ended.hear)
    signal.signal(signal.SIGALRM, ended.insist)
    sys.unraisablehook = ended.unheard
    with suppress(KeyboardInterrupt):
        yield ended
        ended.over = True
    ended.over = True
    signal.setitimer(signal.ITIMER_REAL, 0)
