"""Writing a file whole or not at all; to a remote place, when it is whole."""

import errno
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ..errors import RoutectlError
from .destinations import Destination, cannot_write, find_destination
from .places import RemotePath
from .publishing import rename_new, sync_folder
from .scratch import scratch_file
from .temporaries import Temporary, new_temporary, permit

__all__ = ["already_exists", "refuse_existing", "replacing"]

_BLOCK = 1 << 20


def refuse_existing(path: Path, *, force: bool, folder: bool = False) -> None:
    """Raise RoutectlError, before any work is done, where ``path`` cannot be written.

    It exists and ``force`` is false (a dangling link exists), or is a folder where a file is
    wanted, or there is no folder to write a file in. A device, a pipe or an open file (/dev/stdout)
    is written to, not replaced, and is never refused. What a killed run left beside ``path`` is
    removed. ``folder`` tells that a folder is to be written, with those that it is in.
    """
    if isinstance(path, RemotePath):
        _refuse_object(path, force=force, folder=folder)
        return
    found = find_destination(path)
    if not folder:
        _refuse_unfit(path, found)
    _refuse(path, found, force=force)


def _refuse_object(path: RemotePath, *, force: bool, folder: bool = False) -> None:
    found = path.about or path.store.find(path.key, written=True)
    if found is not None and found.is_folder and not folder:
        raise RoutectlError(f"{path}: is a folder, expected a file")
    if found is not None and not force:
        raise already_exists(path)


def _refuse_unfit(path: Path, found: Destination) -> None:
    if found.is_stream:
        return
    if found.is_folder:
        raise RoutectlError(f"{path}: is a folder, expected a file")
    parent = found.path.parent
    if not parent.is_dir():
        raise RoutectlError(f"{path}: cannot be written: there is no folder {parent}")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise RoutectlError(f"{path}: cannot be written: {os.strerror(errno.EACCES)}")


def _refuse(path: Path, found: Destination, *, force: bool) -> None:
    if found.is_stream or force:
        return
    if found.link is not None:
        raise RoutectlError(
            f"{path}: is a link to {found.link}, where nothing is", hint="--force to write it there"
        )
    if found.mode is not None:
        raise already_exists(path)


def already_exists(path: Path, *, meanwhile: bool = False) -> RoutectlError:
    """The error of a destination that is there, before a run or since it began."""
    when = ": it came while this was written" if meanwhile else ""
    return RoutectlError(f"{path}: already exists{when}", hint="--force to replace it")


@contextmanager
def replacing(path: Path, *, force: bool, private: bool = False) -> Iterator[IO[bytes]]:
    """A binary stream that becomes ``path`` when the block ends well, and vanishes otherwise.

    The bytes go to a temporary in the same folder, whose name is the stream's and which nobody else
    can read; it is fsynced, takes its name in one step, and the folder is fsynced. A link is
    followed. A file that is replaced hands on its permissions; a new one has those of the umask, or
    with ``private`` none for others. What came to stand at ``path`` in the meantime is not replaced
    without ``force``. A device, a pipe or an open file is given the bytes when the block ends well,
    and so is a remote place, in one put or a completed upload, from a temporary in TMPDIR. Raises
    RoutectlError when ``path`` exists and ``force`` is false, or cannot be written.
    """
    if isinstance(path, RemotePath):
        with _sending(path, force=force) as body:
            yield body
        return
    found = find_destination(path)
    _refuse_unfit(path, found)
    _refuse(path, found, force=force)
    if found.is_stream:
        with scratch_file() as body:
            yield body
            _pour(body, path, found)
        return
    try:
        held = new_temporary(found.path.parent, found.path.name)
    except (OSError, ValueError) as error:
        raise cannot_write(path, error) from None
    mode = found.permissions(held.mode) & (~0o077 if private else ~0)
    try:
        with open(held.path, "wb", opener=lambda *_: held.fd) as stream:
            yield stream
            stream.flush()
            _publish(held, found.path, mode, force=force)
    except FileExistsError:
        raise already_exists(path, meanwhile=True) from None
    except OSError as error:
        raise cannot_write(path, error) from None
    finally:
        held.remove()


@contextmanager
def _sending(path: RemotePath, *, force: bool) -> Iterator[IO[bytes]]:
    """A stream whose bytes are put at a remote place when the block ends well."""
    _refuse_object(path, force=force)
    with scratch_file() as body:
        yield body
        body.flush()
        body.seek(0)
        if not force and path.exists():
            raise already_exists(path, meanwhile=True)
        path.store.put(path.key, body)


def _publish(held: Temporary, path: Path, mode: int, *, force: bool) -> None:
    """Have the bytes on disk, then the name. Raises FileExistsError, OSError."""
    permit(held.fd, mode)
    os.fsync(held.fd)
    if force:
        held.path.replace(path)
    else:
        rename_new(held.path, path)
    sync_folder(path.parent)


def _pour(body: IO[bytes], path: Path, found: Destination) -> None:
    """Write all of ``body`` to a device, a pipe or an open file."""
    body.seek(0)
    try:
        if found.fd is None:
            fd = os.open(path, os.O_WRONLY | os.O_NOCTTY)
        else:
            sys.stdout.flush()  # it may be that one
            fd = os.dup(found.fd)
        with open(fd, "wb") as stream:
            shutil.copyfileobj(body, stream, _BLOCK)
    except OSError as error:
        raise cannot_write(path, error) from None
