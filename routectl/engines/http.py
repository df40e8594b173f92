"""One HTTP request to an engine: JSON in, bytes out, under one deadline.

The standard library's client, a connection a request: an answer takes seconds and a connection
milliseconds, and no request is lost to a kept connection that the server has closed meanwhile.
Proxies of the environment are not used: an engine is a machine of the same cluster.
"""

import http.client
import socket
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from ..errors import RoutectlError

__all__ = ["Address", "Line", "PassingError", "RefusedError", "Reply", "parse_address"]

_BLOCK = 1 << 16
_MAX_BYTES = 1000 << 20  # a line of a text dump holds 1 GiB
_CONNECT_S = 10.0


class PassingError(RoutectlError):
    """Trouble that may be gone at the next try; ``wait_s`` is what the server asks for, or None."""

    def __init__(self, message: str, wait_s: float | None = None) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class RefusedError(RoutectlError):
    """The server understood and said no; ``status`` is the HTTP status, 4xx."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is. ``prefix`` comes before every path; ``key`` is a bearer token or None."""

    secure: bool
    host: str
    port: int
    prefix: str = ""
    key: str | None = None

    def url(self, path: str) -> str:
        """The address of a path, without the key."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.secure else 'http'}://{host}:{self.port}{self.prefix}{path}"


def parse_address(url: str, key: str | None = None) -> Address:
    """The address in http://HOST:PORT; a path stays, the /v1 of OpenAI clients goes.

    Raises RoutectlError for anything else, and for a name or password in it.
    """
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port, host = parts.port, parts.hostname
    except ValueError:
        port = host = None
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise RoutectlError(f"{url}: no address of a server: expected http://HOST:PORT")
    if parts.username is not None:
        raise RoutectlError(f"{host}: a name or password in the address", hint="--api-key-file")
    secure = parts.scheme == "https"
    prefix = parts.path.rstrip("/").removesuffix("/v1")
    return Address(secure, host, port or (443 if secure else 80), prefix, key)


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server answered, as it sent it."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes


class Line:
    """Calls to one server, one at a time; ``hang_up`` from another thread ends them."""

    def __init__(self, address: Address, timeout_s: float) -> None:
        self._address, self._timeout_s = address, timeout_s
        self._socket: socket.socket | None = None
        self._ended = False

    def hang_up(self) -> None:
        """End the call that is under way, and refuse those after it."""
        self._ended = True
        if self._socket is not None:
            with suppress(OSError):  # it had ended
                self._socket.shutdown(socket.SHUT_RDWR)

    def call(self, path: str, body: bytes | None = None) -> Reply:
        """GET a path, or POST a JSON body to it, and read the whole answer.

        Raises PassingError where no whole answer came: no connection, none within the time, cut.
        """
        where = self._address.url(path)
        deadline = time.monotonic() + self._timeout_s
        kind = http.client.HTTPSConnection if self._address.secure else http.client.HTTPConnection
        connection = kind(
            self._address.host, self._address.port, timeout=min(_CONNECT_S, self._timeout_s)
        )
        try:
            connection.connect()
            self._socket = connection.sock
            if self._ended:
                raise PassingError(f"{where}: hung up")
            return self._exchange(connection, path, body, deadline)
        except ssl.SSLCertVerificationError as error:
            raise RoutectlError(f"{where}: certificate refused: {error.verify_message}") from None
        except TimeoutError:
            raise PassingError(f"{where}: no whole answer within {self._timeout_s:g} s") from None
        except http.client.IncompleteRead:
            raise PassingError(f"{where}: the answer is cut short") from None
        except http.client.HTTPException as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:100]
            raise PassingError(f"{where}: no HTTP answer: {reason}") from None
        except OSError as error:
            raise PassingError(f"{where}: {error.strerror or error}") from None
        finally:
            self._socket = None
            connection.close()

    def _exchange(
        self, connection: http.client.HTTPConnection, path: str, body: bytes | None, deadline: float
    ) -> Reply:
        sock = connection.sock
        sock.settimeout(max(0.001, deadline - time.monotonic()))
        headers = {"Accept": "application/json", "User-Agent": "routectl"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if self._address.key is not None:
            headers["Authorization"] = f"Bearer {self._address.key}"
        method = "GET" if body is None else "POST"
        connection.request(method, self._address.prefix + path, body, headers)
        with connection.getresponse() as response:
            blocks, size = [], 0
            while block := response.read1(_BLOCK):
                blocks.append(block)
                size += len(block)
                if size > _MAX_BYTES:
                    raise RoutectlError(f"{path}: an answer of more than {_MAX_BYTES} bytes")
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                sock.settimeout(left)
            if response.length:
                raise http.client.IncompleteRead(b"", response.length)
            return Reply(response.status, response.headers, b"".join(blocks))
