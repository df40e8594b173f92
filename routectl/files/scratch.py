"""What a run keeps on disk for its own use, in ``$TMPDIR``; its trouble names that folder."""

import atexit
import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, cast

from ..errors import RoutectlError
from .temporaries import new_temporary, remove_abandoned

__all__ = ["lasting_folder", "scratch_file", "scratch_folder"]


def _place() -> str:
    """The folder that TMPDIR names, else the system's."""
    named = os.environ.get("TMPDIR")
    if named:
        return named
    try:
        return tempfile.gettempdir()
    except OSError as error:
        raise _trouble("/tmp", error) from None  # noqa: S108 - as it is told


def _trouble(place: str, error: OSError | ValueError) -> RoutectlError:
    reason = error.strerror or error if isinstance(error, OSError) else error
    return RoutectlError(
        f"{place}: no temporary file can be written there: {reason}",
        hint="TMPDIR names the folder for temporary files",
    )


class _Raw(io.FileIO):
    """An unnamed file that says where it is when it cannot be written."""

    def __init__(self, fd: int, place: str) -> None:
        super().__init__(fd, "r+")
        self._place = place
        self.name = f"/proc/self/fd/{fd}"

    def write(self, data: Any, /) -> int:
        """Write bytes. Raises RoutectlError."""
        try:
            return super().write(data)
        except OSError as error:
            raise _trouble(self._place, error) from None

    def truncate(self, size: int | None = None, /) -> int:
        """Cut or extend. Raises RoutectlError."""
        try:
            return super().truncate(size)
        except OSError as error:
            raise _trouble(self._place, error) from None


def scratch_file() -> IO[bytes]:
    """An unnamed file, open for reading and writing; it is gone when it is closed, or the run dies.

    Raises RoutectlError that names the folder, as its writes do: it is full, say.
    """
    place = _place()
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            raw = _Raw(os.dup(file.fileno()), place)
    except (OSError, ValueError) as error:
        raise _trouble(place, error) from None
    return cast("IO[bytes]", io.BufferedRandom(raw))


@contextmanager
def scratch_folder(name: str) -> Iterator[Path]:
    """A folder that only this user can look into, gone after the block.

    ``name`` says what it is for: what a killed run left of that name is removed first. Raises
    RoutectlError.
    """
    place, name = _place(), f"routectl-{name}"
    remove_abandoned(Path(place), name)
    try:
        held = new_temporary(Path(place), name, folder=True)
    except (OSError, ValueError) as error:
        raise _trouble(place, error) from None
    try:
        yield held.path
    finally:
        held.remove()
        os.close(held.fd)


def lasting_folder(name: str) -> Path:
    """A scratch folder that goes when the process ends. Raises RoutectlError."""
    held = ExitStack()
    folder = held.enter_context(scratch_folder(name))
    atexit.register(held.close)
    return folder
