"""A dump on standard input, kept in a file while the command runs: it is read more than once."""

import atexit
import shutil
import sys
import tempfile
from functools import cache
from pathlib import Path

from ..errors import RoutectlError

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
    folder = Path(tempfile.mkdtemp(prefix="routectl-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / "stdin"
    with path.open("wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file, 1 << 20)
    if not path.stat().st_size:
        raise RoutectlError("-: standard input is empty")
    return path
