"""A socket whose every wait is part of one span of time: looking up, connecting, TLS, bytes."""

import io
import queue
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from typing import Any

__all__ = ["Clock", "TimedSocket", "connected", "secured"]

_SEND_BYTES = 1 << 18


class Clock:
    """A span of time that runs from now on."""

    def __init__(self, span_s: float) -> None:
        self.span_s = span_s
        self._end = time.monotonic() + span_s

    def left_s(self) -> float:
        """What is left of it, above 0. Raises TimeoutError: nothing is."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        return left


def _looked_up(host: str, port: int, clock: Clock) -> Sequence[Any]:
    """The addresses of a name, as ``socket.getaddrinfo`` has them, which knows no time-out.

    Raises OSError, of which TimeoutError is one, and UnicodeError for what is no name.
    """
    found: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            found.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            found.put(error)

    threading.Thread(target=look_up, daemon=True).start()
    try:
        answer = found.get(timeout=clock.left_s())
    except queue.Empty:
        raise TimeoutError("timed out") from None
    if isinstance(answer, Exception):
        raise answer
    return list(answer)


def connected(host: str, port: int, clock: Clock) -> socket.socket:
    """A connection to the first address of a host that takes one, each given its share of the time.

    Raises OSError, of which TimeoutError is one, and UnicodeError for what is no name of a host.
    """
    places = _looked_up(host, port, clock)
    trouble: OSError = OSError(f"{host} has no address")
    for i, (family, kind, protocol, _, place) in enumerate(places):
        found = None
        try:
            found = socket.socket(family, kind, protocol)
            found.settimeout(clock.left_s() / (len(places) - i))
            found.connect(place)
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return found
        except OSError as error:
            trouble = error
            if found is not None:
                found.close()
    raise trouble


def secured(sock: socket.socket, host: str, context: ssl.SSLContext, clock: Clock) -> socket.socket:
    """TLS over a connection. Raises OSError, of which TimeoutError and ssl.SSLError are some."""
    try:
        sock.settimeout(clock.left_s())  # of a handshake as a whole
        return context.wrap_socket(sock, server_hostname=host)
    except BaseException:
        sock.close()
        raise


class _Incoming(io.RawIOBase):
    """What a socket receives, as a raw stream."""

    def __init__(self, sock: socket.socket, clock: Clock) -> None:
        self._socket, self._clock = sock, clock

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._socket.settimeout(self._clock.left_s())
        return self._socket.recv_into(buffer)


class TimedSocket:
    """A connection as ``http.client`` uses one, each wait for no longer than a clock has left.

    Raises TimeoutError where it has nothing left. Who made the socket closes it.
    """

    def __init__(self, sock: socket.socket, clock: Clock) -> None:
        self._socket, self._clock = sock, clock

    def sendall(self, data: bytes) -> None:
        """Send some bytes."""
        with memoryview(data) as view:
            for first in range(0, len(view), _SEND_BYTES):
                self._socket.settimeout(self._clock.left_s())
                self._socket.sendall(view[first : first + _SEND_BYTES])

    def makefile(self, mode: str) -> io.BufferedReader:
        """What is received, as a stream."""
        assert mode == "rb"
        return io.BufferedReader(_Incoming(self._socket, self._clock))

    def close(self) -> None:
        """Nothing: an answer is read after its client has let go of the connection."""
