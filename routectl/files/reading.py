"""Reading: every file of others is opened here, a regular one where one is expected.

A FIFO would wait for a writer, a device may have no end. Nothing waits in open(): what is there is
looked at before (opening a device may do something), and again once it is open.
"""

import os
import stat
from io import BufferedReader
from pathlib import Path

from ..errors import FormatError
from ..limits import check_budget
from .streams import copied_pipe

__all__ = ["check_regular", "open_regular", "read_bytes", "read_text"]

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
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
        found = os.stat(path)
    except (OSError, ValueError) as error:
        raise FormatError(f"{path}: cannot be read: {_reason(error)}") from None
    _refuse_others(path, found.st_mode)
    return found.st_size


def open_regular(path: Path | str, most: int | None = None) -> BufferedReader:
    """A regular file, open to be read, or the copy of a pipe that the process was started with.

    ``most`` is what such a pipe may have. Opening never waits. Raises FormatError for a folder, a
    FIFO, a socket or a device, and where it cannot be read.
    """
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


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def read_bytes(path: Path | str, most: int | None = None, too_large: str = "too large") -> bytes:
    """The bytes of a regular file, its size checked before they are read.

    It has at most ``most`` bytes (None: the budget ``document``). Raises FormatError where it has
    more, as ``too_large`` says then, is no regular file or cannot be read.
    """
    with open_regular(path, most) as stream:
        size = os.fstat(stream.fileno()).st_size
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
