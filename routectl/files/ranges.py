"""A remote object as a stream: ranges of it, read when they are asked for, of one version.

A reader that goes on gets more at a time, up to 4 MB, one that jumps 64 KB. After each read the
store is asked whether the object is the one that was opened: what was put in its place since is
refused, and none of its bytes is handed on.
"""

import io
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ..errors import FormatError
from .places import RemotePath
from .stores import ObjectAbout

__all__ = ["Ranges"]

_LEAST, _LARGEST = 64 << 10, 4 << 20
_MOST = 256 << 20  # bytes of spans that are held
_GAP = 8 << 10  # bytes that are read along rather than asked past
_AT_ONCE = 8


class Ranges(io.RawIOBase):
    """The bytes of an object, seekable. ``moved`` counts those that came from its store."""

    def __init__(self, path: RemotePath) -> None:
        """Raises FormatError where there is none, or another than the path is held to."""
        super().__init__()
        self._path = path
        self._object = path.opened or path.store.open(path.key)
        self.name, self.size, self.moved = str(path), self._object.about.size, 0
        self._at, self._step = 0, _LEAST
        self._block = (0, b"")
        self._held: list[tuple[int, bytes]] = []

    def _refuse_other(self, now: ObjectAbout, then: ObjectAbout | None) -> None:
        """Raise FormatError unless an object is the one that was there."""
        if then is None or then.version is None or now.version is None:
            return
        if (now.version, now.size) != (then.version, then.size):
            raise FormatError(
                f"{self._path}: was replaced while it was read: it is {now.version}, of {now.size} "
                f"bytes, and was {then.version}, of {then.size}",
                hint="run again",
            )

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """Where the next read begins."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go there; beyond the end nothing is read."""
        base = (0, self._at, self.size)[whence]
        if base + offset < 0:
            raise ValueError(f"seek to {base + offset}")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        """Fill a buffer, as far as bytes are at hand or one read brings them."""
        view = memoryview(buffer).cast("B")
        if self._at >= self.size or not len(view):
            return 0
        start, data = self._having(len(view))
        piece = data[self._at - start :][: len(view)]
        view[: len(piece)] = piece
        self._at += len(piece)
        if self._at == self._block[0] + len(self._block[1]):
            self._block = (self._at, b"")  # a file that was read through holds nothing
        return len(piece)

    def _having(self, wanted: int) -> tuple[int, bytes]:
        """Bytes that are held and begin at or before here."""
        for start, data in (self._block, *self._held):
            if start <= self._at < start + len(data):
                return start, data
        goes_on = self._at == self._block[0] + len(self._block[1]) and self._at > 0
        self._step = min(2 * self._step, _LARGEST) if goes_on else _LEAST
        size = min(max(wanted, self._step), self.size - self._at)
        self._block = (self._at, self._read([(self._at, size)])[0])
        return self._block

    def ahead(self, spans: Iterable[tuple[int, int]]) -> None:
        """Bring spans, each a first byte and an end, that are about to be read, several at once.

        Those of before are let go. Of more than 256 MB the first are brought.
        """
        wanted: list[list[int]] = []
        for start, end in sorted(spans):
            end = min(end, self.size)
            if start >= end:
                continue
            if wanted and start <= wanted[-1][1] + _GAP:
                wanted[-1][1] = max(wanted[-1][1], end)
            else:
                wanted.append([start, end])
        room, pairs = _MOST, []
        for start, end in wanted:
            room -= end - start
            if room >= 0:
                pairs.append((start, end - start))
        self._held = []
        parts = self._read(pairs) if pairs else []
        self._held = [(start, data) for (start, _), data in zip(pairs, parts, strict=True)]

    def _read(self, pairs: list[tuple[int, int]]) -> list[bytes]:
        """Bytes by first one and count, all of the version that was opened. Raises FormatError."""
        if len(pairs) == 1:
            found = [self._object.read(*pairs[0])]
        else:
            with ThreadPoolExecutor(min(_AT_ONCE, len(pairs))) as pool:
                found = list(pool.map(lambda pair: self._object.read(*pair), pairs))
        self._refuse_other(self._path.store.open(self._path.key).about, self._object.about)
        for (start, size), data in zip(pairs, found, strict=True):
            if len(data) != size:
                raise FormatError(
                    f"{self._path}: cut short: got {len(data)} bytes from {start} on, of {size}"
                )
        self.moved += sum(map(len, found))
        return found
