"""How long a capture waits for its server, what it says meanwhile, and how it is stopped."""

import json
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack

import pytest

from routectl.formats import open_dump
from support.capturing import FAST, QUIET, captured, one_prompt, prompts_file
from support.engine_server import DROP, HANG, EngineServer, error, recorded, reply, rollouts
from support.recordings import QWEN, SGLANG, VLLM
from support.shell import complaint

ROLLOUTS = {tuple(ids): outputs for ids, outputs in rollouts()}
BACK = ("--retries", 0, "--patience", 20)


def all_prompts(folder):
    """The ten prompts of SGLang's recorded rollouts."""
    return prompts_file(folder, *({"input_ids": list(ids)} for ids in ROLLOUTS))


def test_a_restart_is_outlasted(tmp_path, capsys):
    """A server that ends mid-run and comes back at its address a second later is gone on with."""
    target = tmp_path / "x.parquet"
    with ExitStack() as servers:
        first = EngineServer("sglang", ROLLOUTS, pace_s=0.05)
        first.__enter__()

        def restart():
            while len(first.posts) < 5:
                time.sleep(0.01)
            first.__exit__()
            time.sleep(1.0)
            port = first.http.server_port
            second = EngineServer("sglang", ROLLOUTS, port=port)
            second.given = first.given  # an engine gives no answer twice
            servers.enter_context(second)

        other = threading.Thread(target=restart)
        other.start()
        flags = ("--n", 2, "--concurrency", 2, *QUIET, *BACK)
        done = captured(capsys, first, all_prompts(tmp_path), target, *flags)
        other.join()
    assert done.code == 0, done.err
    assert len(open_dump(target)) == 20
    told = [line for line in done.err.splitlines() if "waiting for the server, " in line]
    assert 1 <= len(told) <= 2
    assert "again in 0.0 s" in told[0]


BUSY = {
    "refused": [DROP] * 9,
    "starting": [error(503, "loading")] * 9,
    "gateway": [error(502), error(504)] * 4,
    "limited": [error(429)] * 9,
}


@pytest.mark.parametrize("faults", BUSY.values(), ids=BUSY.keys())
def test_a_server_that_is_away_costs_no_tries(tmp_path, capsys, faults):
    """However often a server is away or busy, it is waited for; --retries counts other trouble."""
    with EngineServer("sglang", recorded(SGLANG, "generate_ids"), faults) as server:
        done = captured(capsys, server, one_prompt(tmp_path), tmp_path / "x.parquet", *QUIET, *BACK)
        assert done.code == 0, done.err
        assert len(server.posts) == len(faults) + 1
        server.faults[:] = [error(500, "broken")]
        done = captured(capsys, server, one_prompt(tmp_path), tmp_path / "y.parquet", *QUIET, *BACK)
    assert done.code == 2
    assert "500: broken; gave up after 1 try" in done.err


def test_patience_has_an_end(tmp_path, capsys):
    """A server that stays away for --patience seconds is given up."""
    begun = time.monotonic()
    with EngineServer("sglang", faults=[DROP] * 999) as server:
        flags = ("--patience", 0.3)
        done = captured(
            capsys, server, one_prompt(tmp_path), tmp_path / "x.parquet", *QUIET, *flags
        )
    assert done.code == 2
    assert "gave up after" in done.err
    assert 0.3 <= time.monotonic() - begun < 5


def test_patience_is_ten_minutes():
    """Unless told otherwise a server is waited for as long as a restart takes: ten minutes."""
    from pathlib import Path

    import routectl
    from routectl.engines.patience import Patience

    asked = routectl.CaptureRequest(url="u", prompts="p", save=Path("x.jsonl"))
    assert (asked.patience, Patience().outlast_s, Patience().longest_s) == (600.0, 600.0, 15.0)


@pytest.mark.parametrize("endpoint", [(), ("--endpoint", "generate"), ("--endpoint", "inference")])
def test_before_the_first_contact_patience_is_short(tmp_path, capsys, endpoint):
    """Where nobody answers from the start the run ends in seconds, whatever --patience is."""
    with EngineServer("none") as gone:
        pass
    flags = ("--prompts", one_prompt(tmp_path), "--save", tmp_path / "x.parquet", *QUIET)
    begun = time.monotonic()
    more = ("--patience", 600, *endpoint)
    said = complaint(capsys, "capture", gone.url, *flags, *more)
    assert "Connection refused; gave up after" in said
    assert "hint: start the engine with --enable-return-routed-experts: docs/live.md" in said
    assert time.monotonic() - begun < 5


def test_tries_are_said(tmp_path, capsys):
    """Each reason to send a request again is told on stderr, not oftener than every ten seconds."""
    faults = [error(500, "one"), error(500, "two"), DROP]
    with EngineServer("sglang", recorded(SGLANG, "generate_ids"), faults) as server:
        done = captured(capsys, server, one_prompt(tmp_path), tmp_path / "x.parquet", *QUIET, *FAST)
    assert done.code == 0, done.err
    told = [line for line in done.err.splitlines() if "; again in" in line]
    assert len(told) == 1
    assert "/generate: sample 0/0: 500: one; again in 0.0 s (try 2 of 4)" in told[0]


def test_a_wait_that_is_asked_for_fits_into_patience(tmp_path, capsys):
    """A Retry-After beyond what is left of --patience ends the run at once."""
    for wait, code in ((1, 0), (30, 2)):
        busy = error(503, "busy", Retry_After=wait)
        with EngineServer("sglang", recorded(SGLANG, "generate_ids"), [busy]) as server:
            flags = ("--patience", 2, *QUIET)
            target = tmp_path / f"{wait}.parquet"
            done = captured(capsys, server, one_prompt(tmp_path), target, *flags)
        assert done.code == code, done.err
    assert "503: busy; it asks to wait 30 s" in done.err


@pytest.mark.slow
@pytest.mark.parametrize("how", ["away", "hangs"])
def test_ctrl_c_ends_a_wait_at_once(tmp_path, how):
    """Ctrl-C ends a run that waits for a server that is gone, or for its answers, in no time."""
    faults = [None, *[DROP if how == "away" else HANG] * 99]
    with EngineServer("sglang", ROLLOUTS, faults) as server:
        flags = (
            "--prompts",
            all_prompts(tmp_path),
            "--save",
            tmp_path / "x.parquet",
            "--model",
            QWEN,
        )
        command = [sys.executable, "-m", "routectl", "capture", server.url, *flags]
        with subprocess.Popen(
            list(map(str, command)), stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                until = time.monotonic() + 60
                partial = tmp_path / "x.parquet.partial.jsonl"
                while not (partial.exists() and partial.read_bytes()):
                    assert time.monotonic() < until
                    time.sleep(0.02)
                time.sleep(1.0)
                assert process.poll() is None
                begun = time.monotonic()
                process.send_signal(signal.SIGINT)
                _, err = process.communicate(timeout=100)
                took = time.monotonic() - begun
            finally:
                process.kill()
        server.closing.set()
    assert (process.returncode, "Traceback" in err) == (130, False), err
    assert took < {"away": 12, "hangs": 60}[how], err  # the waits that it ends: 15 s and 600 s
    assert partial.exists()


LONG = "\n".join(
    ["Traceback (most recent call last):"]
    + [f'  File "a.py", line {n}, in call\n    return inner(x)' for n in range(40)]
    + ["ValueError: the KV cache has no room for 4096 tokens"]
)
SAID = {
    "traceback": (LONG.encode(), "ValueError: the KV cache has no room for 4096 tokens"),
    "traceback in a message": (
        json.dumps({"error": {"message": LONG}}).encode(),
        "ValueError: the KV cache has no room for 4096 tokens",
    ),
    "FastAPI": (
        b'{"detail":[{"loc":["body","top_p"],"msg":"Input should be a number","type":"x"}]}',
        "body.top_p: Input should be a number",
    ),
    "SGLang": (b'{"object":"error","message":"no such LoRA","type":"x"}', "no such LoRA"),
    "a word": (b'{"error":"Forbidden"}', "Forbidden"),
    "long": (
        json.dumps({"error": {"message": "a" * 999 + " because of b"}}).encode(),
        "because of b",
    ),
    "two lines": (
        b"{\"message\":\"1 validation error:\\n  {'loc': ('body', 'top_p')}\\n\\n"
        b'  File \\"/x/http_server.py\\", line 933, in generate_request\\n    POST /generate"}',
        "1 validation error: {'loc': ('body', 'top_p')}",
    ),
    "page": (
        b"<html><head><title>502 Bad Gateway</title><style>p {}</style></head>"
        b"<body><h1>502</h1><hr>nginx</body></html>",
        "a page: 502 Bad Gateway 502 nginx",
    ),
    "other JSON": (b'{"code": 7}', '{"code": 7}'),
    "nothing": (b"", "nothing"),
}


@pytest.mark.parametrize(("body", "said"), SAID.values(), ids=SAID.keys())
def test_the_line_that_says_why_is_kept(body, said):
    """Of an error answer its message is told: the last line of a traceback, the text of a page."""
    from routectl.engines.complaints import said_in

    found = said_in(body)
    assert found.endswith(said)
    assert "\n" not in found
    assert len(found) < 320


@pytest.mark.parametrize("body", [b"<script " * 200_000, b"<" * 2_000_000, b"\n" * 2_000_000])
def test_what_says_nothing_is_soon_read(body):
    """A page of open tags, and one of line breaks, is looked at in no time."""
    from routectl.engines.complaints import said_in

    begun = time.monotonic()
    assert len(said_in(body)) < 320
    assert time.monotonic() - begun < 5


HINTS = {
    "key": (("generate", "sglang"), (401, {"error": "Unauthorized"}), "--api-key-file FILE"),
    "forbidden": (("generate", "sglang"), (403, {"error": "Forbidden"}), "--api-key-file FILE"),
    "admin": (
        ("generate", "sglang"),
        (403, {"error": "This endpoint requires admin API key, but this server was started"}),
        "samples need no admin key",
    ),
    "scale-out": (
        ("inference", "vllm"),
        (403, (VLLM / "generate_tokens.response.json").read_text()),
        "--endpoint completions needs no such flag",
    ),
    "model": (
        ("completions", "vllm"),
        (404, {"error": {"message": "The model `m` does not exist."}}),
        "--request model=NAME",
    ),
    "path": (("generate", "sglang"), (404, {"detail": "Not Found"}), "--endpoint generate is"),
    "method": (("completions", "vllm"), (405, {"detail": "Method Not Allowed"}), "both's"),
    "bad": (("generate", "sglang"), (400, {"error": {"message": "too long"}}), "--skip-refused"),
}


@pytest.mark.parametrize(("where", "answer", "hint"), HINTS.values(), ids=HINTS.keys())
def test_hints_fit_the_refusal(tmp_path, capsys, where, answer, hint):
    """What to do is told by what the server says, not by its status alone."""
    status, said = answer
    body = said if isinstance(said, str) else json.dumps(said)
    with EngineServer(where[1], reply(body.encode(), status)) as server:
        flags = ("--endpoint", where[0], "--request", "model=m", *QUIET, *FAST)
        done = captured(capsys, server, one_prompt(tmp_path), tmp_path / "x.parquet", *flags)
    assert done.code == 2
    last = done.err.splitlines()[-1]
    assert last.startswith("hint: ")
    assert hint in last
    assert (where != ("inference", "vllm")) or "--api-key-file" not in done.err


def test_a_wrong_key_is_told_from_none(tmp_path, capsys):
    """With a key given the hint asks whether it is the server's."""
    key = tmp_path / "key"
    key.write_text("sesame")
    with EngineServer("sglang", error(401, "no")) as server:
        flags = (*QUIET, *FAST, "--api-key-file", key)
        done = captured(capsys, server, one_prompt(tmp_path), tmp_path / "x.parquet", *flags)
    assert done.err.endswith("hint: is the key in --api-key-file the server's?\n")
    assert "sesame" not in done.err
