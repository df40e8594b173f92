"""Temporaries: named so that those of a killed run are known, locked while their run lives.

A temporary of ``NAME`` is ``.NAME.BOOT-RANDOM.tmp`` beside it, locked (flock) by the run that
writes it. A run that dies, in whatever way, lets go of its lock; the next run to the same name
takes the lock and removes what it is on. BOOT tells this start of this machine's kernel: only there
does a lock say for certain that nobody lives, so that others' are left alone for a day.
"""

import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from pathlib import Path

try:
    import fcntl
except ImportError:  # pragma: no cover - not on Windows
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "Temporary",
    "discard_folder",
    "is_at",
    "lock_is_had",
    "locked_file",
    "new_temporary",
    "permit",
    "remove_abandoned",
]

_LONGEST = 100  # of a name that is part of a temporary's; of longer ones a digest is
_FOREIGN_S = 86_400  # another machine's temporary is live if it changed in so many seconds


@cache
def _boot() -> str:
    """Eight digits that tell this start of this machine from others, alike in its containers."""
    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_text("ascii")
    except OSError:
        text = os.uname().nodename if hasattr(os, "uname") else ""
    return blake2b(text.strip().encode(), digest_size=4).hexdigest()


def _stem(name: str) -> str:
    coded = os.fsencode(name)
    return name if len(coded) <= _LONGEST else blake2b(coded, digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class Temporary:
    """A file or folder that is this run's, open and locked as ``fd``; nobody else can read it.

    ``mode`` is what the umask, and the folder it is in, give a new one of its kind.
    """

    path: Path
    fd: int
    mode: int

    @property
    def twin(self) -> Path:
        """Where what stood at the destination waits while this takes its place."""
        return self.path.with_suffix(".old")

    def remove(self) -> None:
        """Remove what stands at the name, if anything; ``fd`` stays open."""
        _remove(self.path)


def _remove(path: Path) -> None:
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def lock_is_had(fd: int, *, wait: bool = False, shared: bool = False) -> bool | None:
    """Lock an open file or folder; False where another has it, None where there are no locks.

    ``shared`` locks of several runs stand beside each other, and keep others out.
    """
    if fcntl is None:  # pragma: no cover - not on Windows
        return None
    try:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(fd, kind | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def is_at(fd: int, path: Path) -> bool:
    """Whether a name is still that of an open file."""
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except OSError:
        return False


def locked_file(path: Path, *, wait: bool) -> int | None:
    """A file that is there for its lock alone, made where there is none: open, and locked.

    None where another has it and ``wait`` is false. Whoever has it may remove the name. Raises
    OSError.
    """
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            had = lock_is_had(fd, wait=wait)
            if had is not False and is_at(fd, path):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        if had is False:
            return None


def new_temporary(parent: Path, name: str, *, folder: bool = False) -> Temporary:
    """A new, empty temporary of ``name`` in ``parent``. Raises OSError.

    It is made as the umask says, which tells its ``mode``, then closed to others.
    """
    while True:
        path = _new_name(parent, name)
        try:
            if folder:
                path.mkdir()
            else:
                path.touch(exist_ok=False)
        except FileExistsError:
            continue
        try:
            fd = os.open(path, (os.O_RDONLY if folder else os.O_RDWR) | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue  # another run took it for a dead one's
        try:
            mode = stat.S_IMODE(os.fstat(fd).st_mode)
            permit(fd, mode & ~0o077)
            is_held = lock_is_had(fd) is not False and is_at(fd, path)
        except BaseException:
            _remove(path)
            os.close(fd)
            raise
        if is_held:
            return Temporary(path, fd, mode)
        os.close(fd)


def _new_name(parent: Path, name: str) -> Path:
    return parent / f".{_stem(name)}.{_boot()}-{secrets.token_hex(4)}.tmp"


def discard_folder(path: Path, name: str) -> None:
    """Remove a folder that no run is to go on from: it is there whole, or not at all.

    It is a temporary of ``name`` first, so that the next run to ``name`` removes what is left of it
    where this one is killed.
    """
    gone = _new_name(path.parent, name)
    with suppress(OSError):
        path.rename(gone)
        path = gone
    _remove(path)


def permit(fd: int, mode: int) -> None:
    """Set the permissions of an open file or folder, where the file system has any."""
    with suppress(PermissionError):
        os.fchmod(fd, mode)


def _named(parent: Path, name: str) -> Iterator[tuple[Path, str]]:
    """Temporaries of a name, and the start of a machine that each is of."""
    pattern = re.compile(rf"\.{re.escape(_stem(name))}\.([0-9a-f]{{8}})-[0-9a-f]{{8}}\.(?:tmp|old)")
    try:
        entries = os.listdir(parent)
    except OSError:
        return
    for entry in entries:
        match = pattern.fullmatch(entry)
        if match:
            yield parent / entry, match[1]


def _abandoned(parent: Path, name: str) -> Iterator[Path]:
    """Temporaries of ``name`` whose run is dead, each locked while it is looked at."""
    for path, boot in _named(parent, name):
        try:
            about = os.lstat(path)
            if boot != _boot() and time.time() - about.st_mtime < _FOREIGN_S:
                continue
            if not (stat.S_ISDIR(about.st_mode) or stat.S_ISREG(about.st_mode)):
                continue
            access = os.O_RDONLY if stat.S_ISDIR(about.st_mode) else os.O_RDWR
            fd = os.open(path, access | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            if lock_is_had(fd) and is_at(fd, path):
                yield path
        finally:
            os.close(fd)


def remove_abandoned(parent: Path, name: str) -> None:
    """Remove what killed runs left of ``name``; what stood at ``name`` itself is put back.

    A run that was killed while it put one folder in the place of another, where the kernel cannot
    exchange them in one step, leaves the old one as ``.old``.
    """
    for path in _abandoned(parent, name):
        if path.suffix == ".old" and not os.path.lexists(parent / name):
            with suppress(OSError):
                path.rename(parent / name)
        else:
            _remove(path)
