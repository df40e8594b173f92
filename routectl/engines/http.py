"""One HTTP request to an engine: JSON in, bytes out, under one deadline.

The standard library's client, a connection a request: an answer takes seconds and a connection
milliseconds, and no request is lost to a kept connection that the server has closed meanwhile.
Proxies of the environment are not used: an engine is a machine of the same cluster.
"""

import http.client
import socket
import ssl
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from ..errors import RoutectlError

__all__ = ["Address", "Line", "PassingError", "RefusedError", "Reply", "parse_address"]

_BLOCK = 1 << 16
_MAX_BYTES = 1000 << 20  # a line of a text dump holds 1 GiB
_MAX_PAGE_BYTES = 16 << 20  # of a GET: what a server says of itself
_CONNECT_S = 10.0


class PassingError(RoutectlError):
    """Trouble that may be gone at the next try; ``wait_s`` is what the server asks for, or None.

    ``away``: nobody answers at the address, or only that the server is busy or starting, as while
    it restarts. Otherwise the server took the request and failed at it.
    """

    def __init__(self, message: str, wait_s: float | None = None, *, away: bool = False) -> None:
        super().__init__(message)
        self.wait_s, self.away = wait_s, away


class RefusedError(RoutectlError):
    """The server understood and said no; ``status`` is the HTTP status, 4xx."""

    def __init__(self, message: str, status: int, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
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
            _cut(self._socket)

    def call(self, path: str, body: bytes | None = None) -> Reply:
        """GET a path, or POST a JSON body to it, and read the whole answer.

        Raises PassingError where no whole answer came: no connection, none within the time, cut;
        RoutectlError for one that is too large and for a certificate that is refused.
        """
        where = self._address.url(path)
        begun = time.monotonic()
        connection = self._connect(where)
        late = threading.Event()
        # A timer, as headers and "100 Continue" may come for ever, a byte at a time.
        left_s = max(0.0, begun + self._timeout_s - time.monotonic())
        clock = threading.Timer(left_s, _end_late, (connection.sock, late))
        clock.daemon = True
        clock.start()
        broken: PassingError | None = None
        try:
            if self._ended:
                raise PassingError(f"{where}: hung up")
            reply = self._exchange(connection, path, body)
        except (OSError, http.client.HTTPException) as error:
            broken = _broken(error, where)
        finally:
            clock.cancel()
            self._socket = None
            connection.close()
        if self._ended:
            raise PassingError(f"{where}: hung up")
        if late.is_set():  # what was read until then may look whole
            raise PassingError(f"{where}: no whole answer within {self._timeout_s:g} s")
        if broken is not None:
            raise broken
        return reply

    def _connect(self, where: str) -> http.client.HTTPConnection:
        address, limit_s = self._address, min(_CONNECT_S, self._timeout_s)
        kind = http.client.HTTPSConnection if address.secure else http.client.HTTPConnection
        connection = kind(address.host, address.port, timeout=limit_s)
        try:
            connection.connect()
        except ssl.SSLCertVerificationError as error:
            raise RoutectlError(f"{where}: certificate refused: {error.verify_message}") from None
        except TimeoutError:
            raise PassingError(f"{where}: no connection within {limit_s:g} s", away=True) from None
        except OSError as error:
            raise PassingError(f"{where}: {error.strerror or error}", away=True) from None
        self._socket = connection.sock
        connection.sock.settimeout(None)
        return connection

    def _exchange(
        self, connection: http.client.HTTPConnection, path: str, body: bytes | None
    ) -> Reply:
        headers = {"Accept": "application/json", "User-Agent": "routectl"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if self._address.key is not None:
            headers["Authorization"] = f"Bearer {self._address.key}"
        method, most = ("GET", _MAX_PAGE_BYTES) if body is None else ("POST", _MAX_BYTES)
        connection.request(method, self._address.prefix + path, body, headers)
        with connection.getresponse() as response:
            blocks, size = [], 0
            while size + (response.length or 0) <= most and (block := response.read1(_BLOCK)):
                blocks.append(block)
                size += len(block)
            if size + (response.length or 0) > most:
                raise RoutectlError(
                    f"{self._address.url(path)}: {response.status}: an answer of more than "
                    f"{most >> 20} MiB: no engine's is so large"
                )
            if response.length:
                raise http.client.IncompleteRead(b"", response.length)
            return Reply(response.status, response.headers, b"".join(blocks))


def _cut(sock: socket.socket) -> None:
    with suppress(OSError):  # it had ended
        sock.shutdown(socket.SHUT_RDWR)


def _end_late(sock: socket.socket, late: threading.Event) -> None:
    late.set()
    _cut(sock)


def _broken(error: OSError | http.client.HTTPException, where: str) -> PassingError:
    """What a call that was cut short or went wrong on its way is told as."""
    if isinstance(error, http.client.RemoteDisconnected):
        return PassingError(f"{where}: no HTTP answer: {error}", away=True)
    if isinstance(error, http.client.IncompleteRead):
        return PassingError(f"{where}: the answer is cut short")
    if isinstance(error, http.client.HTTPException):
        reason = "".join(f"{type(error).__name__}: {error}".splitlines()[:1])[:100]
        return PassingError(f"{where}: no HTTP answer: {reason}")
    return PassingError(f"{where}: {error.strerror or error}", away=True)
