"""What stands where something is to be written: nothing, a file, a folder, a device."""

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from ..errors import RoutectlError
from .temporaries import remove_abandoned

__all__ = ["Destination", "cannot_write", "find_destination"]

_MOST_LINKS = 40


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a path leads, links followed.

    ``mode`` is that of what stands there, None for nothing; ``fd`` is the number of this process's
    open file that the path names, as /dev/stdout does. ``link`` is where a dangling link leads.
    """

    path: Path
    mode: int | None = None
    fd: int | None = None
    link: str | None = None

    @property
    def is_stream(self) -> bool:
        """Whether it is written to and never replaced: a device, a pipe, an open file."""
        mode = self.mode
        return self.fd is not None or (
            mode is not None and (stat.S_ISFIFO(mode) or stat.S_ISCHR(mode))
        )

    @property
    def is_folder(self) -> bool:
        """Whether a folder stands there."""
        return self.mode is not None and stat.S_ISDIR(self.mode)

    def permissions(self, new: int) -> int:
        """Those of the file that is replaced, else ``new``."""
        return new if self.mode is None else stat.S_IMODE(self.mode) & 0o777


def cannot_write(path: Path | str, error: OSError | ValueError) -> RoutectlError:
    """The error of a path that cannot be written, in one line."""
    reason = error.strerror or error if isinstance(error, OSError) else "not a name of a file"
    return RoutectlError(f"{path}: cannot be written: {reason}")


def find_destination(path: Path) -> Destination:
    """Where ``path`` leads; what a killed run left beside it is removed, or put back.

    Raises RoutectlError where it cannot be looked at, or is a socket or a block device.
    """
    try:
        found = _found(path)
        if not found.is_stream:
            remove_abandoned(found.path.parent, found.path.name)
            found = _found(path)
    except (OSError, ValueError) as error:
        raise cannot_write(path, error) from None
    mode = 0 if found.mode is None else found.mode
    if stat.S_ISSOCK(mode) or stat.S_ISBLK(mode):
        what = "a socket" if stat.S_ISSOCK(mode) else "a block device"
        raise RoutectlError(f"{path}: is {what}: expected a file")
    return found


def _found(path: Path) -> Destination:
    fd = _own_fd(path)
    if fd is not None:
        return Destination(path, fd=fd)
    real = Path(os.path.realpath(path))
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        link = os.readlink(path) if path.is_symlink() else None
        return Destination(real, link=link)
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        return Destination(path, mode)  # such a link in /proc/PID/fd leads to no name
    return Destination(real, mode)


def _own_fd(path: Path) -> int | None:
    """The number of an open file of this process that a path leads to; None for another path."""
    for _ in range(_MOST_LINKS):
        parent = os.path.realpath(path.parent)
        if re.fullmatch(rf"/proc/{os.getpid()}(/task/\d+)?/fd", parent):
            return int(path.name) if path.name.isdecimal() else None
        if not path.is_symlink():
            return None
        path = Path(parent, os.readlink(path))
    return None
