"""What is put into a request, what an engine makes of it, and what is said about that."""

import json

import pytest

from routectl.engines.http import parse_address
from routectl.engines.prompts import Prompt
from routectl.engines.requests import Sampling, plan_requests
from routectl.engines.server import Server
from routectl.formats import open_dump
from support.capturing import FAST, QUIET, captured, one_prompt, prompts_file
from support.engine_server import EngineServer, error, recorded, reply
from support.recordings import FIXTURES, QWEN, SGLANG, VLLM, read_lines, request_of
from support.shell import complaint

VLLM_33 = FIXTURES / "servers" / "vllm-0.33.0" / "tiny_rl"
TINY_RL = FIXTURES / "tiny_rl" / "config.json"


def info(**told):
    """An answer of /server_info."""
    return {"/server_info": reply(json.dumps({"version": "0.5.23", **told}).encode())}


def test_a_field_of_the_request_is_at_its_top(tmp_path, capsys):
    """--request sets a field beside sampling_params: JSON where it is some, else text."""
    given = {"cache_salt=a b": "a b", "priority=3": 3, "return_entropy=true": True}
    given |= {'custom_labels={"run": "7"}': {"run": "7"}, "extra_key=": "", "session_id=07": "07"}
    flags = [flag for field in given for flag in ("--request", field)]
    with EngineServer("sglang", recorded(SGLANG, "generate_ids")) as server:
        done = captured(
            capsys, server, one_prompt(tmp_path), tmp_path / "x.parquet", *QUIET, *flags
        )
    assert done.code == 0, done.err
    body = server.posts[0].body
    for field, value in given.items():
        assert body[field.partition("=")[0]] == value
    assert set(body["sampling_params"]) == {"max_new_tokens", "temperature"}
    assert "ignores" not in done.err


@pytest.mark.parametrize("endpoint", ["completions", "chat"])
def test_openai_endpoints_have_one_place(tmp_path, capsys, endpoint):
    """Fields and sampling options are both at the top of an OpenAI request."""
    name = {"completions": "completion_token_ids", "chat": "chat_token_ids"}[endpoint]
    body = request_of(SGLANG, name)
    prompts = prompts_file(tmp_path, {k: body[k] for k in ("prompt", "messages") if k in body})
    flags = ("--request", "cache_salt=a", "--sampling", "cache_salt=a", "--sampling", "top_k=3")
    with EngineServer("sglang", recorded(SGLANG, name)) as server:
        done = captured(
            capsys, server, prompts, tmp_path / "x.parquet", "--endpoint", endpoint, *QUIET, *flags
        )
    assert done.code == 0, done.err
    assert (server.posts[0].body["cache_salt"], server.posts[0].body["top_k"]) == ("a", 3)
    assert "ignores" not in done.err


MISPLACED = {
    "sglang": ("generate", "--sampling", "cache_salt=a", "--request cache_salt=VALUE"),
    "sglang start": ("generate", "--sampling", "routed_experts_start_len=3", "--request routed"),
    "sglang option": ("generate", "--request", "top_p=0.5", "--sampling top_p=VALUE"),
    "vllm": ("inference", "--sampling", "cache_salt=a", "--request cache_salt=VALUE"),
    "vllm option": ("inference", "--request", "seed=1", "--sampling seed=VALUE"),
}


@pytest.mark.parametrize(("endpoint", "flag", "field", "hint"), MISPLACED.values(), ids=MISPLACED)
def test_a_field_in_the_wrong_place_is_refused(tmp_path, capsys, endpoint, flag, field, hint):
    """Where an engine would pass over a field in silence, its right place is named instead."""
    engine = "sglang" if endpoint == "generate" else "vllm"
    with EngineServer(engine) as server:
        flags = ("--endpoint", endpoint, flag, field, *QUIET)
        done = captured(capsys, server, one_prompt(tmp_path), tmp_path / "x.parquet", *flags)
    assert done.code == 2
    assert f"hint: {hint}" in done.err
    assert server.posts == []


def test_a_prompt_s_own_options_have_their_place_too(tmp_path, capsys):
    """An option in a line of prompts is judged as one on the command line."""
    prompts = prompts_file(tmp_path, {"input_ids": [1, 2], "sampling": {"cache_salt": "a"}})
    with EngineServer("sglang") as server:
        done = captured(capsys, server, prompts, tmp_path / "x.parquet", *QUIET)
    assert done.code == 2
    assert "cache_salt" in done.err
    assert "--request cache_salt=VALUE" in done.err


UNKNOWN = {
    "generate": ("sglang", "generate_ids", "--request", "cachesalt=a", "ignores"),
    "sampling": ("sglang", "generate_ids", "--sampling", "top_q=1", "refuses"),
    "completions": ("vllm", "completion_ids", "--sampling", "top_q=1", "ignores"),
    "start of the other": (
        "vllm",
        "completion_ids",
        "--request",
        "routed_experts_start_len=0",
        "ignores",
    ),
    "0.32": ("vllm", "completion_ids", "--request", "return_weight_versions=true", "0.33 does not"),
}


@pytest.mark.parametrize(("engine", "name", "flag", "field", "said"), UNKNOWN.values(), ids=UNKNOWN)
def test_what_an_engine_ignores_is_said(tmp_path, capsys, engine, name, flag, field, said):
    """A name that no request class of the engine has is told once, and sent."""
    folder = {"sglang": SGLANG, "vllm": VLLM}[engine]
    body = request_of(folder, name)
    prompts = prompts_file(tmp_path, {"prompt": body.get("input_ids") or body["prompt"]})
    with EngineServer(engine, recorded(folder, name)) as server:
        done = captured(capsys, server, prompts, tmp_path / "x.jsonl", *QUIET, flag, field)
    assert done.code == 0, done.err
    key = field.partition("=")[0]
    told = [line for line in done.err.splitlines() if f"routectl: {key}: " in line]
    assert len(told) == 1
    assert said in told[0]
    sent = server.posts[0].body
    assert key in {**sent, **sent.get("sampling_params", {})}


def test_weight_versions_of_vllm_033_come_without_a_word(tmp_path, capsys):
    """vLLM 0.33 is not said to ignore return_weight_versions, and its answer has them."""
    body = request_of(VLLM_33, "completion_weight_versions")
    prompts = prompts_file(tmp_path, {"prompt": body["prompt"]})
    answer = recorded(VLLM_33, "completion_weight_versions")
    version = {"/version": reply(b'{"version":"0.33.0"}')}
    with EngineServer("vllm", answer, gets=version) as server:
        done = captured(capsys, server, prompts, tmp_path / "x.parquet", "--model", TINY_RL)
    assert done.code == 0, done.err
    assert "ignores" not in done.err
    assert server.posts[0].body["return_weight_versions"] is True
    (sample,) = open_dump(tmp_path / "x.parquet")
    assert [span.version for span in sample.weight_spans] == ["default"]


ASKED = {
    "0.33 completions": ("0.33.0", "prompt", (), True),
    "0.34 completions": ("0.34.1rc1", "prompt", (), True),
    "0.33 chat": ("0.33.0", "messages", (), True),
    "not wanted": ("0.33.0", "prompt", ("--request", "return_weight_versions=false"), False),
    "0.33 inference": ("0.33.0", "prompt", ("--endpoint", "inference"), None),
    "0.32": ("0.32.0", "prompt", (), None),
    "not told": (None, "prompt", (), None),
    "a branch": ("main", "prompt", (), None),
}


@pytest.mark.parametrize(("version", "kind", "flags", "asked"), ASKED.values(), ids=ASKED)
def test_weight_versions_are_asked_for_where_they_are_told(version, kind, flags, asked):
    """vLLM from 0.33 on is asked in completions and chat; an older or unknown one is not."""
    server = Server(parse_address("http://h:1", None), "vllm", version, "tiny")
    value = [{"role": "user", "content": "a"}] if kind == "messages" else [1, 2]
    prompt = Prompt("p", "p", "messages" if kind == "messages" else "ids", value, {})
    fields = {"return_weight_versions": False} if asked is False else {}
    endpoint = "inference" if "inference" in flags else None
    (request,) = plan_requests(server, [prompt], Sampling(fields=fields), 1, endpoint)
    assert request.body.get("return_weight_versions") is asked


def test_a_run_goes_on_when_versions_are_asked_for(tmp_path, capsys):
    """Answers of before, without versions, are kept: the same was sampled."""
    lines = read_lines(VLLM_33 / "captured_weight_versions.jsonl")
    kept = dict(lines[0], request=dict(lines[0]["request"]))
    del kept["request"]["return_weight_versions"]
    kept["response"]["choices"][0]["weight_versions"] = None
    target = tmp_path / "x.jsonl"
    target.with_name("x.jsonl.partial.jsonl").write_text(json.dumps(kept) + "\n", "utf-8")
    prompts = prompts_file(
        tmp_path, *({"id": f"p{i}", "prompt": x["request"]["prompt"]} for i, x in enumerate(lines))
    )
    answer = reply(json.dumps(lines[1]["response"]).encode())
    gets = {"/version": reply(b'{"version":"0.33.0"}')}
    flags = ("--max-tokens", 16, "--seed", 1, "--model", TINY_RL)
    with EngineServer("vllm", answer, gets=gets) as server:
        done = captured(capsys, server, prompts, target, *flags)
    assert done.code == 0, done.err
    assert len(server.posts) == 1
    dump = open_dump(target, model=TINY_RL)
    spans = [[span.version for span in one.weight_spans] for one in dump]
    assert spans == [[], ["default"]]


def test_spans_of_a_capture_of_vllm_033():
    """A capture with weight versions has one span over all 16 tokens of each answer."""
    dump = open_dump(VLLM_33 / "captured_weight_versions.jsonl", model=TINY_RL)
    spans = [[(s.version, s.start, s.end) for s in one.weight_spans] for one in dump]
    assert spans == [[("default", 0, 16)]] * 2
    assert [one.routes.num_tokens for one in dump] == [16, 17]


OURS = {
    "stream": ("--request", "stream=true", "whole answers are asked for"),
    "stream as an option": ("--sampling", "stream=true", "whole answers are asked for"),
    "n": ("--request", "n=2", "--n N asks for N samples"),
    "prompt": ("--request", "input_ids=[1]", "--prompts"),
    "options": ("--request", "sampling_params={}", "--sampling NAME=VALUE"),
    "routes": ("--request", "return_routed_experts=false", "asked for by capture itself"),
    "beams": ("--sampling", "use_beam_search=true", "no routes of a beam search"),
}


@pytest.mark.parametrize(("flag", "field", "hint"), OURS.values(), ids=OURS.keys())
def test_what_capture_sets_is_not_free(tmp_path, capsys, flag, field, hint):
    """What capture sets itself is refused before anybody is asked, with what to do instead."""
    key = field.partition("=")[0]
    flags = (
        "--prompts",
        one_prompt(tmp_path),
        "--save",
        tmp_path / "x.parquet",
        *QUIET,
        flag,
        field,
    )
    said = complaint(capsys, "capture", "localhost:1", *flags)
    assert f"{flag} {key} is not free to set\nhint: " in said
    assert hint in said


def test_a_field_needs_a_value(tmp_path, capsys):
    """--request without = is refused with its form."""
    flags = ("--prompts", one_prompt(tmp_path), "--save", tmp_path / "x.parquet", *QUIET)
    said = complaint(capsys, "capture", "localhost:1", *flags, "--request", "cache_salt")
    assert "--request cache_salt: expected KEY=VALUE, as cache_salt=a" in said


SEEDS = {
    "off": (info(enable_deterministic_inference=False), "this server runs without"),
    "on": (info(enable_deterministic_inference=True), None),
    "not told": (info(), "this server may run without"),
    "no info": ({}, "this server may run without"),
    "older name": (
        {"/get_server_info": info(enable_deterministic_inference=False)["/server_info"]},
        "this server runs without",
    ),
}


@pytest.mark.parametrize(("gets", "said"), SEEDS.values(), ids=SEEDS.keys())
@pytest.mark.parametrize("flags", [("--seed", 3), ("--sampling", "sampling_seed=3"), ()])
def test_a_seed_that_does_nothing_is_said(tmp_path, capsys, gets, said, flags):
    """SGLang heeds a seed with --enable-deterministic-inference alone; else that is told."""
    with EngineServer("sglang", recorded(SGLANG, "generate_ids"), gets=gets) as server:
        done = captured(
            capsys, server, one_prompt(tmp_path), tmp_path / "x.parquet", *QUIET, *flags
        )
    assert done.code == 0, done.err
    told = (
        "a seed does nothing unless SGLang runs with --enable-deterministic-inference" in done.err
    )
    assert told == (said is not None and flags != ())
    assert not told or said in done.err


def test_vllm_draws_by_seeds(tmp_path, capsys):
    """Of vLLM's seeds nothing is said."""
    prompts = prompts_file(tmp_path, {"prompt": request_of(VLLM, "completion_ids")["prompt"]})
    with EngineServer("vllm", recorded(VLLM, "completion_ids")) as server:
        done = captured(capsys, server, prompts, tmp_path / "x.parquet", *QUIET, "--seed", 3)
    assert done.code == 0, done.err
    assert "a seed does" not in done.err


VERSIONS = {
    "generate": ("sglang", SGLANG, "generate_ids", info(), QWEN, "0.5.23"),
    "older name": (
        "none",
        SGLANG,
        "generate_ids",
        {"/get_server_info": reply(b'{"version": "0.5.4"}')},
        QWEN,
        "0.5.4",
    ),
    "not told": ("none", SGLANG, "generate_ids", {}, QWEN, None),
    "no JSON": ("none", SGLANG, "generate_ids", {"/server_info": reply(b"?")}, QWEN, None),
    "admins alone": ("none", SGLANG, "generate_ids", {"/server_info": error(403)}, QWEN, None),
    "inference": (
        "none",
        VLLM_33,
        "inference",
        {"/version": reply(b'{"version":"0.33.0"}')},
        TINY_RL,
        "0.33.0",
    ),
}


@pytest.mark.parametrize(
    ("engine", "folder", "name", "gets", "config", "version"), VERSIONS.values(), ids=VERSIONS
)
def test_native_endpoints_record_the_version(
    tmp_path, capsys, engine, folder, name, gets, config, version
):
    """With an endpoint named the version is asked for too, and one that is not told is none."""
    body = request_of(folder, name)
    prompts = prompts_file(tmp_path, {"input_ids": body.get("input_ids") or body["token_ids"]})
    endpoint = "generate" if folder == SGLANG else "inference"
    flags = ("--endpoint", endpoint, "--model", config, *FAST)
    with EngineServer(engine, recorded(folder, name), gets=gets) as server:
        for path in (tmp_path / "x.parquet", tmp_path / "x.jsonl"):
            done = captured(capsys, server, prompts, path, *flags)
            assert done.code == 0, done.err
            meta = open_dump(path, model=config).meta
            assert meta.engine_version == version
            assert meta.engine == ("sglang" if folder == SGLANG else "vllm")
    line = json.loads((tmp_path / "x.jsonl").read_text())
    assert line.get("engine_version") == version


URLS = {
    "/generate": ("sglang", SGLANG, "generate_ids"),
    "/v1/completions": ("sglang", SGLANG, "completion_token_ids"),
    "/v1/completions/": ("vllm", VLLM, "completion_ids"),
    "/v1/chat/completions": ("vllm", VLLM, "chat"),
    "/v1": ("vllm", VLLM, "completion_ids"),
}


@pytest.mark.parametrize(("path", "engine", "folder", "name"), [(p, *v) for p, v in URLS.items()])
def test_a_url_may_end_in_its_endpoint(tmp_path, capsys, path, engine, folder, name):
    """The URL that a client posts to names the server and its endpoint."""
    body = request_of(folder, name)
    names = ("input_ids", "prompt", "messages")
    prompts = prompts_file(tmp_path, {k: body[k] for k in names if k in body})
    with EngineServer(engine, recorded(folder, name)) as server:
        server.url, bare = server.url + path, server.url
        done = captured(capsys, server, prompts, tmp_path / "x.parquet", *QUIET)
    assert done.code == 0, done.err
    wanted = path.rstrip("/") if path != "/v1" else "/v1/completions"
    assert server.posts[0].path == wanted
    assert f"routectl: {bare}: " in done.err


def test_urls_of_other_paths_are_none(tmp_path, capsys):
    """A URL of a page says to name the server; one against --endpoint says so; a host is a host."""
    flags = ("--prompts", one_prompt(tmp_path), "--save", tmp_path / "x.parquet", *QUIET, *FAST)
    said = complaint(capsys, "capture", "http://h:1/v1/models", *flags)
    assert (
        "/v1/models is no endpoint that gives routes\nhint: name the server alone: http://h:1"
        in said
    )
    said = complaint(capsys, "capture", "h:1/v1/responses/", *flags)
    assert "hint: name the server alone: h:1" in said
    said = complaint(capsys, "capture", "http://h:1/generate", *flags, "--endpoint", "chat")
    assert "ends in the path of generate, and --endpoint is chat" in said
    from routectl.engines.server import endpoint_in

    for url in ("http://generate", "generate:8000", "http://health", "http://h/gateway"):
        assert endpoint_in(url) == (url, None)
    assert endpoint_in("h:1/gw/inference/v1/generate") == ("h:1/gw", "inference")


def test_a_server_that_is_slow_to_tell_its_version_is_asked_nonetheless(tmp_path, capsys):
    """A /server_info that fails is no reason not to ask for samples: the version is not known."""
    gets = {"/server_info": error(500, "no scheduler")}
    with EngineServer("sglang", recorded(SGLANG, "generate_ids"), gets=gets) as server:
        done = captured(capsys, server, one_prompt(tmp_path), tmp_path / "x.parquet", *QUIET, *FAST)
    assert done.code == 0, done.err
    assert "sglang, model qwen3_moe" in done.err
    assert open_dump(tmp_path / "x.parquet").meta.engine_version is None
