"""Blocks that must end: an alarm ends those that wait."""

import contextlib
import signal

__all__ = ["ended_after"]


@contextlib.contextmanager
def ended_after(seconds, error):
    """Raise an error in a block that still runs after so many seconds; in the main thread alone."""

    def stop(*_):
        raise error

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
