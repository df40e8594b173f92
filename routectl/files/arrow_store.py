"""Stores of pyarrow.fs: S3, Google Cloud Storage, Azure, HDFS.

S3 follows the variables that botocore documents where pyarrow does not: AWS_ENDPOINT_URL_S3 and
AWS_ENDPOINT_URL; a query may say endpoint_override, scheme and region, as in pyarrow's from_uri.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import IO, Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from ..errors import FormatError, RoutectlError, UnsupportedError, check_choice
from .parts import LARGEST_PUT, abort_parts, delete_object
from .stores import ObjectAbout, OpenObject, Root, hidden_beside, store_trouble

__all__ = ["ArrowStore"]

_FAILURES = (OSError, ValueError, pa.ArrowException)
_VERSIONS = ("ETag", "Version ID", "generation")  # of metadata, the first that tell versions
_SHOWN_BEFORE = ("abfs", "abfss", "hdfs", "viewfs")  # than it is whole
_KNOWN = ("endpoint_override", "region", "scheme")
_RETRY_S = 20  # of Google's storage
_BLOCK = 32 << 20  # bytes that are under way at once


class ArrowStore:
    """A bucket of S3 or Google, a container of Azure, a name node of HDFS."""

    def __init__(self, root: Root) -> None:
        self.root, self._is_there = root, False  # of its bucket: a missing one looks empty
        try:
            self._fs, self._base, self._endpoint = _opened(root)
        except RoutectlError:
            raise
        except (*_FAILURES, AttributeError, ImportError) as error:
            raise store_trouble(self._name(""), error) from None

    def _name(self, key: str) -> str:
        return f"{self.root.scheme}://{self.root.authority}/{key}".rstrip("/")

    def _path(self, key: str) -> str:
        if not key or not self._base:  # the root, or names below an account of Azure
            return key or self._base
        return f"{self._base.rstrip('/')}/{key}"

    def find(self, key: str, *, written: bool = False) -> ObjectAbout | None:
        """What stands at a key."""
        try:
            info = self._fs.get_file_info(self._path(key))
            if info.type == pafs.FileType.NotFound:
                self._refuse_no_bucket(key)
                return None
            self._is_there = True
        except _FAILURES as error:
            raise store_trouble(self._name(key), error, written=written) from None
        return _about(info)

    def _refuse_no_bucket(self, key: str) -> None:
        """Raise FormatError where the bucket itself is not there, as far as that may be asked."""
        bucket = self._base or key.partition("/")[0]
        if self._is_there or not bucket:
            return
        with suppress(*_FAILURES):
            if self._fs.get_file_info(bucket).type == pafs.FileType.NotFound:
                raise FormatError(f"{self._name(key)}: there is no bucket {bucket}")
            self._is_there = bool(self._base)

    def below(self, key: str, *, deep: bool) -> Iterator[tuple[str, ObjectAbout]]:
        """What stands in a folder."""
        chosen = pafs.FileSelector(self._path(key), allow_not_found=True, recursive=deep)
        try:
            for info in self._fs.get_file_info(chosen):
                yield info.path.removeprefix(self._base).strip("/"), _about(info)
        except _FAILURES as error:
            raise store_trouble(self._name(key), error) from None

    def open(self, key: str) -> OpenObject:
        """The object at a key."""
        name = self._name(key)
        try:
            file = self._fs.open_input_file(self._path(key))
            return _ArrowObject(file, name, _versioned(file))
        except FileNotFoundError:
            self.find(key)
            raise FormatError(f"{name}: cannot be read: no such object") from None
        except _FAILURES as error:
            raise store_trouble(name, error) from None

    def put(self, key: str, body: IO[bytes]) -> None:
        """One put, or of more than 10 MB parts that are completed; aborted where one fails.

        What a store would show while it comes (Azure: an empty blob, which takes the place of the
        one before) waits under another name, and takes its own when it is whole.
        """
        if self.root.scheme not in _SHOWN_BEFORE:
            self._send(self._path(key), key, body)
            return
        waiting = hidden_beside(key)
        try:
            self._send(self._path(waiting), key, body)
            self._take_name(self._path(waiting), self._path(key))
        except _FAILURES as error:
            raise store_trouble(self._name(key), error, written=True) from None
        finally:
            with suppress(RoutectlError):
                self.remove(waiting)

    def _send(self, path: str, key: str, body: IO[bytes]) -> None:
        """Write all of a file to a path of the file system. Raises RoutectlError."""
        block = body.read(_BLOCK)
        in_parts = self.root.scheme == "s3" and len(block) > LARGEST_PUT
        with abort_parts(*self._endpoint, path if in_parts else None) as keep:
            try:
                stream = keep(self._fs.open_output_stream(path))
                while block:
                    stream.write(block)
                    block = body.read(_BLOCK)
                    if block:
                        stream.flush()  # waits for the parts under way, and tells of failed ones
                stream.close()
            except _FAILURES as error:
                raise store_trouble(self._name(key), error, written=True) from None

    def _take_name(self, old: str, new: str) -> None:
        """Have what is at a path at another, at once, in place of what is there. Raises OSError."""
        try:
            self._fs.move(old, new)
        except NotImplementedError:  # Azure without hierarchical namespaces: its copy is one step
            self._fs.copy_file(old, new)

    def remove(self, key: str) -> None:
        """Remove an object; nothing where there is none.

        pyarrow leaves an empty object in place of the folder; botocore, where it is, does not.
        """
        if self.root.scheme == "s3" and delete_object(*self._endpoint, self._path(key)):
            return
        with suppress(FileNotFoundError):
            try:
                self._fs.delete_file(self._path(key))
            except FileNotFoundError:
                raise
            except _FAILURES as error:
                raise store_trouble(self._name(key), error, written=True) from None


class _ArrowObject:
    def __init__(self, file: Any, name: str, about: ObjectAbout) -> None:
        self._file, self._name, self.about = file, name, about

    def read(self, start: int, size: int) -> bytes:
        """So many bytes."""
        try:
            found: bytes = self._file.read_at(size, start)
        except _FAILURES as error:
            raise store_trouble(self._name, error) from None
        return found


def _versioned(file: Any) -> ObjectAbout:
    """What an open file says of itself. Raises OSError."""
    said = {k: v.decode("utf-8", "replace") for k, v in (file.metadata() or {}).items()}
    told = [said[name] for name in _VERSIONS if said.get(name)] or [said.get("Last-Modified")]
    return ObjectAbout(False, file.size(), None, " ".join(filter(None, told)) or None)


def _about(info: Any) -> ObjectAbout:
    mtime = info.mtime_ns if info.mtime is not None else None
    return ObjectAbout(info.type == pafs.FileType.Directory, info.size or 0, mtime)


def _opened(root: Root) -> tuple[Any, str, tuple[str | None, str | None]]:
    """The file system, the path in it of the store's root, and the endpoint and region of S3.

    Raises RoutectlError, OSError.
    """
    if root.scheme == "s3":
        said = _of_s3(root)
        host = said.get("endpoint_override")
        endpoint = None if host is None else f"{said.get('scheme', 'https')}://{host}"
        return pafs.S3FileSystem(**said), root.authority, (endpoint, said["region"])
    needed = {"gs": "Gcs", "gcs": "Gcs", "abfs": "Azure", "abfss": "Azure"}
    kind = needed.get(root.scheme, "Hadoop") + "FileSystem"
    try:
        getattr(pafs, kind)
    except (ImportError, AttributeError):
        raise UnsupportedError(
            f"{root.scheme}://: this pyarrow was built without {kind}: install one that has it"
        ) from None
    more = parse_qsl(root.query, keep_blank_values=True)
    if kind == "GcsFileSystem" and "retry_limit_seconds" not in dict(more):
        more.append(("retry_limit_seconds", str(_RETRY_S)))  # its own: 15 minutes, deaf to signals
    query = f"?{urlencode(more)}" if more else ""
    fs, base = pafs.FileSystem.from_uri(f"{root.scheme}://{root.authority}/{query}")
    return fs, base.rstrip("/") or base, (None, None)


def _of_s3(root: Root) -> dict[str, Any]:
    """How the file system of S3 is made: what the query says, else the variables do."""
    said = dict(parse_qsl(root.query, keep_blank_values=True))
    for name in said:
        check_choice(f"s3://{root.authority}?{name}=...:", name, _KNOWN)
    if not root.authority:
        raise RoutectlError("s3://: expected a bucket")
    named = [os.environ.get(name) for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")]
    ignored = os.environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true"
    endpoint = next(filter(None, named), None)
    if endpoint and not ignored and "endpoint_override" not in said:
        parts = urlsplit(endpoint if "://" in endpoint else f"https://{endpoint}")
        said |= {"endpoint_override": parts.netloc, "scheme": said.get("scheme", parts.scheme)}
    if "region" not in said:
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        if "endpoint_override" not in said:
            region = pafs.resolve_s3_region(root.authority)
        said["region"] = region or "us-east-1"
    return {**said, "allow_delayed_open": True}  # a small object is one put
