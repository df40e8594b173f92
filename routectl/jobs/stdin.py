"""A dump on standard input, kept in a file while the command runs: it is read more than once."""

import shutil
import sys
from functools import cache
from pathlib import Path

from ..errors import RoutectlError
from ..files.destinations import cannot_write
from ..files.scratch import lasting_folder

__all__ = ["file_of"]


def file_of(path: str) -> str:
    """The path that a user named, or for ``-`` of the file that standard input was copied to.

    Raises RoutectlError where standard input is a terminal, or is closed or empty.
    """
    return str(_standard_input()) if path == "-" else path


@cache
def _standard_input() -> Path:
    """The copy, which goes when the command ends."""
    if sys.stdin is None or sys.stdin.isatty():
        raise RoutectlError("-: standard input is a terminal", hint="pipe a dump into the command")
    path = lasting_folder("stdin") / "stdin"
    try:
        with path.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file, 1 << 20)
    except OSError as error:
        raise cannot_write(path, error) from None
    if not path.stat().st_size:
        raise RoutectlError("-: standard input is empty")
    return path
