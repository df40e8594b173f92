"""Stores: what is behind a URI's scheme, as pyarrow.fs (arrow_store.py) or fsspec
(fsspec_store.py) has it.

Both find credentials themselves; none is read here, and none is told: messages
have no query of a URL, and of the libraries' own a line that is not understood alone.
"""

import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, NamedTuple, Protocol

from ..errors import FormatError, RoutectlError

__all__ = ["ObjectAbout", "ObjectStore", "OpenObject", "Root", "hidden_beside", "store_trouble"]

_LONGEST = 150  # characters of a library's message


class Root(NamedTuple):
    """What a store is of: scheme, authority (a bucket, a host) and the query behind ``?``."""

    scheme: str
    authority: str
    query: str


@dataclass(frozen=True, slots=True)
class ObjectAbout:
    """What stands at a key.

    version tells this object from one that is put in its place: an ETag, a generation, else a time;
    None where it was listed only, or the store says none.
    """

    is_folder: bool
    size: int = 0
    mtime_ns: int | None = None
    version: str | None = None


class OpenObject(Protocol):
    """An object that is open to be read by ranges, by several threads at once."""

    @property
    def about(self) -> ObjectAbout:
        """What it was when it was opened."""

    def read(self, start: int, size: int) -> bytes:
        """So many bytes, less at its end. Raises FormatError."""


class ObjectStore(Protocol):
    """A bucket, a container, a host. What goes wrong is a FormatError, of writes a RoutectlError;
    keys are names joined by slashes.
    """

    root: Root

    def find(self, key: str, *, written: bool = False) -> ObjectAbout | None:
        """What stands at a key: an object, a folder (keys below it), or None. ``written``: asked
        before something is written there, which is what an error says could not be.
        """

    def below(self, key: str, *, deep: bool) -> Iterator[tuple[str, ObjectAbout]]:
        """What stands in a folder, or with ``deep`` at whatever depth, in no order."""

    def open(self, key: str) -> OpenObject:
        """The object at a key."""

    def put(self, key: str, body: IO[bytes]) -> None:
        """Have an object there of all of ``body``, a file of this machine: whole or not at all."""

    def remove(self, key: str) -> None:
        """Remove an object."""


def hidden_beside(key: str) -> str:
    """A key in the same folder that nothing has; no glob finds it."""
    folder, slash, name = key.rpartition("/")
    return f"{folder}{slash}.{name}.{secrets.token_hex(6)}.tmp"


_QUERY = re.compile(r"(\w://[^\s'\"?]*)\?[^\s'\"]*")
_NOISE = re.compile(r"google::cloud::Status\(|with a last message of |Request ID:.*| error_info=.*")
_WORDS = (  # what libraries say, and what that is
    (r"NO_SUCH_BUCKET|NoSuchBucket|ContainerNotFound", "there is no such bucket"),
    (r"HTTP status 503|SLOW_DOWN|SERVICE_UNAVAILABLE", "the server has no time (503), asked often"),
    (r"INVALID_ACCESS_KEY|INVALID_CLIENT_TOKEN|SIGNATURE_DOES", "the credentials are refused"),
    (r"ACCESS_DENIED|Forbidden|HTTP status 40[13]", "access is denied: no credentials, or others"),
    (r"OAuth2 access token|AuthenticationException", "no credentials were found"),
    (r"AuthorizationFailure|AuthenticationFailed", "the credentials are refused"),
    (
        r"NETWORK_CONNECTION|curlCode|CURL error|new connection|resolve host",
        "the connection failed or was cut",
    ),
)


def _what(text: str) -> str:
    """A library's message without where and in which of its operations."""
    return re.sub(r"^When .*?: (?=AWS Error)| during \w+ operation", "", text)


def store_trouble(
    where: str, error: BaseException, *, written: bool = False
) -> FormatError | RoutectlError:
    """What a library says, as the error of a place: one line, in our words where they are known,
    else its own, without queries of URLs.
    """
    text = str(error).strip() or type(error).__name__
    text = _NOISE.sub("", _QUERY.sub(r"\1", text.splitlines()[0]))
    words = next((words for pattern, words in _WORDS if re.search(pattern, text)), None)
    curl = re.search(r"curlCode: \d+, (.*)", text)
    more = f": {curl[1]}" if curl else ""
    text = (_what(text) if words is None else f"{words}{more}")[:_LONGEST]
    if written:
        return RoutectlError(f"{where}: cannot be written: {text}")
    return FormatError(f"{where}: cannot be read: {text}")
