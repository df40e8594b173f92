"""A pipe that is read as a file: kept in a temporary file while the process runs.

Standard input and a process substitution (``<(zcat a)`` is ``/dev/fd/63``) are read once, and
asked for often. A FIFO or device with a name of its own is none of these, and is refused.
"""

import os
import re
import select
import shutil
import stat
from functools import cache
from pathlib import Path
from typing import IO

from ..errors import FormatError, RoutectlError
from ..limits import limits, refuse
from .scratch import lasting_folder

__all__ = ["copied_pipe", "copied_stream"]

_BLOCK = 1 << 20
_STEP_MS = 200
_SPARE = 10**9  # bytes that a copy leaves on the disk
_OWN = re.compile(r"/dev/stdin|/dev/fd/\d{1,6}|/proc/self/fd/\d{1,6}")
_BINARY = (b"PAR1", b"PK", b"\x1f\x8b", b"data:", b"event:", b": ")


def copied_pipe(path: Path | str, most: int | None = None) -> Path | None:
    """The copy of a pipe that the process was started with, made once; None for another path.

    ``most`` are the bytes that it may have (None: the budget ``stdin``). Raises FormatError where
    it has more, RoutectlError where it cannot be kept.
    """
    if _OWN.fullmatch(str(path)) is None:
        return None
    try:
        about = os.stat(path)
    except OSError:
        return None
    if not (stat.S_ISFIFO(about.st_mode) or stat.S_ISSOCK(about.st_mode)):
        return None
    return _pipe(str(path), about.st_dev, about.st_ino, most)


@cache
def _pipe(path: str, device: int, inode: int, most: int | None) -> Path:
    """The copy of the pipe that has this inode: another one of the same name is another one."""
    with os.fdopen(os.dup(_number(path)), "rb") as stream:
        return copied_stream(stream, path, most, of_dump=most is None)


def _number(path: str) -> int:
    return 0 if path == "/dev/stdin" else int(path.rpartition("/")[2])


def copied_stream(stream: IO[bytes], name: str, most: int | None, *, of_dump: bool) -> Path:
    """The copy of a stream called ``name``, which goes when the process ends.

    Errors call it by that name again (``RoutectlError``).

    What cannot be a dump (``of_dump``) is refused by its first bytes, before all of it is copied.
    """
    folder = lasting_folder("stdin")
    room = shutil.disk_usage(folder).free - _SPARE
    asked = limits().stdin if most is None else most
    most = max(room, 0) if asked is None else asked
    try:
        path = folder / (f"fd-{name.rpartition('/')[2]}" if "/fd/" in name else "stdin")
        with path.open("xb") as file:
            while block := _read(stream):
                if of_dump and not file.tell() and not _may_be_dump(block):
                    raise FormatError(f"{name}: not a dump: it begins with {block[:16]!r}")
                if file.tell() + len(block) > most:
                    _refuse(name, most, asked)
                file.write(block)
    except OSError as error:
        raise RoutectlError(f"{name}: cannot be copied to TMPDIR: {error.strerror}") from None
    return path


def _read(stream: IO[bytes]) -> bytes:
    """A block, less at the end of the stream."""
    parts, left = [], _BLOCK
    while left:
        _wait(stream)
        part: bytes = stream.read1(left)  # type: ignore[attr-defined]
        if not part:
            break
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _wait(stream: IO[bytes]) -> None:
    """Wait until there is something to read, in short steps.

    A signal that comes just before a read begins is heard after it: of a pipe where nothing comes,
    never.
    """
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError, AttributeError):
        return
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    while not poller.poll(_STEP_MS):
        pass


def _refuse(name: str, most: int, asked: int | None) -> None:
    message = f"{name}: more than {most} bytes on a pipe"
    if asked is None:
        raise FormatError(f"{message}: TMPDIR holds no more", hint="TMPDIR names another disk")
    refuse("stdin", 2 * most, message)


def _may_be_dump(head: bytes) -> bool:
    """Whether a file of a known format begins so: JSON, an event stream, a binary container."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"[")
    return text or head.startswith(_BINARY) or head[0] >= 0x80 or head[8:9] == b"{"
