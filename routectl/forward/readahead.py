"""Bytes of safetensors files brought into the page cache beside a computation.

Mapped weights are read page by page where they are touched, with nothing else to do meanwhile. A
thread that reads the same ranges before costs a copy through a small buffer and no memory.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from ..files.places import RemotePath
from ..files.reading import open_regular

__all__ = ["Span", "reading_ahead"]

BUFFER_BYTES = 1 << 20

Span = tuple[Path, int, int]  # a file, and the first byte and the end of a tensor in it


@contextmanager
def reading_ahead() -> Iterator[Callable[[Iterable[Span]], None]]:
    """A function that begins to read spans, after those that it was given before.

    On exit what has not begun is let go. A read that fails is no error here: whoever needs the
    bytes will meet it.
    """
    pool = ThreadPoolExecutor(1)

    def begin(spans: Iterable[Span]) -> None:
        for span in sorted(spans):
            pool.submit(_read, span)

    try:
        yield begin
    finally:
        pool.shutdown(cancel_futures=True)


def _read(span: Span) -> None:
    path, at, end = span
    if isinstance(path, RemotePath):  # has no pages here
        return
    buffer = memoryview(bytearray(BUFFER_BYTES))
    with open_regular(path) as file:
        file.seek(at)
        while at < end:
            count = file.readinto(buffer[: end - at])
            if not count:
                return
            at += count
