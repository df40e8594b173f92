"""Answers that no engine gives: too large, without an end, of another kind, round in circles."""

import json
import time

import pytest

from routectl.engines import http
from routectl.errors import RoutectlError
from support.capturing import FAST, QUIET, captured, one_prompt
from support.engine_server import (
    CONTINUES,
    ENDLESS,
    HANG,
    HEADERS,
    EngineServer,
    error,
    recorded,
    reply,
)
from support.recordings import QWEN, SGLANG, read_text
from support.shell import complaint, run, written

SSE = (SGLANG / "generate_stream.response.sse").read_bytes()
ONCE = ("--retries", 0, *FAST[2:])
STRANGE = {
    "a stream": (reply(SSE, kind="text/event-stream"), "a stream of events, expected JSON"),
    "a page": (
        reply(b"<!doctype html><title>Sign in</title><p>Who are you?", kind="text/html"),
        "a page that says 'Sign in Who are you?', expected JSON",
    ),
    "compressed": (
        reply(b"\x1f\x8b\x08\0 ", Content_Encoding="gzip"),
        "compressed, which was not asked for",
    ),
    "text": (reply(b"OK", kind="text/plain"), "got 'OK', expected JSON"),
    "itself": (reply(b"", 307, Location="/generate"), "307: redirected to itself, for ever"),
    "elsewhere": (
        reply(b"", 308, Location="http://other:1/generate"),
        "308: redirected to http://other:1/generate\nhint: name that address",
    ),
    "nowhere": (reply(b"", 302), "302: redirected, it does not say where to"),
    "page of a gateway": (
        reply(b"<html><title>413 Request Entity Too Large</title></html>", 413),
        "413: a page: 413 Request Entity Too Large",
    ),
    "half": (reply(b'{"text": "a'), "the answer is cut short: 11 bytes of JSON; gave up after"),
    "nested": (reply(b"[" * 100_000), "lists and objects within each other: got "),
    "nested a little": (reply(b"[" * 100), "the answer is cut short"),
    "an error of many values": (reply(b"[" + b"[]," * (1 << 20) + b"0]", 413), "[],[],0]"),
    "a long number": (reply(b'{"meta_info": 1' + b"0" * 9999 + b"}"), "the answer is cut short"),
    "a traceback with 200": (
        reply(b'{"error": {"message": "Traceback (most recent call last):\\n  x\\nKeyError: 7"}}'),
        "an error response: KeyError: 7",
    ),
    "abort": (
        reply(
            json.dumps(
                {
                    "text": "",
                    "output_ids": [],
                    "meta_info": {
                        "finish_reason": {"type": "abort", "message": "out of memory"},
                        "prompt_tokens": 45,
                    },
                }
            ).encode()
        ),
        "the engine aborted the request: out of memory; gave up after 1 try",
    ),
}


@pytest.mark.parametrize(("answer", "said"), STRANGE.values(), ids=STRANGE.keys())
def test_strange_answers_are_one_line(tmp_path, capsys, answer, said):
    """An answer that is none ends the run with one line that says what came."""
    with EngineServer("sglang", answer) as server:
        flags = (*QUIET, *ONCE)
        done = captured(capsys, server, one_prompt(tmp_path), tmp_path / "x.parquet", *flags)
    assert done.code == 2
    assert said in done.err
    assert len(done.err.splitlines()) <= 3  # the server, the line, a hint
    assert written(tmp_path) == ["prompts.jsonl"]


ENDLESSES = {
    HANG: "no whole answer within 0.5 s",
    HEADERS: "no whole answer within 0.5 s",
    CONTINUES: "no whole answer within 0.5 s",
}


@pytest.mark.parametrize(("fault", "said"), ENDLESSES.items())
def test_what_never_ends_is_ended(tmp_path, capsys, fault, said):
    """Headers a byte at a time, and "100 Continue" for ever, end with --timeout too."""
    begun = time.monotonic()
    with EngineServer("sglang", faults=[fault]) as server:
        flags = (*QUIET, *ONCE[:-2], "--timeout", 0.5)
        done = captured(capsys, server, one_prompt(tmp_path), tmp_path / "x.parquet", *flags)
        took = time.monotonic() - begun
    assert done.code == 2
    assert said in done.err
    assert took < 10


@pytest.mark.parametrize("declared", [True, False])
def test_an_answer_has_a_largest_size(tmp_path, capsys, declared):
    """More bytes than --limit answer= are refused: by their declared number, or as they come."""
    big = reply(b" " * 100, Content_Length=1 << 40) if declared else None
    with EngineServer("sglang", big, [] if declared else [ENDLESS]) as server:
        flags = (*QUIET, *FAST, "--limit", "answer=3MiB")
        done = captured(capsys, server, one_prompt(tmp_path), tmp_path / "x.parquet", *flags)
    assert done.code == 2
    said = "/generate: 200: an answer of more than 3 MiB\nhint: --limit answer=1GB reads it\n"
    assert done.err.endswith(said)
    assert len(server.posts) == 1


def test_an_answer_of_the_largest_size_is_read(tmp_path, capsys):
    """An answer of exactly the largest size is taken."""
    answer = recorded(SGLANG, "generate_ids")
    limit = ("--limit", f"answer={len(answer.body)}")
    with EngineServer("sglang", answer) as server:
        flags = (*QUIET, *limit)
        done = captured(capsys, server, one_prompt(tmp_path), tmp_path / "x.parquet", *flags)
    assert done.code == 0, done.err


def test_answers_under_way_have_a_largest_size_together(tmp_path, capsys):
    """Each within the limit of one, more answers at once than may be are refused."""
    faults = [None, *[ENDLESS] * 20]
    with EngineServer("sglang", recorded(SGLANG, "generate_ids"), faults) as server:
        flags = (*QUIET, *FAST, "--n", 9, "--concurrency", 8, "--limit", "answers=1MiB")
        done = captured(capsys, server, one_prompt(tmp_path), tmp_path / "x.jsonl", *flags)
    assert done.code == 2
    assert "/generate: the answers under way have more than 1 MiB together\nhint: " in done.err
    assert done.err.endswith(
        "--concurrency asks for fewer at once; --limit answers=1GB reads them\n"
    )


@pytest.mark.parametrize("name", ["nodes=60", "cell=1k"])
def test_limits_hold_where_answers_are_read(tmp_path, capsys, name):
    """What --limit says holds in the threads that read answers, of JSON as of a payload."""
    with EngineServer("sglang", recorded(SGLANG, "generate_ids")) as server:
        flags = (*QUIET, *FAST, "--limit")
        done = captured(capsys, server, one_prompt(tmp_path), tmp_path / "x.jsonl", *flags, name)
        assert done.code == 2
        assert f"hint: --limit {name.partition('=')[0]}=" in done.err
        much = f"{name.partition('=')[0]}=1M"
        done = captured(capsys, server, one_prompt(tmp_path), tmp_path / "x.jsonl", *flags, much)
    assert done.code == 0, done.err


@pytest.mark.parametrize("depth", [199, 200])
def test_what_is_kept_can_be_read(tmp_path, capsys, depth):
    """Lists within each other: the line of an answer, one deeper, is within the budget."""
    answer = json.loads(read_text(SGLANG / "generate_ids.response.json"))
    answer["extra"] = json.loads("[" * (depth - 1) + "]" * (depth - 1))
    with EngineServer("sglang", reply(json.dumps(answer).encode())) as server:
        flags = (*QUIET, *ONCE)
        done = captured(capsys, server, one_prompt(tmp_path), tmp_path / "x.jsonl", *flags)
    if depth == 199:
        assert done.code == 0, done.err
        assert run(capsys, "show", tmp_path / "x.jsonl", "--model", QWEN).code == 0
        return
    assert done.code == 2
    assert "lists and objects within each other: got 201, expected at most 200" in done.err
    assert written(tmp_path) == ["prompts.jsonl"]


def test_an_answer_counts_until_the_next_call():
    """Of answers that are done with nothing is held against those that follow."""
    allowance = http.Allowance(100)
    with EngineServer("sglang", reply(b"x" * 60)) as server:
        lines = [http.Line(http.parse_address(server.url), 20.0, allowance) for _ in range(2)]
        for _ in range(5):
            assert len(lines[0].call("/generate", b"{}").body) == 60
        with pytest.raises(RoutectlError, match="more than 100 bytes together"):
            lines[1].call("/generate", b"{}")


def test_pages_of_the_server_are_judged_too(tmp_path, capsys):
    """A redirect of /model_info is told as such; what is no JSON there is no engine's."""
    flags = ("--prompts", one_prompt(tmp_path), "--save", tmp_path / "x.parquet", *QUIET, *FAST)
    moved = reply(b"", 301, Location="https://login.example/")
    with EngineServer("none", gets={"/model_info": moved}) as server:
        said = complaint(capsys, "capture", server.url, *flags)
    assert "301: redirected to https://login.example/\nhint: name that address" in said
    with EngineServer("none", gets={"/model_info": reply(b"<html>")}) as server:
        assert "no engine: " in complaint(capsys, "capture", server.url, *flags)
    with EngineServer("none", gets={"/model_info": error(500, "broken")}) as server:
        said = complaint(capsys, "capture", server.url, *flags)
    assert "/model_info: 500: broken; gave up after" in said
    assert read_text(tmp_path / "prompts.jsonl")
