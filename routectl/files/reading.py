"""Reading: every file of others is opened here, a regular one where one is expected.

Of a remote place (places.py) ranges are read, as they are asked for. A FIFO would wait for a
writer, a device may have no end. Nothing waits in open(): what is there is looked at before
(opening a device may do something), and again once it is open.
"""

import os
import shutil
import stat
from collections.abc import Iterable
from contextlib import closing
from io import SEEK_END, BufferedReader
from pathlib import Path
from typing import IO

from ..errors import FormatError
from ..limits import check_budget
from .places import RemotePath
from .scratch import scratch_file
from .streams import copied_pipe

__all__ = [
    "check_regular",
    "open_mappable",
    "open_regular",
    "read_ahead",
    "read_bytes",
    "read_text",
    "size_of",
]

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_BUFFER, _BLOCK = 64 << 10, 4 << 20
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | os.O_CLOEXEC


def _refuse_others(path: Path | str, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise FormatError(f"{path}: got {kind}, expected a regular file")


def check_regular(path: Path | str) -> int:
    """The size of a regular file, for what a library opens itself.

    Raises FormatError for anything else, and where it cannot be read.
    """
    try:
        found = path.stat() if isinstance(path, RemotePath) else os.stat(path)
    except (OSError, ValueError) as error:
        raise FormatError(f"{path}: cannot be read: {_reason(error)}") from None
    _refuse_others(path, found.st_mode)
    return found.st_size


def open_regular(path: Path | str, most: int | None = None) -> BufferedReader:
    """A regular file, open to be read, or the copy of a pipe that the process was started with.

    ``most`` is what such a pipe may have. Opening never waits. Of a remote object, nothing is read
    yet, and the stream has no file number. Raises FormatError for a folder, a FIFO, a socket or a
    device, and where it cannot be read.
    """
    if isinstance(path, RemotePath):
        from .ranges import Ranges

        check_regular(path)
        return BufferedReader(Ranges(path), _BUFFER)
    copy = copied_pipe(path, most)
    check_regular(copy or path)
    try:
        handle = os.open(copy or path, _FLAGS)
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {_reason(error)}") from None
    try:
        _refuse_others(path, os.fstat(handle).st_mode)
        return open(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def open_mappable(path: Path | str) -> IO[bytes]:
    """A regular file, open to be mapped: of a remote one a copy in TMPDIR, gone when it is closed.

    Raises FormatError as open_regular does, RoutectlError where no copy can be kept.
    """
    stream = open_regular(path)
    if not isinstance(path, RemotePath):
        return stream
    with closing(stream):
        copy = scratch_file()
        try:
            shutil.copyfileobj(stream, copy, _BLOCK)
            copy.flush()
            copy.seek(0)
        except BaseException:
            copy.close()
            raise
        return copy


def size_of(stream: IO[bytes]) -> int:
    """The bytes of a seekable stream, which stays where it is."""
    at = stream.tell()
    size = stream.seek(0, SEEK_END)
    stream.seek(at)
    return size


def read_ahead(stream: IO[bytes], spans: Iterable[tuple[int, int]]) -> None:
    """Bring spans of a remote object, by first bytes and ends, that are about to be read.

    Raises FormatError.
    """
    from .ranges import Ranges

    raw = getattr(stream, "raw", None)
    if isinstance(raw, Ranges):
        raw.ahead(spans)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def read_bytes(path: Path | str, most: int | None = None, too_large: str = "too large") -> bytes:
    """The bytes of a regular file, its size checked before they are read.

    It has at most ``most`` bytes (None: the budget ``document``). Raises FormatError where it has
    more, as ``too_large`` says then, is no regular file or cannot be read.
    """
    with open_regular(path, most) as stream:
        size = size_of(stream)
        if most is None:
            check_budget("document", size, f"{path}: bytes")
        elif size > most:
            raise FormatError(f"{path}: {too_large}")
        try:
            return stream.read(size)
        except OSError as error:
            raise FormatError(f"{path}: cannot be read: {_reason(error)}") from None


def read_text(path: Path | str, most: int | None = None, too_large: str = "too large") -> str:
    """The text of a file, its bytes as read_bytes has them. Raises ValueError for no UTF-8, too."""
    return read_bytes(path, most, too_large).decode("utf-8")
