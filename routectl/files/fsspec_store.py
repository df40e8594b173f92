"""Stores of fsspec: every scheme that pyarrow.fs has not, where its package is installed."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Lock
from typing import IO, Any

from ..errors import FormatError, RoutectlError, UnsupportedError
from .stores import ObjectAbout, OpenObject, Root, hidden_beside, store_trouble

__all__ = ["FsspecStore"]

_FILE_SERVERS = ("ftp", "sftp", "ssh", "smb", "webdav", "webhdfs")  # no objects: a file grows
_BLOCK = 4 << 20
_VERSIONS = ("ETag", "etag", "VersionId", "version_id", "generation", "md5Hash", "md5")
_TIMES = ("mtime", "LastModified", "last_modified", "updated", "modified", "created")


class FsspecStore:
    """What fsspec opens for a scheme and an authority."""

    def __init__(self, root: Root) -> None:
        self.root = root
        self._one_at_a_time, kind = Lock(), _kind_of(root)
        with self._telling(""):  # host and port of ftp, say, are what the scheme takes from a URI
            self._fs = kind(**kind._get_kwargs_from_urls(f"{root.scheme}://{root.authority}/"))
        self._query = f"?{root.query}" if root.query else ""

    def _name(self, key: str) -> str:
        return f"{self.root.scheme}://{self.root.authority}/{key}".rstrip("/")

    def _path(self, key: str) -> str:
        path: str = self._fs._strip_protocol(self._name(key) + self._query)
        return path

    @contextmanager
    def _telling(self, key: str, *, written: bool = False) -> Iterator[None]:
        """What goes wrong, in one line; not that there is nothing, or no way to write."""
        try:
            yield
        except FileNotFoundError as error:
            cause = error.__cause__  # of http:// whatever went wrong is that there is no file
            absent = getattr(cause, "status", None) == 404
            if cause is None or absent or self.root.scheme not in ("http", "https"):
                raise
            raise store_trouble(self._name(key), cause, written=written) from None
        except (RoutectlError, NotImplementedError):
            raise
        except Exception as error:  # noqa: BLE001 - each scheme has errors of its own
            raise store_trouble(self._name(key), error, written=written) from None

    def find(self, key: str, *, written: bool = False) -> ObjectAbout | None:
        """What stands at a key."""
        with suppress(FileNotFoundError), self._telling(key, written=written):
            return _about(self._fs.info(self._path(key)))
        return None

    def below(self, key: str, *, deep: bool) -> Iterator[tuple[str, ObjectAbout]]:
        """What stands in a folder."""
        path, root, found = self._path(key), self._fs._strip_protocol(self._name("")), []
        inside = f"{self._fs._strip_protocol(self._name(key)).strip('/')}/"
        with suppress(FileNotFoundError), self._telling(key):
            if deep:
                found = list(self._fs.find(path, detail=True, withdirs=True).values())
            else:
                found = self._fs.ls(path, detail=True)
        for info in found:
            if info["name"].strip("/").startswith(inside):  # pages of https:// have other links
                found_key = info["name"].removeprefix(root).strip("/")
                sized = info["type"] == "directory" or info.get("size") is not None
                about = _about(info) if sized else self.find(found_key)
                if about is not None:
                    yield found_key, about

    def open(self, key: str) -> OpenObject:
        """The object at a key."""
        about = self.find(key)
        if about is None:
            raise FormatError(f"{self._name(key)}: cannot be read: no such object")
        return _FsspecObject(self, key, about)

    def bytes_of(self, key: str, start: int, end: int) -> bytes:
        """The bytes of a range. Raises FormatError, where a server gives no ranges, too."""
        try:
            with self._telling(key):
                found = self._range(self._path(key), start, end)
        except FileNotFoundError:
            raise FormatError(f"{self._name(key)}: cannot be read: no such object") from None
        if len(found) > end - start:
            raise FormatError(f"{self._name(key)}: cannot be read: its server gives no ranges")
        return found

    def _range(self, path: str, start: int, end: int) -> bytes:
        """The bytes of a range, or more where a server gives none. Raises what fsspec raises.

        A file server has one connection, and sshfs's cat_file gives the whole file.
        """
        if self.root.scheme not in _FILE_SERVERS:
            found: bytes = self._fs.cat_file(path, start=start, end=end)
        else:
            with self._one_at_a_time, self._fs.open(path) as stream:
                stream.seek(start)
                found = stream.read(end - start)
        return found

    def put(self, key: str, body: IO[bytes]) -> None:
        """Have an object there of all of a file; where a store shows what comes, by a rename."""
        try:
            with self._telling(key, written=True):
                with suppress(NotImplementedError):
                    self._fs.makedirs(os.path.dirname(self._path(key)), exist_ok=True)
                if self.root.scheme in _FILE_SERVERS:
                    self._put_renamed(key, body)
                else:
                    self._fs.put_file(f"/proc/self/fd/{body.fileno()}", self._path(key))
        except NotImplementedError:
            raise UnsupportedError(
                f"{self._name(key)}: cannot be written: {self.root.scheme}:// is for reading"
            ) from None
        except FileNotFoundError as error:
            raise store_trouble(self._name(key), error, written=True) from None

    def _put_renamed(self, key: str, body: IO[bytes]) -> None:
        """Write a file under another name, which then takes its own. Raises what fsspec raises."""
        waiting = hidden_beside(key)
        try:
            with self._fs.open(self._path(waiting), "wb") as stream:
                shutil.copyfileobj(body, stream, _BLOCK)
            with suppress(Exception):
                self._fs.mv(self._path(waiting), self._path(key))
            if self.find(waiting) is not None:  # a rename that replaces nothing, or none
                self.remove(key)
                self._fs.mv(self._path(waiting), self._path(key))
        finally:
            with suppress(RoutectlError):
                self.remove(waiting)

    def remove(self, key: str) -> None:
        """Remove an object; nothing where there is none, or nothing can be."""
        with suppress(FileNotFoundError, NotImplementedError), self._telling(key, written=True):
            self._fs.rm_file(self._path(key))


class _FsspecObject:
    def __init__(self, store: FsspecStore, key: str, about: ObjectAbout) -> None:
        self._store, self._key, self.about = store, key, about

    def read(self, start: int, size: int) -> bytes:
        """So many bytes."""
        return self._store.bytes_of(self._key, start, start + size)


def _about(info: dict[str, Any]) -> ObjectAbout:
    """What fsspec says of an object. Raises ValueError where it has no size."""
    if info["type"] == "directory":
        return ObjectAbout(True)
    if info.get("size") is None:
        raise ValueError("its server says no size")
    told = [info.get(name) for name in _VERSIONS] + [info.get(name) for name in _TIMES]
    version = next((str(one) for one in told if one is not None), None)
    return ObjectAbout(False, int(info["size"]), None, version)


def _kind_of(root: Root) -> Any:
    """The class of file systems of fsspec. Raises UnsupportedError that says what to install."""
    try:
        import fsspec
    except ImportError:
        raise UnsupportedError(
            f"{root.scheme}://: read through fsspec, which is not installed: pip install fsspec"
        ) from None
    try:
        return fsspec.get_filesystem_class(root.scheme)
    except ImportError as error:
        raise UnsupportedError(f"{root.scheme}://: its package is not installed: {error}") from None
    except ValueError:
        raise UnsupportedError(
            f"{root.scheme}://: not known: expected s3, gs, abfs, hdfs, or a scheme of fsspec "
            "whose package is installed",
            hint="a package that registers it with fsspec, or a local path",
        ) from None
