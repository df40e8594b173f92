"""Rollouts captured from a server that replays recorded answers, and from one that fails."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from routectl.formats import open_dump
from support.capturing import FAST, QUIET, captured, one_prompt, prompts_file
from support.engine_server import (
    CUT,
    CUT_CHUNKS,
    DROP,
    HANG,
    TRICKLE,
    EngineServer,
    error,
    recorded,
    reply,
    rollouts,
    vllm_rollouts,
)
from support.permissions import mode_of, umask
from support.recordings import QWEN, SGLANG, VLLM, request_of, response_of
from support.shell import complaint, run, written

ENGINES = {"sglang": SGLANG, "vllm": VLLM}
ROLLOUTS = {tuple(ids): outputs for ids, outputs in rollouts()}
# name, engine, endpoint or None, what the recorded request lacks, and has beside ours
RECORDED = [
    ("generate_ids", "sglang", None, set(), set()),
    ("generate_text", "sglang", None, {"return_prompt_token_ids"}, set()),
    ("completion_token_ids", "sglang", "completions", set(), set()),
    ("chat_token_ids", "sglang", None, {"return_meta_info", "return_prompt_token_ids"}, set()),
    ("completion_ids", "vllm", None, set(), set()),
    ("completion_text", "vllm", None, set(), set()),
    ("chat", "vllm", None, set(), {"top_logprobs"}),
]


def all_prompts(folder):
    """The ten prompts of SGLang's recorded rollouts, p0 to p9."""
    return prompts_file(
        folder, *({"id": f"p{i}", "prompt_token_ids": list(ids)} for i, ids in enumerate(ROLLOUTS))
    )


def alike(sample, other):
    """Whether two samples hold the same tokens, routes and log-probs."""
    arrays = [(s.prompt_ids, s.response_ids, s.logprobs, s.routes.ids_TLK) for s in (sample, other)]
    return sample.routes.start == other.routes.start and all(
        np.array_equal(a, b) if b is not None else a is None for a, b in zip(*arrays, strict=True)
    )


@pytest.mark.parametrize(("name", "engine", "endpoint", "added", "left"), RECORDED)
def test_recorded_requests_are_asked_and_their_answers_kept(
    tmp_path, capsys, name, engine, endpoint, added, left
):
    """The body is the recorded request, and the dump holds what the recorded answer does."""
    asked = request_of(ENGINES[engine], name)
    prompt = {k: asked[k] for k in ("input_ids", "text", "prompt", "messages") if k in asked}
    prompts = prompts_file(tmp_path, {"id": "a", "group": "g", **prompt})
    flags = ("--seed", asked["seed"]) if "seed" in asked else ()
    flags += ("--endpoint", endpoint) if endpoint else ()
    target, lines = tmp_path / "dump.parquet", tmp_path / "dump.jsonl"
    with EngineServer(engine, recorded(ENGINES[engine], name)) as server:
        for path in (target, lines):
            done = captured(capsys, server, prompts, path, *flags, *QUIET)
            assert (done.code, done.out) == (0, ""), done.err
            assert done.err.splitlines()[-1] == f"routectl: wrote {path}: 1 sample"
    body = server.posts[0].body
    assert {k: v for k, v in body.items() if k not in added} == {
        k: v for k, v in asked.items() if k not in left
    }
    (ours,), (theirs,) = (
        open_dump(p, model=QWEN) for p in (target, ENGINES[engine] / f"{name}.response.json")
    )
    assert alike(ours, theirs)
    assert (ours.sample_id, ours.group_id) == ("a/0", "g")
    raw = (ENGINES[engine] / f"{name}.response.json").read_bytes()
    assert lines.read_bytes().endswith(b'"response": ' + raw + b"}\n")
    (again,) = open_dump(lines, model=QWEN)
    assert alike(again, theirs)
    assert (again.sample_id, again.group_id) == ("a/0", "g")
    assert written(tmp_path) == ["dump.jsonl", "dump.parquet", "prompts.jsonl"]


def test_many_samples_of_many_prompts_come_in_order(tmp_path, capsys):
    """Forty samples asked eight at a time are those of the engine, in the order of the prompts."""
    with EngineServer("sglang", ROLLOUTS, pace_s=0.02) as server:
        done = captured(
            capsys,
            server,
            all_prompts(tmp_path),
            tmp_path / "dump.parquet",
            "--n",
            4,
            "--concurrency",
            8,
            "--seed",
            7,
            *QUIET,
        )
    assert done.code == 0, done.err
    dump = open_dump(tmp_path / "dump.parquet")
    assert [s.sample_id for s in dump] == [f"p{i}/{j}" for i in range(10) for j in range(4)]
    assert [s.group_id for s in dump] == [f"p{i}" for i in range(10) for _ in range(4)]
    assert (dump.meta.engine, dump.meta.path) == ("sglang", str(tmp_path / "dump.parquet"))
    assert 2 <= server.most <= 8
    seeds = {post.body["sampling_params"]["sampling_seed"] for post in server.posts}
    assert seeds == {7, 8, 9, 10}
    texts = {out["meta_info"]["id"]: out for outputs in ROLLOUTS.values() for out in outputs}
    found = {tuple(s.response_ids.tolist()) for s in dump}
    assert found == {tuple(out["output_ids"]) for out in texts.values()}


def test_vllm_samples_have_ids_of_their_own(tmp_path, capsys):
    """Four samples of one prompt are four requests to vLLM, and the dump names its version."""
    prompt, answers = vllm_rollouts()
    prompts = prompts_file(tmp_path, {"prompt": prompt})
    with EngineServer("vllm", {tuple(prompt): answers}) as server:
        done = captured(capsys, server, prompts, tmp_path / "dump.parquet", "--n", 4, *QUIET)
    assert done.code == 0, done.err
    assert "vllm 0.32.0, model qwen3_moe" in done.err
    dump = open_dump(tmp_path / "dump.parquet")
    assert [s.sample_id for s in dump] == ["0/0", "0/1", "0/2", "0/3"]
    assert (dump.meta.engine, dump.meta.engine_version) == ("vllm", "0.32.0")
    assert {post.body["model"] for post in server.posts} == {"qwen3_moe"}


def aborted():
    """SGLang's answer to a request that it aborted before it ran."""
    output = response_of(SGLANG, "generate_not_asked")
    output["meta_info"]["finish_reason"] = {"type": "abort", "message": "aborted"}
    return reply(json.dumps(output).encode())


PASSING = {
    "429": [error(429)],
    "500 once": [error(500)],
    "503 thrice": [error(503)] * 3,
    "no answer": [DROP],
    "cut body": [CUT],
    "cut stream": [CUT_CHUNKS],
    "half a document": [reply(recorded(SGLANG, "generate_ids").body[:5000])],
    "nothing": [reply(b"")],
    "aborted": [aborted()],
    "all kinds": [error(502), DROP, CUT],
}


@pytest.mark.parametrize("faults", PASSING.values(), ids=PASSING.keys())
def test_trouble_that_passes_is_tried_again(tmp_path, capsys, faults):
    """After a passing fault the request is sent again, and the dump is whole."""
    with EngineServer("sglang", recorded(SGLANG, "generate_ids"), faults) as server:
        done = captured(
            capsys, server, one_prompt(tmp_path), tmp_path / "dump.parquet", *QUIET, *FAST
        )
    assert done.code == 0, done.err
    assert len(server.posts) == len(faults) + 1
    assert len(open_dump(tmp_path / "dump.parquet")) == 1


@pytest.mark.parametrize("fault", [HANG, TRICKLE])
def test_a_server_that_hangs_is_asked_again(tmp_path, capsys, fault):
    """An answer that is not whole within the time is asked for again, be it a byte at a time."""
    with EngineServer("sglang", recorded(SGLANG, "generate_ids"), [fault]) as server:
        done = captured(
            capsys,
            server,
            one_prompt(tmp_path),
            tmp_path / "dump.parquet",
            *QUIET,
            *FAST[:-2],
            "--timeout",
            0.4,
        )
    assert done.code == 0, done.err
    assert len(server.posts) == 2


@pytest.mark.slow
def test_retry_after_is_kept(tmp_path, capsys):
    """The next try comes no sooner than the server asked for."""
    busy = error(429, Retry_After=1)
    with EngineServer("sglang", recorded(SGLANG, "generate_ids"), [busy]) as server:
        done = captured(
            capsys,
            server,
            one_prompt(tmp_path),
            tmp_path / "dump.parquet",
            *QUIET,
            *FAST[:2],
            "--patience",
            9,
        )
    assert done.code == 0, done.err
    first, second = (post.time for post in server.posts)
    assert second - first >= 1.0


def test_retry_after_may_be_a_date():
    """A Retry-After is seconds or an HTTP date; one that is neither, or past, asks for nothing."""
    from email.message import Message
    from email.utils import formatdate

    from routectl.engines.complaints import body_or_raise
    from routectl.engines.http import PassingError, Reply

    def asked(text):
        headers = Message()
        headers["Retry-After"] = text
        with pytest.raises(PassingError, match="503: busy") as caught:
            body_or_raise(Reply(503, headers, b'{"detail": "busy"}'), "here")
        return caught.value.wait_s

    assert 25 < asked(formatdate(time.time() + 30, usegmt=True)) <= 30
    assert [asked(text) for text in ("7", "soon", formatdate(0))] == [7.0, None, 0.0]


def test_a_pair_names_its_samples(tmp_path):
    """What stands beside request and response comes before the response's own names."""
    pair = {
        "sample_id": "s",
        "group_id": 3,
        "engine": "mine",
        "engine_version": "1",
        "request": request_of(VLLM, "completion_ids_n4"),
        "response": response_of(VLLM, "completion_ids_n4"),
    }
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(pair) + "\n")
    dump = open_dump(path, model=QWEN)
    assert [(s.sample_id, s.group_id) for s in dump] == [(f"s/{i}", "3") for i in range(4)]
    assert (dump.meta.engine, dump.meta.engine_version) == ("mine", "1")


def without_routes():
    """A recorded vLLM answer as a server without the flag gives it."""
    document = response_of(VLLM, "completion_ids")
    document["choices"][0]["routed_experts"] = None
    return reply(json.dumps(document).encode())


BAD_SHAPE = recorded(SGLANG, "generate_ids").body.replace(
    b'"routed_experts":"', b'"routed_experts":"AAAA'
)
FINAL = {
    "SGLang without the flag": (
        "sglang",
        recorded(SGLANG, "generate_not_asked"),
        ["no routed_experts in the answer", "--enable-return-routed-experts", "launch_server"],
    ),
    "vLLM without the flag": (
        "vllm",
        without_routes(),
        ["no routed_experts in the answer", "--enable-return-routed-experts", "vllm serve"],
    ),
    "400": (
        "sglang",
        error(400, "the prompt is too long"),
        ["400: the prompt is too long", "--skip-refused"],
    ),
    "recorded 400": (
        "vllm",
        reply((VLLM / "completion_start_too_far.response.json").read_bytes(), 400),
        ["400: routed_experts_prompt_start must be between"],
    ),
    "403 of the endpoint": (
        "vllm",
        reply((VLLM / "generate_tokens.response.json").read_bytes(), 403),
        ["403: Scale-out endpoints are disabled"],
    ),
    "401": ("sglang", error(401, "no"), ["401: no", "--api-key-file"]),
    "404": ("sglang", reply(b'{"detail":"Not Found"}', 404), ["404: Not Found"]),
    "redirect": (
        "sglang",
        reply(b"", 307, Location="https://else.where/"),
        ["307: redirected to https://else.where/"],
    ),
    "HTML": (
        "sglang",
        reply(b"<html><body>Sign in</body></html>", kind="text/html"),
        ["no answer of an engine: got '<html><body>"],
    ),
    "other JSON": ("sglang", reply(b'{"hello": "world"}'), ["JSON without routed_experts"]),
    "a number": ("sglang", reply(b"7"), ["no response: got int"]),
    "error with 200": ("sglang", error(200, "odd"), ["an error response: odd"]),
    "several sequences": (
        "sglang",
        recorded(SGLANG, "generate_batch_n2"),
        ["got 6 sequences, expected 1"],
    ),
    "other rows": ("sglang", reply(BAD_SHAPE), ["sample 0/0"]),
    "never": ("sglang", error(500, "broken"), ["500: broken; gave up after 4 tries"]),
    "long wait": ("sglang", error(503, "busy", Retry_After=3600), ["it asks to wait 3600 s"]),
}


@pytest.mark.parametrize(("engine", "answer", "said"), FINAL.values(), ids=FINAL.keys())
def test_trouble_that_stays_ends_the_run(tmp_path, capsys, engine, answer, said):
    """The run ends after the first such answer with exit 2 and one line, and nothing is written."""
    prompts = prompts_file(tmp_path, *({"input_ids": [5, 6, i]} for i in range(20)))
    with EngineServer(engine, answer) as server:
        done = captured(capsys, server, prompts, tmp_path / "dump.parquet", *QUIET, *FAST)
    assert (done.code, done.out) == (2, "")
    assert "Traceback" not in done.err
    assert all(part in done.err for part in said), done.err
    assert len(server.posts) == (4 if "gave up" in said[0] else 1)
    assert written(tmp_path) == ["prompts.jsonl"]


def test_no_server_and_no_engine(tmp_path, capsys):
    """A closed port, and a web server that is no engine, are named at once."""
    prompts = one_prompt(tmp_path)
    with EngineServer("sglang") as gone:
        pass
    flags = ("--prompts", prompts, "--save", tmp_path / "dump.parquet", *QUIET, *FAST)
    assert "Connection refused" in complaint(capsys, "capture", gone.url, *flags)
    with EngineServer("none") as server:
        said = complaint(capsys, "capture", server.url, *flags)
    assert "no engine: neither /model_info (SGLang), /version (vLLM)" in said
    assert written(tmp_path) == ["prompts.jsonl"]


def test_an_endpoint_is_asked_unseen(tmp_path, capsys):
    """With --endpoint generate a server that says nothing of itself is asked nonetheless."""
    with EngineServer("none", recorded(SGLANG, "generate_ids")) as server:
        flags = ("--endpoint", "generate", *QUIET)
        done = captured(capsys, server, one_prompt(tmp_path), tmp_path / "dump.parquet", *flags)
    assert done.code == 0, done.err
    assert server.posts[0].path == "/generate"
    assert "/version" not in server.gets


def test_inference_of_vllm_takes_tokens(tmp_path, capsys):
    """The body for /inference/v1/generate is that of the recorded request."""
    asked = request_of(VLLM, "generate_tokens")
    prompts = prompts_file(tmp_path, {"prompt_token_ids": asked["token_ids"]})
    with EngineServer("vllm", recorded(VLLM, "completion_ids")) as server:
        done = captured(
            capsys,
            server,
            prompts,
            tmp_path / "dump.parquet",
            "--endpoint",
            "inference",
            "--seed",
            4,
            "--request",
            "model=qwen3_moe",
            "--max-tokens",
            16,
            "--model",
            QWEN,
        )
    assert done.code == 0, done.err
    assert (server.posts[0].path, server.posts[0].body) == ("/inference/v1/generate", asked)


def test_skip_refused_leaves_out_and_says_so(tmp_path, capsys):
    """With --skip-refused the other samples are written; with every one refused none is."""
    faults = [error(400, "too long")] * 2
    target = tmp_path / "dump.parquet"
    with EngineServer("sglang", ROLLOUTS, faults) as server:
        done = captured(
            capsys,
            server,
            all_prompts(tmp_path),
            target,
            "--concurrency",
            1,
            "--skip-refused",
            *QUIET,
            *FAST,
        )
    assert done.code == 0, done.err
    assert "left out p0/0: " in done.err
    assert [s.sample_id for s in open_dump(target)] == [f"p{i}/0" for i in range(2, 10)]
    with EngineServer("sglang", error(400, "too long")) as server:
        said = captured(
            capsys,
            server,
            all_prompts(tmp_path),
            tmp_path / "none.parquet",
            "--skip-refused",
            *QUIET,
            *FAST,
        )
    assert said.code == 2
    assert "every request was refused" in said.err
    assert not (tmp_path / "none.parquet").exists()


def test_a_run_goes_on_after_the_server_died(tmp_path, capsys):
    """What came before the server died is kept, and the next run asks for the rest alone."""
    prompts, target = all_prompts(tmp_path), tmp_path / "dump.parquet"
    flags = ("--prompts", prompts, "--save", target, "--n", 4, "--concurrency", 4, *QUIET, *FAST)
    partial = tmp_path / "dump.parquet.partial.jsonl"
    with EngineServer("sglang", ROLLOUTS, lives=15) as server, umask(0):
        done = run(capsys, "capture", server.url, *flags)
    assert done.code == 2
    assert mode_of(partial) == "600"
    assert "gave up after" in done.err
    had = partial.read_bytes().splitlines()
    assert 11 <= len(had) <= 15
    assert f"{partial}: keeps {len(had)} of 40 answers; the same command goes on" in done.err
    assert not target.exists()
    partial.write_bytes(partial.read_bytes() + had[0][: len(had[0]) // 2])  # killed while writing
    answers = {ids: list(outputs) for ids, outputs in ROLLOUTS.items()}
    for line in map(json.loads, had):
        answers[tuple(line["request"]["input_ids"])].remove(line["response"])
    with EngineServer("sglang", answers) as server, umask(0):
        done = run(capsys, "capture", server.url, *flags)
    assert done.code == 0, done.err
    assert mode_of(target) == "666"  # what is asked for follows the umask, as any file
    assert f"{len(had)} of 40 answers are there" in done.err
    assert len(server.posts) == 40 - len(had)
    dump = open_dump(target)
    assert [s.sample_id for s in dump] == [f"p{i}/{j}" for i in range(10) for j in range(4)]
    assert len({tuple(s.response_ids.tolist()) for s in dump}) == 40
    assert written(tmp_path) == ["dump.parquet", "prompts.jsonl"]


def test_another_run_s_answers_are_not_taken(tmp_path, capsys):
    """A side file of other options, or of no run, is refused and left as it is."""
    prompts, target = all_prompts(tmp_path), tmp_path / "dump.parquet"
    flags = ("--prompts", prompts, "--save", target, "--concurrency", 1, "--model", QWEN, *FAST)
    partial = tmp_path / "dump.parquet.partial.jsonl"
    with EngineServer("sglang", ROLLOUTS, lives=3) as server:
        assert run(capsys, "capture", server.url, *flags).code == 2
    kept = partial.read_bytes()
    with EngineServer("sglang", ROLLOUTS) as server:
        done = run(capsys, "capture", server.url, *flags, "--temperature", 0.5)
    assert done.code == 2
    assert "sample p0/0 was asked for otherwise" in done.err
    assert (partial.read_bytes(), server.posts) == (kept, [])
    partial.write_text("{}\n")
    with EngineServer("sglang", ROLLOUTS) as server:
        assert "a line that no run wrote" in run(capsys, "capture", server.url, *flags).err
    assert partial.read_text() == "{}\n"


def test_a_run_that_lacks_nothing_asks_nothing(tmp_path, capsys):
    """A run that was killed before it wrote its file writes it without asking again."""
    flags = ("--prompts", all_prompts(tmp_path), *QUIET)
    lines, target = tmp_path / "dump.jsonl", tmp_path / "dump.parquet"
    with EngineServer("sglang", ROLLOUTS) as server:
        assert run(capsys, "capture", server.url, *flags, "--save", lines).code == 0
        lines.rename(tmp_path / "dump.parquet.partial.jsonl")
        assert len(server.posts) == 10
        assert run(capsys, "capture", server.url, *flags, "--save", target).code == 0
        assert len(server.posts) == 10
    assert len(open_dump(target)) == 10
    said = complaint(capsys, "capture", server.url, *flags, "--save", target)
    assert "already exists" in said


def models(*served):
    """An answer of /v1/models: (name, parent) of each."""
    listed = [{"id": name, "owned_by": "vllm", "parent": parent} for name, parent in served]
    return {"/v1/models": reply(json.dumps({"data": listed}).encode())}


def test_which_model_is_asked(tmp_path, capsys):
    """Adapters are passed over; of several models one must be named."""
    ids = request_of(VLLM, "completion_ids")["prompt"]
    prompts = prompts_file(tmp_path, {"prompt": ids})
    flags = ("--prompts", prompts, *QUIET, *FAST, "--save")
    answer = recorded(VLLM, "completion_ids")
    with EngineServer("vllm", answer, gets=models(("lora", "base"), ("base", None))) as server:
        assert run(capsys, "capture", server.url, *flags, tmp_path / "a.parquet").code == 0
    assert server.posts[0].body["model"] == "base"
    with EngineServer("vllm", answer, gets=models(("a", None), ("b", None))) as server:
        said = complaint(capsys, "capture", server.url, *flags, tmp_path / "b.parquet")
        assert "serves a, b\nhint: --request model=NAME" in said
        named = ("capture", server.url, *flags, tmp_path / "b.parquet", "--request", "model=b")
        assert run(capsys, *named).code == 0
    assert server.posts[0].body["model"] == "b"


def knowing(path):
    """What SGLang says of itself when it runs the model of a path or a name."""
    info = {**response_of(SGLANG, "model_info"), "model_path": str(path)}
    return {"/model_info": reply(json.dumps(info).encode())}


@pytest.mark.parametrize("how", ["path", "name"])
def test_the_server_names_the_model(tmp_path, capsys, monkeypatch, how):
    """A model that the server runs and that is here, as a folder or in the HF cache, is found; the
    note names what was read, and --json what was written."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    snapshot = tmp_path / "hub" / "models--org--tiny" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_bytes(QWEN.read_bytes())
    named = snapshot if how == "path" else "org/tiny"
    target = tmp_path / "x.parquet"
    with EngineServer("sglang", recorded(SGLANG, "generate_ids"), gets=knowing(named)) as server:
        done = captured(
            capsys, server, one_prompt(tmp_path), target, "--max-tokens", 24, "--json", *FAST
        )
    assert done.code == 0, done.err
    assert f"routectl: model of {server.url} from {snapshot}" in done.err
    assert json.loads(done.out) == {
        "schema": "routectl.written/1",
        "source": server.url,
        "saved": str(target),
        "samples": 1,
        "format": "native",
        "dropped": 0,
        "left_out": [],
        "bytes": target.stat().st_size,
    }
    assert open_dump(target).meta.num_experts == 32


def test_a_model_that_is_not_here(tmp_path, capsys, monkeypatch):
    """What the server runs and is not here is named, with where was looked, before anything is
    asked; JSON lines need no model."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    prompts, target = one_prompt(tmp_path), tmp_path / "x.parquet"
    flags = ("--prompts", prompts, "--max-tokens", 24, *FAST)
    answer = recorded(SGLANG, "generate_ids")
    with EngineServer("sglang", answer, gets=knowing("org/tiny")) as server:
        said = complaint(capsys, "capture", server.url, "--save", target, *flags)
        assert f"runs org/tiny, neither a folder here nor in {tmp_path / 'hub'}" in said
        assert "hint: --model CONFIG.json of org/tiny; NAME.jsonl needs none" in said
        assert str(target) not in said
        assert not server.posts
        lines = tmp_path / "x.jsonl"
        assert run(capsys, "capture", server.url, "--save", lines, *flags).code == 0


@pytest.mark.parametrize("status", [401, 403])
def test_a_server_that_wants_a_key_says_so(tmp_path, capsys, status):
    """A server that lets nobody in without a key is no unknown engine: the flag is named."""
    with EngineServer("none", gets={"/model_info": error(status)}) as server:
        flags = ("--prompts", one_prompt(tmp_path), "--save", tmp_path / "x.parquet", *QUIET)
        said = complaint(capsys, "capture", server.url, *flags)
    assert "--api-key-file FILE" in said


def test_one_answer_for_two_samples_is_no_second_sample(tmp_path, capsys):
    """An answer with the id of another sample's ends the run: a cache answered for the engine."""
    with EngineServer("sglang", recorded(SGLANG, "generate_ids")) as server:
        done = captured(
            capsys, server, one_prompt(tmp_path), tmp_path / "dump.parquet", "--n", 2, *QUIET, *FAST
        )
    assert done.code == 2
    assert "sample 0/1: its answer is that of sample 0/0" in done.err
    assert not (tmp_path / "dump.parquet").exists()


def test_one_run_at_a_time(tmp_path, capsys):
    """Two runs cannot write one side file."""
    partial = tmp_path / "dump.parquet.partial.jsonl"
    code = (
        "import fcntl,sys; f=open(sys.argv[1],'ab'); fcntl.flock(f, fcntl.LOCK_EX); "
        "print(1, flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(partial)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with holder:
        holder.stdout.readline()
        with EngineServer("sglang", ROLLOUTS) as server:
            done = captured(
                capsys, server, all_prompts(tmp_path), tmp_path / "dump.parquet", *QUIET
            )
        holder.stdin.close()
    assert done.code == 2
    assert "another run writes it" in done.err
    assert server.posts == []


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.slow
def test_an_interrupt_keeps_what_is_had(tmp_path, sent, code):
    """Ctrl-C ends the run at once with 130, SIGTERM with 143; answers stay."""
    partial = tmp_path / "dump.parquet.partial.jsonl"
    with EngineServer("sglang", ROLLOUTS, pace_s=0.15) as server:
        command = [
            sys.executable,
            "-m",
            "routectl",
            "capture",
            server.url,
            "--prompts",
            all_prompts(tmp_path),
            "--save",
            tmp_path / "dump.parquet",
            "--n",
            "4",
            "--concurrency",
            "2",
            "--model",
            QWEN,
        ]
        process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True)
        until = time.monotonic() + 60
        while not (partial.exists() and partial.read_bytes().count(b"\n") >= 3):
            assert time.monotonic() < until
            time.sleep(0.02)
        process.send_signal(sent)
        _, err = process.communicate(timeout=20)
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert partial.read_bytes().count(b"\n") >= 3
    assert not (tmp_path / "dump.parquet").exists()


def test_the_key_is_sent_and_kept_nowhere(tmp_path, capsys):
    """The text of --api-key-file is the bearer token of each request, and is in no file after."""
    key = tmp_path / "key"
    key.write_text("sesame\n")
    with EngineServer("sglang", recorded(SGLANG, "generate_ids")) as server:
        flags = ("--api-key-file", key, *QUIET)
        done = captured(capsys, server, one_prompt(tmp_path), tmp_path / "dump.jsonl", *flags)
    assert done.code == 0, done.err
    assert server.posts[0].headers["Authorization"] == "Bearer sesame"
    assert b"sesame" not in (tmp_path / "dump.jsonl").read_bytes()
    assert "sesame" not in done.err


def test_json_lines_need_no_model(tmp_path, capsys):
    """Without a model the answers are kept as JSON lines; a native file needs to know it."""
    prompts = one_prompt(tmp_path)
    with EngineServer("sglang", recorded(SGLANG, "generate_ids")) as server:
        flags = ("capture", server.url, "--prompts", prompts, "--save")
        assert run(capsys, *flags, tmp_path / "dump.jsonl").code == 0
        unknown = complaint(capsys, *flags, tmp_path / "dump.parquet")
        assert "the model is not known: the server runs ckpt/qwen3_moe" in unknown
        assert "hint: --model CONFIG.json of ckpt/qwen3_moe; NAME.jsonl needs none" in unknown
        missing = complaint(capsys, *flags, tmp_path / "x.jsonl", "--model", tmp_path / "none")
        assert f"{tmp_path / 'none'}: " in missing
        said = complaint(capsys, *flags, tmp_path / "dump.npz")
    assert "expected NAME.parquet or NAME.jsonl" in said


USAGE = {
    "no prompt": ({"id": 1}, "line 1: no prompt: expected prompt_token_ids, prompt or messages"),
    "empty": ({"prompt": ""}, "line 1: the prompt is empty"),
    "no ids": ({"input_ids": [1, "a"]}, "prompt_token_ids: got 'a', expected token ids"),
    "a number": ({"prompt": 7}, "prompt: got int, expected text or ids"),
    "n": ({"prompt": "a", "sampling": {"n": 4}}, "sampling option n is not free to set"),
}


@pytest.mark.parametrize(("prompt", "said"), USAGE.values(), ids=USAGE.keys())
def test_prompts_that_are_none_are_refused(tmp_path, capsys, prompt, said):
    """A line that is no prompt is named before anything is asked."""
    with EngineServer("sglang") as server:
        done = captured(
            capsys, server, prompts_file(tmp_path, prompt), tmp_path / "dump.parquet", *QUIET
        )
    assert done.code == 2
    assert said in done.err
    assert server.posts == []


def test_prompts_files_that_are_none(tmp_path, capsys):
    """Missing, empty, broken and repeating files of prompts are refused in one line."""
    path = tmp_path / "prompts.jsonl"
    flags = ("capture", "localhost:1", "--prompts", path, "--save", tmp_path / "x.parquet", *QUIET)
    assert "cannot be read: No such file" in complaint(capsys, *flags)
    path.write_text("\n")
    assert "no prompt in it" in complaint(capsys, *flags)
    path.write_text("{\n")
    assert "line 1: not JSON" in complaint(capsys, *flags)
    path.write_text("[]\n")
    assert "line 1: got list, expected an object a line" in complaint(capsys, *flags)
    path.write_text('{"id": 1, "prompt": "a"}\n\n{"id": "1", "prompt": "b"}\n')
    assert "line 3: the id '1' is that of line 1 too" in complaint(capsys, *flags)


def test_a_prompt_s_own_sampling_comes_first(tmp_path, capsys):
    """--sampling sets any option of the engine, and a prompt's own options come before it."""
    ids = request_of(SGLANG, "generate_ids")["input_ids"]
    prompts = prompts_file(tmp_path, {"input_ids": ids, "sampling": {"top_p": 0.5}})
    with EngineServer("sglang", recorded(SGLANG, "generate_ids")) as server:
        flags = ("--sampling", "top_p=0.9", "--sampling", "stop=END", *QUIET)
        done = captured(capsys, server, prompts, tmp_path / "dump.parquet", *flags)
    assert done.code == 0, done.err
    asked = server.posts[0].body["sampling_params"]
    assert asked == {"max_new_tokens": 24, "temperature": 1.0, "top_p": 0.5, "stop": "END"}


ADDRESSES = {
    "localhost:30000": "http://localhost:30000/x",
    "http://h:1/": "http://h:1/x",
    "http://h:1/v1": "http://h:1/x",
    "https://h/proxy/": "https://h:443/proxy/x",
    "http://[::1]:8": "http://[::1]:8/x",
}


def test_addresses():
    """A host and port are an address; the /v1 of OpenAI clients is none of ours."""
    from routectl.engines.http import parse_address

    for given, wanted in ADDRESSES.items():
        assert parse_address(given).url("/x") == wanted


@pytest.mark.parametrize("url", ["ftp://h", "http://", "http://h:x", "http://h:1?a=b", "http://[h"])
def test_addresses_that_are_none(tmp_path, capsys, url):
    """What is no address of a server is refused before anything is asked."""
    flags = ("--prompts", one_prompt(tmp_path), "--save", tmp_path / "x.parquet", *QUIET)
    assert "no address of a server" in complaint(capsys, "capture", url, *flags)


ODD = [
    "http://h:1/a b",
    "http://h\x01x:1",
    "http://h:1/\u00e9",
    "http://h\u202e:1",
    "http://h:1/\x07",
]


@pytest.mark.parametrize("url", ODD)
def test_characters_that_no_address_has(tmp_path, capsys, url):
    """Spaces, control characters and letters beyond ASCII in a path are refused, shown escaped."""
    flags = ("--prompts", one_prompt(tmp_path), "--save", tmp_path / "x.parquet", *QUIET)
    said = complaint(capsys, "capture", url, *flags)
    assert "a character that no address has\nhint: write it as %XX" in said


def test_a_name_that_no_host_has(tmp_path, capsys):
    """A label of a host's name that is too long is refused at once."""
    flags = ("--prompts", one_prompt(tmp_path), "--save", tmp_path / "x.parquet", *QUIET)
    assert "no name of a host" in complaint(capsys, "capture", f"http://{'a' * 99}:1", *flags)


def test_waits_double_up_to_the_longest():
    """Waits are half to all of a doubled time; a longer Retry-After comes first."""
    from routectl.engines.patience import Patience

    patience = Patience(8, 1.0, 10.0)
    for tried, most in enumerate((1.0, 2.0, 4.0, 8.0, 10.0, 10.0), 1):
        waits = [patience.wait_s(tried, None, worker) for worker in range(50)]
        assert most / 2 <= min(waits) < max(waits) <= most
        assert len({round(w, 6) for w in waits}) > 40
    assert patience.wait_s(1, 7.5, 0) == 7.5
