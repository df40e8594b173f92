"""A folder that others write into, followed by looking at it: which files have come to rest.

Files are stat'ed and nothing else; there is no inotify, which cluster file systems do not deliver.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from ...errors import RoutectlError
from ...files.places import RemotePath

__all__ = ["Follower", "Stamp", "stamp_of"]

_UNFINISHED = (".tmp", ".part", ".partial", ".lock", ".incomplete")


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells one state of a file from another: size in bytes, time of change, inode."""

    size: int
    changed_ns: int
    inode: int


@dataclass(slots=True)
class _Seen:
    stamp: Stamp
    since: float
    needed_s: float
    told: bool = False


def _stamp(stat: os.stat_result) -> Stamp:
    return Stamp(stat.st_size, stat.st_mtime_ns, stat.st_ino)


def stamp_of(path: Path) -> Stamp | None:
    """The state of a file now; None when it is gone."""
    try:
        return _stamp(path.stat())
    except OSError:
        return None


class Follower:
    """The files of a folder and those below it, told of when they have rested for ``settle_s``.

    patterns  globs on the path below the folder; * crosses slashes; none for every file
    settle_s  seconds without a change of size, time or inode, as seen from here: clocks of file
              servers are not trusted

    ``changed`` is when a file was last seen new or other, None before the first.
    Names that begin with a dot or end in .tmp, .part, .partial, .lock or .incomplete are passed
    over until they are renamed; links to folders are not followed.
    """

    def __init__(self, root: Path, patterns: Sequence[str] = (), settle_s: float = 2.0) -> None:
        self.root, self.settle_s = root, settle_s
        self._patterns = tuple(patterns)
        self._seen: dict[str, _Seen] = {}
        self.changed: float | None = None

    def paths(self) -> set[Path]:
        """The files that were there at the last look."""
        return {self.root / below for below in self._seen}

    @property
    def resting(self) -> bool:
        """Whether every file has been told of in its present state."""
        return all(seen.told for seen in self._seen.values())

    def poll(self, now: float) -> list[Path]:
        """Look once: the files that have come to rest since the last look, oldest change first.

        ``now`` is a clock that never goes back, in seconds. A file that changes after it was told
        of is told of again; one that is gone is forgotten. Raises RoutectlError when the folder
        itself cannot be read.
        """
        found = dict(self._stats())
        for below in self._seen.keys() - found.keys():
            del self._seen[below]
        for below, stamp in found.items():
            seen = self._seen.get(below)
            if seen is None or seen.stamp != stamp:
                self._seen[below] = _Seen(stamp, now, self.settle_s)
                self.changed = now
        ready = [
            (seen.stamp.changed_ns, below)
            for below, seen in self._seen.items()
            if not seen.told and now - seen.since >= seen.needed_s
        ]
        for _, below in ready:
            self._seen[below].told = True
        return [self.root / below for _, below in sorted(ready)]

    def put_off(self, path: Path, needed_s: float, now: float) -> bool:
        """Tell of a file again when it has rested so long; False where it has by now.

        One that has changed meanwhile, or is gone, will be told of anyway.
        """
        seen = self._of(path)
        if seen is None or seen.stamp != stamp_of(path):
            self.take_back(path)
            return True
        if now - seen.since >= needed_s:
            return False
        seen.needed_s, seen.told = needed_s, False
        return True

    def take_back(self, path: Path) -> None:
        """Not to have told of a file: it changed, or went, while it was looked at.

        The next look finds what has become of it, and until then it does not rest.
        """
        seen = self._of(path)
        if seen is not None:
            seen.told = False

    def _of(self, path: Path) -> _Seen | None:
        return self._seen.get(path.relative_to(self.root).as_posix())

    def _wanted(self, name: str, below: str) -> bool:
        if name.startswith(".") or name.endswith(_UNFINISHED):
            return False
        return not self._patterns or any(fnmatchcase(below, p) for p in self._patterns)

    def _stats(self) -> Iterator[tuple[str, Stamp]]:
        """Paths below the folder, with their states; strings, since there may be many."""
        if isinstance(self.root, RemotePath):
            for path in self.root.rglob("*"):
                names = path.relative_to(self.root).parts
                hidden, below = any(name.startswith(".") for name in names), "/".join(names)
                if path.is_file() and not hidden and self._wanted(path.name, below):
                    yield below, _stamp(path.stat())
            return
        folders = [""]
        while folders:
            folder = folders.pop()
            try:
                with os.scandir(self.root / folder) as entries:
                    for entry in entries:
                        below = f"{folder}/{entry.name}" if folder else entry.name
                        if entry.is_dir(follow_symlinks=False):
                            if not entry.name.startswith("."):
                                folders.append(below)
                        elif self._wanted(entry.name, below):
                            with suppress(OSError):  # gone meanwhile
                                yield below, _stamp(entry.stat())
            except OSError as error:
                if not folder:
                    raise RoutectlError(f"{self.root}: cannot be read: {error.strerror}") from None
