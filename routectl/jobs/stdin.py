"""A dump on standard input, kept in a file while the command runs: it is read more than once."""

import os
import stat
import sys
from functools import cache
from pathlib import Path
from typing import IO

from ..errors import RoutectlError
from ..files.streams import copied_pipe, copied_stream

__all__ = ["file_of"]


def file_of(path: str) -> str:
    """The path that a user named, or of the file that a pipe was copied to.

    ``-`` is standard input, ``/dev/fd/63`` a process substitution. Raises RoutectlError where
    standard input is a terminal or a device, or is closed or empty.
    """
    if path != "-":
        return str(copied_pipe(path) or path)
    if sys.stdin is None or sys.stdin.closed:
        raise RoutectlError("-: standard input is closed", hint="pipe a dump into the command")
    stream = sys.stdin.buffer
    about = _about(stream)
    if about is not None and not (stat.S_ISREG(about.st_mode) or _flows(about.st_mode)):
        kind = "a terminal" if sys.stdin.isatty() else "a folder or a device"
        raise RoutectlError(f"-: standard input is {kind}", hint="pipe a dump into the command")
    identity = stream if about is None else (about.st_dev, about.st_ino)
    return str(_standard_input(identity))


def _flows(mode: int) -> bool:
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def _about(stream: IO[bytes]) -> os.stat_result | None:
    """What standard input is; None where it is no file of the system's."""
    try:
        return os.fstat(stream.fileno())
    except (OSError, ValueError, AttributeError):
        return None


@cache
def _standard_input(identity: object) -> Path:
    """The copy of the stream that standard input is; another stream later is copied anew."""
    path = copied_stream(sys.stdin.buffer, "-", None, of_dump=True)
    if not path.stat().st_size:
        raise RoutectlError("-: standard input is empty")
    return path
