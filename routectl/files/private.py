"""Files and folders that only their user can look into: prompts stand in them.

Whatever the umask, and where one was there before with wider permissions, a file is 0600 and a
folder 0700. What is another user's, or a link, is refused: whoever laid it there could read what is
written, or have written what is read.
"""

import errno
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

from ..errors import RoutectlError
from .destinations import cannot_write
from .temporaries import permit

__all__ = ["close_to_others", "open_private", "private_folder"]

_OTHERS = 0o077
_FILE = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_FOLDER = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_DIRECTORY
_KINDS = {errno.ELOOP: "is a link", errno.ENOTDIR: "is no folder", errno.EISDIR: "is a folder"}


def open_private(path: Path) -> IO[bytes]:
    """A file of the user's alone, open to be read and added to; made where there is none.

    Raises RoutectlError for a link, what is no regular file or another user's, and where it cannot
    be written.
    """
    try:
        handle = os.open(path, _FILE, 0o600)
    except OSError as error:
        raise _trouble(path, error) from None
    try:
        _refuse_foreign(path, handle, stat.S_ISREG, "is no regular file")
        permit(handle, 0o600)
        return open(handle, "ab+")
    except BaseException:
        os.close(handle)
        raise


def private_folder(path: Path, is_ours: Callable[[Path], bool]) -> None:
    """Make a folder of the user's alone, where it is not there.

    One that others can look into is closed to them if it ``is_ours``, a folder that routectl made.
    Raises RoutectlError where it is not, for a link, another user's, or where none can be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            path.mkdir(0o700)
        handle = os.open(path, _FOLDER)
    except OSError as error:
        raise _trouble(path, error) from None
    try:
        _refuse_foreign(path, handle, stat.S_ISDIR, "is no folder")
        mode = stat.S_IMODE(os.fstat(handle).st_mode)
        if mode & _OTHERS and not is_ours(path):
            raise RoutectlError(
                f"{path}: others can look into it (mode {mode:o}), and token ids would be there",
                hint=f"chmod 700 {path}, or name another folder",
            )
        permit(handle, 0o700)
    finally:
        os.close(handle)


def close_to_others(path: Path) -> None:
    """Take others' permissions from a file of the user's, in a folder that is closed to them."""
    with suppress(OSError):
        about = os.lstat(path)
        if stat.S_ISREG(about.st_mode) and about.st_mode & _OTHERS:
            path.chmod(0o600)


def _refuse_foreign(path: Path, handle: int, fits: Callable[[int], bool], otherwise: str) -> None:
    about = os.fstat(handle)
    if not fits(about.st_mode):
        raise RoutectlError(f"{path}: {otherwise}")
    if about.st_uid != os.geteuid():
        raise RoutectlError(
            f"{path}: is another user's (uid {about.st_uid}), who could read it, or have made it",
            hint="name another place, or remove it",
        )


def _trouble(path: Path, error: OSError) -> RoutectlError:
    said = _KINDS.get(error.errno or 0)
    if said is None:
        return cannot_write(path, error)
    if os.path.islink(path):
        said = "is a link"
    return RoutectlError(f"{path}: {said}: what is kept there is this user's alone")
