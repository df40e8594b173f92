"""How many threads a loop may use: one, unless a job that has processors to spare says more."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["threads", "using_threads"]

_CURRENT: ContextVar[int] = ContextVar("threads", default=1)


def threads() -> int:
    """The threads that a loop may use here."""
    return _CURRENT.get()


@contextmanager
def using_threads(count: int) -> Iterator[None]:
    """So many within the block."""
    token = _CURRENT.set(count)
    try:
        yield
    finally:
        _CURRENT.reset(token)
