"""One HTTP request to an engine: JSON in, bytes out, under one deadline.

The standard library's client, a connection a request: an answer takes seconds and a connection
milliseconds, and no request is lost to a kept connection that the server has closed meanwhile.
Proxies of the environment are not used: an engine is a machine of the same cluster.

The deadline stands below the client: each wait of its socket is for what is left of it, so that
headers, "100 Continue" or chunks that come a byte at a time end with the rest. Looking up the name,
connecting and TLS come out of the same time. urllib3 and httpx limit each read and not their sum:
above them the same clock would be needed.
"""

import http.client
import socket
import ssl
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

from ..errors import RoutectlError
from ..limits import limits
from .sockets import Clock, TimedSocket, connected, secured

__all__ = ["Address", "Allowance", "Line", "PassingError", "RefusedError", "Reply", "parse_address"]

_BLOCK = 1 << 16
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
    if not _is_plain(host) or not (_is_plain(parts.path) and parts.path.isascii()):
        raise RoutectlError(f"{url}: a character that no address has", hint="write it as %XX")
    if parts.username is not None:
        raise RoutectlError(f"{host}: a name or password in the address", hint="--api-key-file")
    secure = parts.scheme == "https"
    prefix = parts.path.rstrip("/").removesuffix("/v1")
    return Address(secure, host, port or (443 if secure else 80), prefix, key)


def _is_plain(text: str) -> bool:
    """Whether there are no spaces and no control characters in a part of an address."""
    return text.isprintable() and " " not in text


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server answered, as it sent it."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes


class Allowance:
    """What the answers under way may hold together, in bytes: shared by the lines of a crew."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._held, self._lock = 0, threading.Lock()

    def take(self, count: int) -> bool:
        """Count so many bytes more, or fewer where below 0; False where it is too many now."""
        with self._lock:
            self._held += count
            return self._held <= self.most


class Line:
    """Calls to one server, one at a time; ``hang_up`` from another thread ends them.

    An answer may have ``limits().answer`` bytes, as that is where the line is made, and all answers
    of lines with one ``allowance`` what it allows; an answer counts until its line's next call.
    """

    def __init__(
        self, address: Address, timeout_s: float, allowance: Allowance | None = None
    ) -> None:
        self._address, self._timeout_s = address, timeout_s
        self._most, self._allowance, self._held = limits().answer, allowance, 0
        self._tls: ssl.SSLContext | None = None
        self._socket: socket.socket | None = None
        self._ended = False

    def hang_up(self) -> None:
        """End the call that is under way, and refuse those after it."""
        self._ended = True
        sock = self._socket
        if sock is not None:
            with suppress(OSError):  # it had ended
                sock.shutdown(socket.SHUT_RDWR)

    def call(self, path: str, body: bytes | None = None, within_s: float | None = None) -> Reply:
        """GET a path, or POST a JSON body to it, and read the whole answer.

        It has the line's time, or ``within_s`` where that is less. Raises PassingError where no
        whole answer came: no connection, none within the time, cut; RoutectlError for one that is
        too large and for a certificate that is refused.
        """
        where = self._address.url(path)
        clock = Clock(self._timeout_s if within_s is None else min(self._timeout_s, within_s))
        self._count(-self._held, where)
        try:
            self._socket = self._connect(clock, where)
            if self._ended:
                raise PassingError(f"{where}: hung up")
            return self._exchange(TimedSocket(self._socket, clock), path, body)
        except (OSError, http.client.HTTPException) as error:
            if self._ended:
                raise PassingError(f"{where}: hung up") from None
            raise _broken(error, where, clock) from None
        finally:
            if self._socket is not None:
                self._socket.close()
                self._socket = None

    def _connect(self, clock: Clock, where: str) -> socket.socket:
        span = Clock(min(_CONNECT_S, clock.left_s()))
        host = self._address.host
        try:
            sock = connected(host, self._address.port, span)
            return secured(sock, host, self._context(), span) if self._address.secure else sock
        except ssl.SSLCertVerificationError as error:
            raise RoutectlError(f"{where}: certificate refused: {error.verify_message}") from None
        except TimeoutError:
            raise PassingError(
                f"{where}: no connection within {span.span_s:.3g} s", away=True
            ) from None
        except UnicodeError:
            raise RoutectlError(f"{where}: no name of a host") from None
        except OSError as error:
            raise PassingError(f"{where}: {error.strerror or error}", away=True) from None

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
            self._tls.set_alpn_protocols(["http/1.1"])
        return self._tls

    def _exchange(self, sock: TimedSocket, path: str, body: bytes | None) -> Reply:
        address = self._address
        headers = {"Accept": "application/json", "User-Agent": "routectl"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if address.key is not None:
            headers["Authorization"] = f"Bearer {address.key}"
        if address.secure:
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                address.host, address.port, context=self._context()
            )
        else:
            connection = http.client.HTTPConnection(address.host, address.port)
        connection.auto_open = 0
        connection.sock = cast(Any, sock)
        connection.request("GET" if body is None else "POST", address.prefix + path, body, headers)
        with connection.getresponse() as response:
            most = self._most if body is not None else min(self._most, _MAX_PAGE_BYTES)
            return self._read(response, address.url(path), most)

    def _read(self, response: http.client.HTTPResponse, where: str, most: int) -> Reply:
        """The answer whole, of at most so many bytes."""
        found = bytearray()  # a list of blocks of a byte each would be forty times as large
        while len(found) + (response.length or 0) <= most and (block := response.read1(_BLOCK)):
            found += block
            self._count(len(block), where)
        if len(found) + (response.length or 0) > most:
            raise RoutectlError(
                f"{where}: {response.status}: an answer of more than {_size_text(most)}",
                hint=None if most < self._most else f"--limit answer={_twice(most)} reads it",
            )
        if response.length:
            raise http.client.IncompleteRead(b"", response.length)
        return Reply(response.status, response.headers, bytes(found))

    def _count(self, count: int, where: str) -> None:
        """Note so many bytes more of an answer. Raises RoutectlError where all have too many."""
        self._held += count
        if self._allowance is not None and not self._allowance.take(count) and count > 0:
            most = self._allowance.most
            raise RoutectlError(
                f"{where}: the answers under way have more than {_size_text(most)} together",
                hint="--concurrency asks for fewer at once; "
                f"--limit answers={_twice(most)} reads them",
            )


def _size_text(count: int) -> str:
    return f"{count >> 20} MiB" if count % (1 << 20) == 0 else f"{count} bytes"


def _twice(count: int) -> str:
    """A size for --limit with room to spare."""
    return f"{-(-2 * count // 10**9)}GB"


def _broken(error: OSError | http.client.HTTPException, where: str, clock: Clock) -> PassingError:
    """What a call that was cut short or went wrong on its way is told as."""
    if isinstance(error, TimeoutError) and error.errno is None:
        return PassingError(f"{where}: no whole answer within {clock.span_s:.3g} s")
    if isinstance(error, http.client.RemoteDisconnected):
        return PassingError(f"{where}: no HTTP answer: {error}", away=True)
    if isinstance(error, http.client.IncompleteRead):
        return PassingError(f"{where}: the answer is cut short")
    if isinstance(error, http.client.HTTPException):
        reason = "".join(f"{type(error).__name__}: {error}".splitlines()[:1])[:100]
        return PassingError(f"{where}: no HTTP answer: {reason}")
    return PassingError(f"{where}: {error.strerror or error}", away=True)
