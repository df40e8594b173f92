"""Time: a request ends within --timeout, and a run within what its options say."""

import gzip
import math
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from routectl.engines.http import Line, PassingError, parse_address
from routectl.engines.patience import GaveUpError, Patience
from routectl.engines.probing import probing
from routectl.errors import RoutectlError
from routectl.jobs.capture import CaptureRequest, capture_rollouts
from support.capturing import one_prompt
from support.engine_server import HANG, EngineServer, reply
from support.hostile_server import ATTACKS, KNOWN, HostileServer, certificate
from support.shell import written

TIMEOUT_S = 0.6
SLACK_S = 2.5  # of a machine with other things to do; without a deadline none of these ends
SLOW = [name for name, (_, pace_s) in ATTACKS.items() if pace_s]
FLOODS = [name for name, (_, pace_s) in ATTACKS.items() if not pace_s]


def ended(function):
    """How a call ended, and after how many seconds."""
    begun, error = time.monotonic(), None
    try:
        function()
    except RoutectlError as raised:
        error = raised
    return SimpleNamespace(error=error, took_s=time.monotonic() - begun)


def called(attack, body=b"{}", timeout_s=TIMEOUT_S, **how):
    """How one request to an attacking server ends."""
    with HostileServer(attack, **how) as server:
        line = Line(parse_address(server.url), timeout_s)
        return ended(lambda: line.call("/generate", body))


def test_each_slow_answer_ends_within_the_timeout():
    """Whatever comes a byte at a time, a request ends with its time, not with its bytes."""
    with ThreadPoolExecutor(len(SLOW)) as pool:
        found = dict(zip(SLOW, pool.map(called, SLOW), strict=True))
    for attack, end in found.items():
        assert isinstance(end.error, PassingError), attack
        assert "no whole answer within 0.6 s" in str(end.error), attack
        assert TIMEOUT_S <= end.took_s < TIMEOUT_S + SLACK_S, attack


@pytest.mark.parametrize("attack", FLOODS)
def test_each_flood_ends_within_the_timeout(attack):
    """Headers, interim answers and trailers as fast as they can be sent end with the time, too."""
    end = called(attack)
    assert end.took_s < TIMEOUT_S + SLACK_S
    if attack == "102 in a flood":
        assert end.error is None  # a status that ends no answer: said as that
    else:
        assert isinstance(end.error, PassingError)


def test_a_get_ends_within_the_timeout():
    """What is asked by GET has the same end."""
    end = called("a header, slowly", body=None)
    assert "no whole answer within 0.6 s" in str(end.error)
    assert end.took_s < TIMEOUT_S + SLACK_S


def test_a_request_that_is_not_read_ends_within_the_timeout():
    """A body larger than the buffers on its way, to a server that does not read, ends in time."""
    end = called("nothing", body=b" " * (32 << 20), deaf=True)
    assert "no whole answer within 0.6 s" in str(end.error)
    assert end.took_s < TIMEOUT_S + SLACK_S


def test_a_slow_handshake_ends_within_the_timeout():
    """TLS that is said hello to a byte at a time is no connection."""
    end = called("nothing", slow_hello=True)
    assert "no connection within 0.6 s" in str(end.error)
    assert end.took_s < TIMEOUT_S + SLACK_S


def test_tls_has_the_same_end(tmp_path, monkeypatch):
    """Over TLS a slow answer ends in time; a certificate that nobody vouches for is refused."""
    folder = certificate(tmp_path)
    if folder is None:
        pytest.skip("no openssl to make a certificate with")
    end = called("a status line, slowly", tls=folder)
    assert "certificate refused: self-signed certificate" in str(end.error)
    monkeypatch.setenv("SSL_CERT_FILE", str(folder / "cert.pem"))
    for attack in ("a status line, slowly", "a body, slowly", "100 Continue in a flood"):
        end = called(attack, tls=folder)
        assert "no whole answer within 0.6 s" in str(end.error)
        assert end.took_s < TIMEOUT_S + SLACK_S


def test_a_name_that_is_not_looked_up_ends_within_the_timeout(monkeypatch):
    """A resolver that does not answer has no more time than a server."""
    answer = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer.wait(30) and [])
    end = ended(lambda: Line(parse_address("http://engine:1"), TIMEOUT_S).call("/generate", b"{}"))
    answer.set()
    assert "no connection within 0.6 s" in str(end.error)
    assert end.took_s < TIMEOUT_S + SLACK_S


def test_a_silent_address_leaves_time_for_the_next(monkeypatch):
    """Of several addresses of a name each has its share: one that drops packets is passed over."""
    with (
        EngineServer("sglang") as server,
        socket.create_server(("127.0.0.1", 0), backlog=0) as mute,
    ):
        port = mute.getsockname()[1]
        fill = [socket.socket() for _ in range(8)]
        for one in fill:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        time.sleep(0.1)
        about = (socket.AF_INET, socket.SOCK_STREAM, 0, "")
        live = ("127.0.0.1", server.http.server_port)
        places = [(*about, ("127.0.0.1", port)), (*about, live)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: places)
        begun = time.monotonic()
        got = Line(parse_address("http://engine:1"), 3.0).call("/get_model_info")
        for one in fill:
            one.close()
    assert got.status == 200
    assert 1.0 < time.monotonic() - begun < 1.0 + 2.5


def test_an_answer_that_is_compressed_stays_so():
    """A gigabyte of zeros in a megabyte is a megabyte: nothing is inflated."""
    packed = gzip.compress(b"\0" * (1 << 26), 1)
    with EngineServer("sglang", reply(packed, Content_Encoding="gzip")) as server:
        got = Line(parse_address(server.url), 20.0).call("/generate", b"{}")
    assert got.body == packed


def whole_run(folder, attack, timeout_s, knows, retries=0, backoff=0.01):
    """How a capture from an attacking server ends."""
    folder.mkdir()
    with HostileServer(attack, knows) as server:
        request = CaptureRequest(
            url=server.url,
            prompts=str(one_prompt(folder)),
            save=folder / "x.jsonl",
            timeout=timeout_s,
            retries=retries,
            patience=0.0,
            backoff=backoff,
        )
        end = ended(lambda: capture_rollouts(request))
    assert written(folder) == ["prompts.jsonl"]
    end.posts = sum(line.startswith("POST") for line in server.requests)
    return end


@pytest.mark.parametrize("knows", [(), KNOWN, KNOWN[:2]], ids=["never", "all", "some"])
def test_a_whole_run_ends(tmp_path, knows):
    """A run without retries or patience ends in its timeout and the seconds for the server's name.

    Whether the server attacks from the first GET on, or after it has told all or some of itself.
    """
    runs = [(tmp_path / str(i), attack, 1.0, knows) for i, attack in enumerate(SLOW)]
    with ThreadPoolExecutor(len(runs)) as pool:
        found = list(pool.map(lambda run: whole_run(*run), runs))
    for attack, end in zip(SLOW, found, strict=True):
        assert end.error is not None, attack
        assert end.took_s < 1.0 + 1.0 + 2 * SLACK_S, attack
        assert end.posts == bool(knows), attack


def test_a_run_with_retries_ends_as_the_options_say(tmp_path):
    """Each try has --timeout; they end with the last of --retries."""
    end = whole_run(tmp_path / "x", "a status line, slowly", 0.5, KNOWN, retries=2)
    assert end.posts == 3
    assert "no whole answer within 0.5 s; gave up after 3 tries" in str(end.error)
    assert 1.5 <= end.took_s < 1.5 + 1.0 + SLACK_S


def test_what_a_server_tells_of_itself_has_seconds_in_all():
    """Questions about the server share a quarter of --timeout, and the wait for it comes beside."""
    with HostileServer("nothing") as server:
        address = parse_address(server.url)
        ask = probing(address, 4.0, Patience(1, 0.05, outlast_s=0.2))
        begun = time.monotonic()
        for path in KNOWN:
            with pytest.raises(GaveUpError):
                ask(path)
        assert time.monotonic() - begun < 1.2 + SLACK_S
    assert len(server.requests) == 2  # the second within what the wait left


def test_no_try_begins_after_the_whole_time():
    """With an end of all tries, none begins after it."""
    from routectl.engines.patience import patiently

    tries = []

    def attempt():
        tries.append(time.monotonic())
        raise PassingError("away", away=True)

    patience = Patience(9, 0.05, outlast_s=math.inf, whole_s=0.3)
    with pytest.raises(GaveUpError, match="away; no time for another try"):
        patiently(attempt, patience, threading.Event())
    assert 2 <= len(tries) <= 5
    assert tries[-1] - tries[0] <= 0.3


def test_a_server_that_hangs_at_the_end_of_a_run_ends_it(tmp_path):
    """A server that goes silent between samples ends the run within one more timeout."""
    with EngineServer("sglang", faults=[HANG] * 9) as server:
        request = CaptureRequest(
            url=server.url,
            prompts=str(one_prompt(tmp_path)),
            save=tmp_path / "x.jsonl",
            n=8,
            timeout=0.5,
            retries=0,
        )
        end = ended(lambda: capture_rollouts(request))
        server.closing.set()
    assert "no whole answer within 0.5 s; gave up after 1 try" in str(end.error)
    assert end.took_s < 0.5 + 2 * SLACK_S
