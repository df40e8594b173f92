"""The step in which something written takes its name: at once, and on disk."""

import ctypes
import errno
import os
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

__all__ = ["begin_sync", "exchange", "rename_new", "sync_folder", "sync_tree"]

_AT_FDCWD = -100
_NOREPLACE, _EXCHANGE = 1, 2  # linux/fs.h
_WRITE = 2  # sync_file_range(2)
_CANNOT = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)  # this kernel or file system


@cache
def _renameat2() -> Callable[[bytes, bytes, int], int] | None:
    """The system call, which gives an errno or 0; None where the C library has none."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):  # pragma: no cover - Linux has one
        return None
    call.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]

    def renamed(old: bytes, new: bytes, flags: int) -> int:
        return ctypes.get_errno() if call(_AT_FDCWD, old, _AT_FDCWD, new, flags) else 0

    return renamed


def _renamed(old: Path, new: Path, flags: int) -> bool:
    """Rename with flags; False where that cannot be done here. Raises OSError."""
    call = _renameat2()
    code = errno.ENOSYS if call is None else call(os.fsencode(old), os.fsencode(new), flags)
    if code in _CANNOT:
        return False
    if code:
        raise OSError(code, os.strerror(code), str(old), None, str(new))
    return True


def rename_new(old: Path, new: Path) -> None:
    """Give a file or folder a name that nothing has. Raises FileExistsError, OSError.

    Where the file system has no such step, a file is linked and then unlinked, and a folder
    renamed, which replaces an empty one. Where it has no links either, the name is looked at first.
    """
    if _renamed(old, new, _NOREPLACE):
        return
    try:
        if old.is_dir():
            old.rename(new)
        else:
            os.link(old, new, follow_symlinks=False)
            old.unlink()
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(new)) from None
        if old.is_dir() or error.errno not in (*_CANNOT, errno.EMLINK):
            raise
        if os.path.lexists(new):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(new)) from None
        old.rename(new)


def exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step; False where that cannot be done here. Raises OSError."""
    return _renamed(one, other, _EXCHANGE)


@cache
def _sync_file_range() -> Callable[[int, int, int, int], int] | None:
    """The system call; None where the C library has none."""
    try:
        call = ctypes.CDLL(None).sync_file_range
    except (OSError, AttributeError, TypeError):  # pragma: no cover - Linux has one
        return None
    call.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    return call


def begin_sync(fd: int) -> None:
    """Have the disk take what was written of a file, and do not wait: less is left to be fsynced.

    Nothing where the system has no such call, or the file system none for it.
    """
    call = _sync_file_range()
    if call is not None:
        call(fd, 0, 0, _WRITE)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on disk, where the file system can."""
    with suppress(OSError):
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def sync_tree(folder: Path) -> None:
    """Have all files of a folder, and their names, on disk. Raises OSError."""
    for place, _, names in os.walk(folder):
        for name in names:
            fd = os.open(os.path.join(place, name), os.O_RDONLY | os.O_NOFOLLOW)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        sync_folder(Path(place))
