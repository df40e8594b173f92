"""A place: what a user names, a path of this machine or a URI; either is a ``pathlib.Path``.

``file://`` is a local path. Any other URI is a RemotePath: its names are taken apart as those of
paths are, and what stands there is asked of its store (stores.py). Whatever needs a file of this
machine says so in one line, because a RemotePath gives no file system path.
"""

import os
import re
import stat
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from functools import lru_cache
from glob import has_magic, iglob
from hashlib import blake2b
from pathlib import Path, PosixPath, PurePosixPath
from typing import Any
from urllib.parse import unquote

from ..errors import RoutectlError, UnsupportedError
from .stores import ObjectAbout, ObjectStore, OpenObject, Root

__all__ = [
    "RemotePath",
    "glob_places",
    "is_there",
    "is_uri",
    "local_only",
    "pinned",
    "place_of",
    "waiting_for",
]

_ARROW = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs")
_TOLD_S3 = (
    *("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"),
    *("AWS_REGION", "AWS_DEFAULT_REGION"),
)
_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://(.*)", re.DOTALL)
_QUERY = re.compile(r"\?(?=[\w.-]+=)")  # a ? that begins no name=value is a glob's
_PLAIN = ("endpoint_override", "region", "scheme")  # of a query, what is no secret


def is_uri(text: str) -> bool:
    """Whether a text is a URI, ``scheme://...``: no path of this machine."""
    return _URI.match(text) is not None


def place_of(text: str | os.PathLike[str]) -> Path:
    """The place that a text names.

    Raises RoutectlError for a URI that cannot be one, and for no text: that is the folder one is in
    to Path, and a variable without a value to who typed it.
    """
    if isinstance(text, RemotePath):
        return text
    text = os.fspath(text)
    if not text:
        raise RoutectlError(
            "got an empty path: a variable without a value?", hint="the folder is ."
        )
    found = _URI.fullmatch(text)
    if found is None:
        return Path(text)
    scheme, rest = found[1].lower(), found[2]
    if scheme == "file":
        host, slash, path = rest.partition("/")
        if host not in ("", "localhost") or not slash:
            raise RoutectlError(f"{text}: expected file:///PATH")
        return Path(slash + unquote(path))
    return _remote(scheme, rest)


def _remote(scheme: str, rest: str) -> "RemotePath":
    path, *queries = _QUERY.split(rest, maxsplit=1)
    authority, _, key = path.partition("/")
    user, at, host = authority.rpartition("@")
    if at and ":" in user:
        raise RoutectlError(
            f"{scheme}://...@{host}/{key}: a password in a URI: it would stand in reports",
            hint="give it as the scheme's own library finds it: docs/places.md",
        )
    key = key.removesuffix("/")
    names = key.split("/") if key else []
    if not authority and not names:
        raise RoutectlError(f"{scheme}://: expected a name behind it")
    if "" in names or "." in names or ".." in names:
        raise RoutectlError(f"{scheme}://{path}: got an empty name, . or .. between its slashes")
    return RemotePath(_store_of(scheme, authority, queries[0] if queries else ""), key)


def _store_of(scheme: str, authority: str, query: str) -> ObjectStore:
    """The store of a URI. Raises RoutectlError, one line that says what to install or to change."""
    told = tuple(os.environ.get(name) for name in _TOLD_S3) if scheme == "s3" else ()
    return _store(Root(scheme, authority, query), os.getpid(), told)


@lru_cache(64)
def _store(root: Root, _process: int, _told: tuple[str | None, ...]) -> ObjectStore:
    """s3, gs, abfs and hdfs are pyarrow.fs's, every other scheme is fsspec's, loaded here first.

    One is kept while the variables that lead to it are as they were. Connections are one
    process's: a forked one makes its own, and closes none.
    """
    if root.scheme in _ARROW:
        from .arrow_store import ArrowStore

        return ArrowStore(root)
    from .fsspec_store import FsspecStore

    return FsspecStore(root)


def is_there(text: str) -> bool:
    """Whether something stands at a place; of a local one a dangling link, too."""
    return place_of(text).exists() if is_uri(text) else os.path.lexists(text)


def local_only(path: Path, what: str) -> None:
    """Raise UnsupportedError for a URI; ``what`` says what has to be on this machine."""
    if isinstance(path, RemotePath):
        raise UnsupportedError(f"{path}: {what} is on this machine: expected a path, no URI")


def pinned(path: Path) -> Path:
    """The place, a remote one held to the object that is there now.

    Each read from it refuses an object that was put in its place since. Raises FormatError where it
    cannot be asked.
    """
    return path.pinned() if isinstance(path, RemotePath) else path


def waiting_for(output: Path, ending: str) -> Path:
    """Where what is to become ``output`` waits meanwhile: beside it, of a remote place here."""
    name = output.name
    if isinstance(output, RemotePath):
        digest = blake2b(str(output).encode("utf-8", "surrogateescape"), digest_size=4)
        return Path(f"{name}-{digest.hexdigest()}{ending}")
    return output.with_name(name + ending)


def glob_places(path: Path) -> Iterator[Path]:
    """What a path matches, its names taken as a glob's; of a remote one without any, nothing."""
    if not isinstance(path, RemotePath):
        yield from map(Path, iglob(str(path), recursive=True))
        return
    names = path.key.split("/")
    first = next((i for i, name in enumerate(names) if has_magic(name)), len(names))
    if first < len(names):
        folder = RemotePath(path.store, "/".join(names[:first]))
        yield from folder.glob("/".join(names[first:]))


def _matches(pattern: list[str], names: list[str]) -> bool:
    """Whether names match a glob: ** is any number of folders; * takes no hidden name."""
    if not pattern:
        return not names
    if pattern[0] == "**":
        skipped = next((i for i, name in enumerate(names) if name.startswith(".")), len(names))
        return any(_matches(pattern[1:], names[i:]) for i in range(skipped + 1))
    if not names or (names[0].startswith(".") and not pattern[0].startswith(".")):
        return False
    return fnmatchcase(names[0], pattern[0]) and _matches(pattern[1:], names[1:])


class RemotePath(PosixPath):
    """A path in a store: pathlib's names and questions; no file of this machine.

    store  where it is
    key    its names below the store's root, joined by slashes; "" is the root
    about  what stands there, once that is known; held to it where that says a version
    opened what pinned() opened, so that readers need not
    """

    store: ObjectStore
    key: str
    about: ObjectAbout | None
    opened: OpenObject | None

    def __new__(
        cls, store: ObjectStore, key: str, about: ObjectAbout | None = None
    ) -> "RemotePath":
        """A path by its store and key."""
        self = object.__new__(cls)
        self.store, self.key, self.about, self.opened = store, key, about, None
        return self

    def __init__(self, store: ObjectStore, key: str, about: ObjectAbout | None = None) -> None:
        """``__new__`` has done it: pathlib's own would parse the arguments as names."""

    def __reduce__(self) -> Any:
        return _again, (*self.store.root, self.key, self.about)

    def __fspath__(self) -> str:
        raise UnsupportedError(f"{self}: expected a path of this machine here, no URI")

    def __str__(self) -> str:
        shown = f"{self.store.root.scheme}://{self.store.root.authority}"
        query = [part for part in self.store.root.query.split("&") if part.startswith(_PLAIN)]
        return f"{shown}/{self.key}".rstrip("/") + ("?" + "&".join(query) if query else "")

    def __repr__(self) -> str:
        return f"RemotePath({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RemotePath):
            return False
        return (self.store.root, self.key) == (other.store.root, other.key)

    def __hash__(self) -> int:
        return hash((self.store.root, self.key))

    def __lt__(self, other: Any) -> bool:
        return self.parts < other.parts if isinstance(other, RemotePath) else str(self) < str(other)

    def __gt__(self, other: Any) -> bool:
        return self != other and not self < other

    def __le__(self, other: Any) -> bool:
        return not self > other

    def __ge__(self, other: Any) -> bool:
        return not self < other

    @property
    def _pure(self) -> PurePosixPath:
        return PurePosixPath(self.key)

    def _at(self, key: str | PurePosixPath) -> "RemotePath":
        return RemotePath(self.store, "" if str(key) == "." else str(key))

    def __truediv__(self, name: Any) -> "RemotePath":
        return self._at(self._pure / str(name))

    def joinpath(self, *names: Any) -> "RemotePath":
        """A path below."""
        return self._at(self._pure.joinpath(*map(str, names)))

    @property
    def name(self) -> str:
        """The last name; "" of a store's root."""
        return self._pure.name

    @property
    def suffix(self) -> str:
        """The last name's ending."""
        return self._pure.suffix

    @property
    def suffixes(self) -> list[str]:
        """The last name's endings."""
        return self._pure.suffixes

    @property
    def stem(self) -> str:
        """The last name without its ending."""
        return self._pure.stem

    @property
    def parent(self) -> "RemotePath":
        """The folder that it is in; of a store's root itself."""
        return self._at(self._pure.parent)

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of the key."""
        return self._pure.parts

    def with_name(self, name: str) -> "RemotePath":
        """Another one in the same folder."""
        return self._at(self._pure.with_name(name))

    def with_suffix(self, suffix: str) -> "RemotePath":
        """Another one in the same folder, of the same stem."""
        return self._at(self._pure.with_suffix(suffix))

    def is_relative_to(self, other: Any, *_: Any) -> bool:
        """Whether it is in a folder, at whatever depth, or is that itself."""
        same = isinstance(other, RemotePath) and self.store.root == other.store.root
        return same and self._pure.is_relative_to(other.key or ".")

    def relative_to(self, other: Any, *_: Any) -> PurePosixPath:  # type: ignore[override]
        """The names below a folder. Raises ValueError where it is not in it."""
        if not self.is_relative_to(other):
            raise ValueError(f"{self} is not in {other}")
        return self._pure.relative_to(other.key or ".")

    def is_absolute(self) -> bool:
        """True: a URI is whole."""
        return True

    def is_symlink(self) -> bool:
        """False: there are no links."""
        return False

    def resolve(self, strict: bool = False) -> "RemotePath":
        """Itself."""
        return self

    def absolute(self) -> "RemotePath":
        """Itself."""
        return self

    def pinned(self) -> "RemotePath":
        """The same, what is there now known, and held to that where it is an object."""
        held = RemotePath(self.store, self.key, self.find())
        if held.is_file():
            held.opened = self.store.open(self.key)
            held.about = held.opened.about
        return held

    def find(self) -> ObjectAbout | None:
        """What stands there; None for nothing. Raises FormatError where it cannot be asked."""
        return self.about or self.store.find(self.key)

    def exists(self, **_: Any) -> bool:
        """Whether anything stands there."""
        return self.find() is not None

    def is_file(self, **_: Any) -> bool:
        """Whether an object stands there."""
        found = self.find()
        return found is not None and not found.is_folder

    def is_dir(self, **_: Any) -> bool:
        """Whether objects stand below it."""
        found = self.find()
        return found is not None and found.is_folder

    def stat(self, **_: Any) -> os.stat_result:
        """Its kind, size and time. Raises FileNotFoundError."""
        found = self.find()
        if found is None:
            raise FileNotFoundError(2, "no such object", str(self))
        mode = stat.S_IFDIR if found.is_folder else stat.S_IFREG
        seconds = (found.mtime_ns or 0) // 10**9
        fields = (mode, 0, 0, 1, 0, 0, found.size, seconds, seconds, seconds)
        # a listing tells more digits of a time than the object itself
        return os.stat_result(fields, {"st_mtime_ns": seconds * 10**9})

    def iterdir(self) -> Iterator["RemotePath"]:  # type: ignore[override]
        """What stands in it."""
        for key, about in self.store.below(self.key, deep=False):
            yield RemotePath(self.store, key, about)

    def glob(self, pattern: str, **_: Any) -> Iterator["RemotePath"]:  # type: ignore[override]
        """What in it matches a glob."""
        yield from self._found(pattern.split("/"), _matches)

    def rglob(self, pattern: str, **_: Any) -> Iterator["RemotePath"]:  # type: ignore[override]
        """What in it, at whatever depth, matches a glob; hidden names, too."""
        yield from self._found([pattern], lambda one, names: fnmatchcase(names[-1], one[0]))

    def _found(
        self, pattern: list[str], matches: Callable[[list[str], list[str]], bool]
    ) -> Iterator["RemotePath"]:
        deep = matches is not _matches or len(pattern) > 1 or pattern == ["**"]
        for key, about in self.store.below(self.key, deep=deep):
            one = RemotePath(self.store, key, about)
            if matches(pattern, [*one.relative_to(self).parts]):
                yield one


def _again(
    scheme: str, authority: str, query: str, key: str, about: ObjectAbout | None
) -> RemotePath:
    return RemotePath(_store_of(scheme, authority, query), key, about)
