"""A server that never gives a whole answer: plain sockets in threads, each attack its bytes."""

import itertools
import shutil
import socket
import ssl
import subprocess
import threading
from contextlib import suppress

from support.engine_server import GETS, NOT_FOUND

__all__ = ["ATTACKS", "KNOWN", "HostileServer", "certificate"]

KNOWN = ("/model_info", "/get_model_info", "/server_info", "/get_server_info")
_OK = b"HTTP/1.1 200 OK\r\n"
_CHUNKED = _OK + b"Transfer-Encoding: chunked\r\n\r\n"


def _for_ever(head, more):
    """Some bytes, and then others for ever."""
    yield head
    yield from itertools.repeat(more)


# What is sent after a request, piece by piece, and the pause after each piece in seconds.
ATTACKS = {
    "nothing": (lambda: iter(()), 0.02),
    "a status line, slowly": (lambda: _for_ever(b"", b"H"), 0.02),
    "a reason, slowly": (lambda: _for_ever(b"HTTP/1.1 200 O", b"K"), 0.02),
    "a header, slowly": (lambda: _for_ever(_OK + b"X: ", b"y"), 0.02),
    "headers, slowly": (lambda: _for_ever(_OK, b"X: y\r\n"), 0.02),
    "headers in a flood": (lambda: _for_ever(_OK, b"X: " + b"y" * 60000 + b"\r\n"), 0),
    "100 Continue, slowly": (lambda: _for_ever(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), 0.02),
    "100 Continue in a flood": (lambda: _for_ever(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 2000), 0),
    "102 in a flood": (lambda: _for_ever(b"", b"HTTP/1.1 102 Processing\r\n\r\n" * 2000), 0),
    "a body, slowly": (lambda: _for_ever(_OK + b"Content-Length: 100000\r\n\r\n{", b" "), 0.02),
    "a body without an end": (lambda: _for_ever(_OK + b"\r\n{", b" "), 0.02),
    "less than Content-Length": (lambda: iter([_OK + b"Content-Length: 1000\r\n\r\n{}"]), 0.02),
    "a chunk's size, slowly": (lambda: _for_ever(_CHUNKED, b"0"), 0.02),
    "a chunk of 16 EB": (lambda: _for_ever(_CHUNKED + b"F" * 15 + b"\r\n{", b" "), 0.02),
    "a size of 64 kB": (lambda: iter([_CHUNKED + b"1" * 65000 + b"\r\n{"]), 0.02),
    "a chunk's extension, slowly": (lambda: _for_ever(_CHUNKED + b"1;", b"x"), 0.02),
    "a chunk below 0": (lambda: _for_ever(_CHUNKED + b"-5\r\n{", b" "), 0.02),
    "chunks of a byte, slowly": (lambda: _for_ever(_CHUNKED, b"1\r\n \r\n"), 0.02),
    "trailers, slowly": (lambda: _for_ever(_CHUNKED + b"2\r\n{}\r\n0\r\n", b"X: y\r\n"), 0.02),
    "trailers in a flood": (lambda: _for_ever(_CHUNKED + b"0\r\n", b"X: y\r\n" * 9000), 0),
    "events for ever": (
        lambda: _for_ever(_OK + b"Content-Type: text/event-stream\r\n\r\n", b"data: {}\n\n"),
        0.02,
    ),
}


class HostileServer:
    """Attacks every request except GETs of the paths in ``knows``, which a recorded SGLang has.

    ``tls`` is a folder with a certificate. ``slow_hello``: connections for TLS are taken, and the
    handshake comes a byte at a time; ``deaf``: requests are not read. ``requests`` holds the first
    line of each.
    """

    def __init__(self, attack, knows=(), *, tls=None, slow_hello=False, deaf=False):
        self.pieces, self.pace_s = ATTACKS[attack]
        self.knows, self.slow_hello, self.deaf, self.tls = knows, slow_hello, deaf, None
        if tls is not None:
            self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.tls.load_cert_chain(tls / "cert.pem", tls / "key.pem")
        self.requests, self.closing = [], threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        scheme = "https" if tls or slow_hello else "http"
        self.url = f"{scheme}://127.0.0.1:{self.listener.getsockname()[1]}"

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.closing.set()
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def _accept(self):
        with suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with suppress(OSError), connection:
            if self.slow_hello:
                self._send(connection, _for_ever(b"\x16\x03\x03\x40\0", b"\x02"))
            elif self.deaf:
                self.closing.wait(60)
            elif self.tls is not None:
                with self.tls.wrap_socket(connection, server_side=True) as secured:
                    self._answer(secured)
            else:
                self._answer(connection)

    def _answer(self, connection):
        method, path, _ = self._read(connection).split()
        if method != "GET" or path not in self.knows:
            self._send(connection, self.pieces())
            return
        status, body = b"404 Not Found", NOT_FOUND
        if path in GETS["sglang"]:
            status, body = b"200 OK", GETS["sglang"][path].read_bytes()
        head = b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n" % (status, len(body))
        connection.sendall(head + body)

    def _read(self, connection):
        """Read a request whole and return its first line."""
        stream = connection.makefile("rb")
        line, length = stream.readline().decode(), 0
        while (header := stream.readline()) not in (b"\r\n", b""):
            if header.lower().startswith(b"content-length:"):
                length = int(header.split(b":")[1])
        stream.read(length)
        self.requests.append(line)
        return line

    def _send(self, connection, pieces):
        for piece in pieces:
            connection.sendall(piece)
            if self.pace_s and self.closing.wait(self.pace_s):
                return
        self.closing.wait(60)


def certificate(folder):
    """A self-made certificate for 127.0.0.1 and its key, in a folder; None without openssl."""
    openssl = shutil.which("openssl")
    if openssl is None:
        return None
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run(command, check=True, capture_output=True)
    return folder
