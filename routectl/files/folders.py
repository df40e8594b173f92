"""Writing a folder whole or not at all; in a store, the file that makes it whole last."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import RoutectlError
from .destinations import cannot_write, find_destination
from .places import RemotePath
from .publishing import exchange, rename_new, sync_folder, sync_tree
from .reading import open_regular
from .scratch import scratch_folder
from .temporaries import Temporary, is_at, lock_is_had, new_temporary, permit
from .writing import already_exists, refuse_existing

__all__ = ["replacing_folder"]

_Foreign = Callable[[Path], str | None]


@contextmanager
def replacing_folder(
    path: Path, *, force: bool, foreign: _Foreign, last: str = ""
) -> Iterator[Path]:
    """A folder that becomes ``path`` when the block ends well, and vanishes otherwise.

    While it is written nobody else can look into it; all in it is fsynced before it takes its name
    in one step. ``force`` replaces a folder only if ``foreign`` finds nothing in it that would be
    lost: it gives the reason to keep a folder, or None. Of a link, what it points to is replaced.
    Of several writers the first wins, with ``force`` the last. Raises RoutectlError when ``path``
    exists and may not be replaced, or on a full disk.

    A store has no such step: the folder is written in TMPDIR, then put there file by file, the one
    named ``last`` at the end, and of a folder that is replaced it goes first. Where a put fails,
    those before it are removed.
    """
    refuse_existing(path, force=force, folder=True)
    if isinstance(path, RemotePath):
        if path.exists():
            _refuse_foreign(path, path, foreign)
        with scratch_folder("folder") as folder:
            yield folder
            if path.exists():
                if not force:
                    raise already_exists(path, meanwhile=True)
                _refuse_foreign(path, path, foreign)
            _put_folder(folder, path, last)
        return
    found = find_destination(path)
    if found.is_stream:
        raise RoutectlError(f"{path}: is a device or a pipe: expected a folder")
    try:
        with suppress(FileNotFoundError):  # another run puts one in its place
            _refuse_foreign(path, found.path, foreign)
        _make_parents(found.path.parent)
        held = new_temporary(found.path.parent, found.path.name, folder=True)
    except (OSError, ValueError) as error:
        raise cannot_write(path, error) from None
    try:
        yield held.path
        permit(held.fd, found.permissions(held.mode))
        sync_tree(held.path)
        _publish(held, found.path, path, foreign if force else None)
        sync_folder(found.path.parent)
    except OSError as error:
        raise cannot_write(path, error) from None
    finally:
        held.remove()
        os.close(held.fd)


def _refuse_foreign(path: Path, at: Path, foreign: _Foreign) -> None:
    there = isinstance(at, RemotePath) or os.path.lexists(at)
    reason = foreign(at) if there else None
    if reason is not None:
        raise RoutectlError(f"{path}: {reason}, so --force does not replace it")


def _put_folder(folder: Path, path: RemotePath, last: str) -> None:
    """Put the files of a folder below a remote place, ``last`` last. Raises RoutectlError."""
    files = sorted(
        (file for file in folder.rglob("*") if file.is_file()),
        key=lambda file: (file == folder / last, str(file)),
    )
    keys = [path.joinpath(*file.relative_to(folder).parts).key for file in files]
    old = {one.key for one in path.rglob("*") if one.is_file()}
    marks = [key for key in keys[-1:] if last and key in old]
    done: list[str] = []
    try:
        for key in (*marks, *sorted(old - {*keys})):
            path.store.remove(key)
        for key, file in zip(keys, files, strict=True):
            done.append(key)
            with open_regular(file) as body:
                path.store.put(key, body)
    except BaseException:
        for key in done:
            with suppress(RoutectlError):
                path.store.remove(key)
        raise


def _make_parents(folder: Path) -> None:
    """Make a folder and those that it is in, each on disk. Raises OSError."""
    if not folder.is_dir():
        _make_parents(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def _publish(held: Temporary, at: Path, path: Path, foreign: _Foreign | None) -> None:
    """Give a folder its name; ``foreign`` tells whether what has the name may be replaced."""
    while True:
        try:
            rename_new(held.path, at)
            return
        except FileExistsError:
            if foreign is None:
                raise already_exists(path, meanwhile=True) from None
        with suppress(FileNotFoundError):  # another run moved it: look again
            if _replaced(held, at, path, foreign):
                return


def _replaced(held: Temporary, at: Path, path: Path, foreign: _Foreign) -> bool:
    """Take the place of a folder, and remove it; False where another run took it first.

    Of several runs each waits for its turn: the folder that is to be replaced is locked.
    """
    _refuse_foreign(path, at, foreign)
    fd = os.open(at, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        lock_is_had(fd, wait=True)
        if not is_at(fd, at):
            return False
        _refuse_foreign(path, at, foreign)  # what came in the meantime is kept, too
        if exchange(held.path, at):
            try:
                _refuse_foreign(path, held.path, foreign)
            except RoutectlError:
                exchange(held.path, at)
                raise
            held.remove()
            return True
        return _in_two_renames(held, at)
    finally:
        os.close(fd)


def _in_two_renames(held: Temporary, at: Path) -> bool:
    """The same where names cannot be exchanged; False where another run came in between."""
    at.rename(held.twin)  # the next run puts it back, should this one die here
    try:
        rename_new(held.path, at)
    except FileExistsError:
        return False
    finally:
        if os.path.lexists(at):
            shutil.rmtree(held.twin, ignore_errors=True)
    return True
