"""The user's cache: what checkpoints selected for the tokens of dumps, kept by what made it.

An entry NAME is ``NAME.parquet``, its routes, and ``NAME.json``, what it is of; while it is made
``NAME.lock``, and ``NAME.parquet.partial/`` with the parts that are finished. NAME is a digest. A
file appears whole or not at all. Whoever makes an entry has the lock of ``NAME.lock``; whoever
reads one has a shared lock on the file itself, so that no other run lets go of it. Only its user
can look into the folder: see ``files.private``.
"""

import json
import os
import re
import shutil
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import FormatError
from ...files.destinations import cannot_write
from ...files.private import close_to_others, private_folder
from ...files.reading import read_bytes
from ...files.temporaries import is_at, lock_is_had, locked_file
from ...files.writing import replacing
from ...limits import limits
from ...reports.text.wording import bytes_text
from .parts import parts_folder

if TYPE_CHECKING:
    from ...dump import Dump

__all__ = ["Cache", "Entry", "user_cache"]

_TAG = "CACHEDIR.TAG"  # https://bford.info/cachedir/: backups leave such a folder out
_TAGGED = b"Signature: 8a477f597d28d172789f06886806bc55\n# Kept by routectl: routectl cache\n"
_FILE = re.compile(r"([0-9a-f]{32}(?:\.forced)?)\.(parquet|json|parquet\.partial)")
_MAX_ABOUT = 1 << 20


def user_cache() -> Path:
    """The folder of the user's cache: in XDG_CACHE_HOME, else ~/.cache."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(named) if os.path.isabs(named) else Path.home() / ".cache"
    return root / "routectl" / "recomputed"


@dataclass(frozen=True, slots=True)
class Entry:
    """What is kept under a name, and what it is of.

    used is when it was last asked for, in seconds since 1970; is_whole tells a finished one from
    the parts of a run that was ended. about has ``checkpoint``, ``dump``, ``mode``, ``samples``,
    ``tokens`` and ``made`` (seconds), and may lack any of them.
    """

    name: str
    bytes: int
    used: float
    is_whole: bool
    about: Mapping[str, Any]


class _InUse:
    """A shared lock, had as long as somebody holds this."""

    def __init__(self, fd: int) -> None:
        weakref.finalize(self, os.close, fd)

    def __call__(self) -> AbstractContextManager[None]:
        return nullcontext()


@dataclass(frozen=True, slots=True)
class Cache:
    """The folder, and how many bytes it may hold: the budget ``cache`` of ``--limit``."""

    folder: Path = field(default_factory=user_cache)
    most_bytes: int = field(default_factory=lambda: limits().cache)

    def prepare(self) -> None:
        """Make the folder, or close it to others. Raises RoutectlError where that cannot be."""
        private_folder(self.folder, lambda folder: (folder / _TAG).exists() or _is_empty(folder))
        for path in self.folder.iterdir():
            close_to_others(path)
        if not (self.folder / _TAG).exists():
            _write(self.folder / _TAG, _TAGGED)

    def path(self, name: str) -> Path:
        """Where the routes of an entry are."""
        return self.folder / f"{name}.parquet"

    def open(self, name: str, note: Callable[[str], None]) -> "Dump | None":
        """What is kept under a name, in use as long as somebody holds it; None where nothing is.

        One that cannot be read is let go of, with a note.
        """
        from ...formats.native.container import open_native

        path = self.path(name)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return None
        used = _InUse(fd)
        lock_is_had(fd, wait=True, shared=True)
        if not is_at(fd, path):
            return None  # another run let go of it
        try:
            os.utime(path)
            return open_native(path).read_within(used)
        except (FormatError, OSError) as error:
            note(f"it is made again: {error}")
        del used
        self.remove(name)
        return None

    @contextmanager
    def making(self, names: Sequence[str], note: Callable[[str], None]) -> Iterator[None]:
        """No other run makes these entries in the block; one that does so is waited for."""
        with ExitStack() as stack:
            for name in sorted(names):
                stack.enter_context(self._alone(self.folder / f"{name}.lock", note))
            yield

    @contextmanager
    def _alone(self, path: Path, note: Callable[[str], None]) -> Iterator[None]:
        try:
            fd = locked_file(path, wait=False)
            if fd is None:
                note("another run is computing the same: waiting for it")
                fd = locked_file(path, wait=True)
        except OSError as error:
            raise cannot_write(path, error) from None
        assert fd is not None
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            os.close(fd)

    def begin(self, name: str, about: Mapping[str, Any]) -> None:
        """Say what an entry is of."""
        _write(self.folder / f"{name}.json", json.dumps(about, indent=1).encode() + b"\n")

    def entries(self) -> list[Entry]:
        """What is kept, the last used first."""
        found: dict[str, set[str]] = {}
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if match := _FILE.fullmatch(path.name):
                found.setdefault(match[1], set()).add(match[2])
        made = [self._entry(name) for name, ends in found.items() if ends != {"json"}]
        return sorted((one for one in made if one is not None), key=lambda e: (-e.used, e.name))

    def _entry(self, name: str) -> Entry | None:
        whole, parts = self.path(name), parts_folder(self.path(name))
        is_whole = whole.exists()
        try:
            used = (whole if is_whole else parts).stat().st_mtime
            size = sum(path.stat().st_size for path in (whole, *parts.glob("*")) if path.exists())
        except OSError:
            return None  # another run let go of it
        return Entry(name, size, used, is_whole, _about(self.folder / f"{name}.json"))

    def remove(self, name: str) -> bool:
        """Let go of an entry; False where a run makes or reads it."""
        lock = self.folder / f"{name}.lock"
        try:
            fd = locked_file(lock, wait=False)
        except OSError as error:
            raise cannot_write(lock, error) from None
        if fd is None:
            return False
        try:
            if not _unlinked(self.path(name)):
                return False
            shutil.rmtree(parts_folder(self.path(name)), ignore_errors=True)
            (self.folder / f"{name}.json").unlink(missing_ok=True)
            return True
        finally:
            lock.unlink(missing_ok=True)
            os.close(fd)

    def shrink(self, note: Callable[[str], None]) -> None:
        """Let go of what was not used for longest, until the folder is within its budget.

        What a run makes or reads stays.
        """
        kept = self.entries()
        size = sum(one.bytes for one in kept)
        for one in reversed(kept):
            if size <= self.most_bytes:
                return
            if self.remove(one.name):
                size -= one.bytes
                of = one.about.get("checkpoint", "an unknown checkpoint")
                note(f"the cache let go of the routes of {of}: {bytes_text(one.bytes)}")
        if size > self.most_bytes:
            most = bytes_text(self.most_bytes)
            note(f"{self.folder}: {bytes_text(size)} are in use, over the {most} that it may have")


def _is_empty(folder: Path) -> bool:
    return not any(folder.iterdir())


def _unlinked(path: Path) -> bool:
    """Let go of a file; False where somebody reads it."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True
    except OSError as error:
        raise cannot_write(path, error) from None
    try:
        if lock_is_had(fd) is False:
            return False
        with suppress(FileNotFoundError):
            path.unlink()
        return True
    finally:
        os.close(fd)


def _about(path: Path) -> Mapping[str, Any]:
    """What an entry is of; nothing where that cannot be read."""
    try:
        found = json.loads(read_bytes(path, _MAX_ABOUT))
    except (FormatError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(path: Path, data: bytes) -> None:
    with replacing(path, force=True, private=True) as stream:
        stream.write(data)
