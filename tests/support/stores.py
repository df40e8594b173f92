"""A real S3 server on the loopback, and a proxy before it that counts bytes and breaks things."""

import http.client
import http.server
import logging
import threading
import urllib.request
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count

import pytest

__all__ = ["Bucket", "Proxy", "Server", "bucket", "s3_server"]


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _body(self):
        """The body of a request, chunked as the AWS SDK sends it."""
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        del self.headers["Transfer-Encoding"]
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _pass(self):
        proxy, body = self.server.proxy, self._body()
        request = Request(self.command, self.path, self.headers.get("Range"))
        proxy.requests.append(request)
        fault = proxy.fault(request)
        if fault == 503:
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        server = http.client.HTTPConnection(*proxy.behind)
        server.request(self.command, self.path, body, dict(self.headers))
        answer = server.getresponse()
        data = answer.read()
        server.close()
        request.moved = len(data)
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        self.send_header("Content-Length", answer.getheader("Content-Length") or str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if fault == "cut" else data)
        if fault == "cut":
            self.close_connection = True

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass

    def log_message(self, *_):
        """Say nothing."""


@dataclass
class Request:
    """One request: its method, path with query, and range; ``moved`` are bytes of the answer."""

    method: str
    path: str
    range: str | None
    moved: int = 0


@dataclass
class Proxy:
    """What stands between a client and the server; ``fault`` says how a request fails."""

    behind: tuple[str, int]
    fault: Callable[[Request], object] = lambda _: None
    requests: list[Request] = field(default_factory=list)

    def __post_init__(self):
        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._http.daemon_threads = True
        self._http.proxy = self
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()
        self.endpoint = f"http://127.0.0.1:{self._http.server_address[1]}"

    @property
    def moved(self):
        """Bytes of all answers."""
        return sum(request.moved for request in self.requests)

    def close(self):
        """Stop."""
        self._http.shutdown()
        self._http.server_close()


class Server:
    """moto's server: S3 in this process, asked over HTTP; ``client`` is botocore's."""

    def __init__(self):
        server = pytest.importorskip("moto.server")
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        session = pytest.importorskip("botocore.session")
        self._server = server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        self._server.start()
        self.address = self._server.get_host_and_port()
        self.endpoint = f"http://{self.address[0]}:{self.address[1]}"
        self.client = session.get_session().create_client(
            "s3",
            region_name="us-east-1",
            endpoint_url=self.endpoint,
            aws_access_key_id="key",
            aws_secret_access_key="secret",
        )

    def close(self):
        """Stop."""
        self._server.stop()

    @contextmanager
    def wanting_credentials(self):
        """A server that answers to nobody whom it does not know."""
        from moto import settings

        held = settings.INITIAL_NO_AUTH_ACTION_COUNT
        reset = self.endpoint + "/moto-api/reset-auth"
        plain = {"Content-Type": "text/plain"}
        for number in (0, held):
            body = str(number).encode()
            urllib.request.urlopen(urllib.request.Request(reset, body, plain)).close()
            if not number:
                yield


_NUMBERS = count()


@dataclass
class Bucket:
    """A bucket of its own for a test, asked through a proxy."""

    client: object
    name: str
    proxy: Proxy

    def __truediv__(self, key):
        return f"s3://{self.name}/{key}"

    def put(self, key, source):
        """Have bytes there, or those of a file; returns the URI."""
        body = source if isinstance(source, bytes) else source.read_bytes()
        self.client.put_object(Bucket=self.name, Key=key, Body=body)
        return self / key

    def put_folder(self, key, folder):
        """Have all files below a folder there, by their relative names; returns the URI."""
        for path in folder.rglob("*"):
            if path.is_file():
                self.put(f"{key}/{path.relative_to(folder).as_posix()}", path)
        return self / key

    def keys(self):
        """All keys."""
        found = self.client.list_objects_v2(Bucket=self.name).get("Contents", ())
        return sorted(one["Key"] for one in found)

    def bytes(self, key):
        """The bytes of an object."""
        return self.client.get_object(Bucket=self.name, Key=key)["Body"].read()

    def parts(self):
        """Uploads that were begun and neither completed nor aborted."""
        return self.client.list_multipart_uploads(Bucket=self.name).get("Uploads", [])


@pytest.fixture(scope="session")
def s3_server():
    """One server for all tests of a process; skipped where moto is not installed."""
    server = Server()
    yield server
    server.close()


@pytest.fixture
def bucket(s3_server, monkeypatch):
    """A new bucket, and the variables that lead to it."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "topsecret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    proxy = Proxy(s3_server.address)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    name = f"dumps-{next(_NUMBERS)}"
    s3_server.client.create_bucket(Bucket=name)
    yield Bucket(s3_server.client, name, proxy)
    proxy.close()
