"""A run that is gone on with after the server's weights, name or version were changed."""

import json

from routectl.formats import open_dump
from support.capturing import FAST, QUIET, prompts_file
from support.engine_server import EngineServer, reply
from support.recordings import QWEN, SGLANG, VLLM, request_of, response_of
from support.shell import document, run

CHAT = request_of(SGLANG, "chat_token_ids")["messages"]


def chats(model, count):
    """So many answers to the recorded chat, each with an id of its own."""
    answer = response_of(SGLANG, "chat_token_ids")
    return [reply(json.dumps({**answer, "id": f"{model}-{i}"}).encode()) for i in range(count)]


def serving(name, version="0.5.23"):
    """What SGLang says of itself when its model is served under a name."""
    info = {**response_of(SGLANG, "model_info"), "served_model_name": name, "model_path": name}
    told = {"version": version, "enable_deterministic_inference": True}
    pages = {"/model_info": info, "/server_info": told}
    return {path: reply(json.dumps(page).encode()) for path, page in pages.items()}


def interrupted(capsys, folder, output, *flags):
    """A capture of three samples that ended after two, of the model served as ckpt/v0."""
    prompts = prompts_file(folder, {"id": "c", "messages": CHAT})
    given = ("--prompts", prompts, "--save", output, "--n", 3, "--seed", 3, *QUIET, *FAST, *flags)
    with EngineServer("sglang", None, chats("a", 2), lives=2, gets=serving("ckpt/v0")) as server:
        assert run(capsys, "capture", server.url, *given, "--concurrency", 1).code == 2
    return given


def otherwise(given, flag, value):
    """The flags with another value of one, or with one more."""
    at = given.index(flag) if flag in given else len(given)
    return (*given[:at], flag, value, *given[at + 2 :])


def test_a_renamed_model_is_gone_on_with(tmp_path, capsys):
    """An update from disk renames the model: the run goes on, and says and keeps both names."""
    for output in (tmp_path / "x.jsonl", tmp_path / "x.parquet"):
        given = interrupted(capsys, tmp_path, output)
        partial = f"{output}.partial.jsonl"
        with EngineServer("sglang", None, chats("b", 1), gets=serving("ckpt/v8")) as server:
            done = run(capsys, "capture", server.url, *given)
        assert done.code == 0, done.err
        assert (
            f"{partial}: the served model was ckpt/v0 (2 answers), and is ckpt/v8 now" in done.err
        )
        assert [post.body["model"] for post in server.posts] == ["ckpt/v8"]
        assert len(open_dump(output, model=QWEN)) == 3
    lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert [line["served_model"] for line in lines] == ["ckpt/v0", "ckpt/v0", "ckpt/v8"]
    assert [line["request"]["model"] for line in lines] == ["ckpt/v0", "ckpt/v0", "ckpt/v8"]
    shown = document(capsys, "show", tmp_path / "x.parquet")
    assert shown["dump"]["provenance"] == {"served_model": "ckpt/v0+ckpt/v8"}


def test_the_same_name_is_not_worth_a_word(tmp_path, capsys):
    """Where nothing was renamed, nothing is said of names."""
    output = tmp_path / "x.jsonl"
    given = interrupted(capsys, tmp_path, output)
    with EngineServer("sglang", None, chats("b", 1), gets=serving("ckpt/v0")) as server:
        done = run(capsys, "capture", server.url, *given)
    assert done.code == 0, done.err
    assert " was " not in done.err


def test_side_files_of_before_name_the_model_in_the_request(tmp_path, capsys):
    """A side file whose lines have no served_model is gone on with by the request's model."""
    output = tmp_path / "x.jsonl"
    given = interrupted(capsys, tmp_path, output)
    partial = tmp_path / "x.jsonl.partial.jsonl"
    lines = [json.loads(line) for line in partial.read_text().splitlines()]
    for line in lines:
        assert line.pop("served_model") == "ckpt/v0"
    partial.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with EngineServer("sglang", None, chats("b", 1), gets=serving("ckpt/v8")) as server:
        done = run(capsys, "capture", server.url, *given)
    assert done.code == 0, done.err
    assert "the served model was ckpt/v0 (2 answers), and is ckpt/v8 now" in done.err


def test_a_newer_engine_is_said(tmp_path, capsys):
    """An engine that came back in another version is told, and the dump names both."""
    output = tmp_path / "x.jsonl"
    given = interrupted(capsys, tmp_path, output)
    pages = serving("ckpt/v0", "0.5.24")
    with EngineServer("sglang", None, chats("b", 1), gets=pages) as server:
        done = run(capsys, "capture", server.url, *given)
    assert done.code == 0, done.err
    assert "the version of sglang was 0.5.23 (2 answers), and is 0.5.24 now" in done.err
    assert open_dump(output, model=QWEN).meta.engine_version == "0.5.23+0.5.24"


def test_other_fields_are_the_run_s_identity(tmp_path, capsys):
    """Another seed, message or field is another run, and the line says which it is."""
    output = tmp_path / "x.jsonl"
    given = interrupted(capsys, tmp_path, output)
    kept = (tmp_path / "x.jsonl.partial.jsonl").read_bytes()
    others = {
        ("--seed", 4): "seed was 3, and is 4 now",
        ("--request", "cache_salt=a"): "cache_salt was not there, and is 'a' now",
        ("--max-tokens", 9): "max_tokens was 24, and is 9 now",
    }
    for more, said in others.items():
        with EngineServer("sglang", None, chats("b", 1), gets=serving("ckpt/v8")) as server:
            done = run(capsys, "capture", server.url, *otherwise(given, *more))
        assert done.code == 2
        assert f"sample c/0 was asked for otherwise: {said}" in done.err
        assert "hint: give the options of that run, or remove the file" in done.err
        assert server.posts == []
    assert (tmp_path / "x.jsonl.partial.jsonl").read_bytes() == kept


def test_native_sampling_options_are_compared_one_by_one(tmp_path, capsys):
    """Of SGLang's sampling_params the one that differs is named."""
    ids = request_of(SGLANG, "generate_ids")["input_ids"]
    prompts = prompts_file(tmp_path, {"input_ids": ids})
    answer = response_of(SGLANG, "generate_ids")
    flags = ("--prompts", prompts, "--save", tmp_path / "x.jsonl", "--n", 2, *QUIET, *FAST)
    with EngineServer("sglang", reply(json.dumps(answer).encode()), lives=1) as server:
        assert run(capsys, "capture", server.url, *flags).code == 2
        done = run(capsys, "capture", server.url, *flags, "--temperature", 0.5)
    assert "sample 0/0 was asked for otherwise: temperature was 1.0, and is 0.5 now" in done.err
    del answer["meta_info"]["id"]
    assert done.code == 2


def test_a_renamed_vllm_model_too(tmp_path, capsys):
    """vLLM's completions name the model as well: a new name at --request model= goes on."""
    prompt = request_of(VLLM, "completion_ids")["prompt"]
    prompts = prompts_file(tmp_path, {"prompt": prompt})
    answer = response_of(VLLM, "completion_ids")
    given = ("--prompts", prompts, "--save", tmp_path / "x.jsonl", "--n", 2, *QUIET, *FAST)
    answers = [reply(json.dumps({**answer, "id": name}).encode()) for name in "ab"]
    with EngineServer("vllm", None, answers[:1], lives=1) as server:
        assert run(capsys, "capture", server.url, *given).code == 2
    with EngineServer("vllm", None, answers[1:]) as server:
        done = run(capsys, "capture", server.url, *given, "--request", "model=b")
    assert done.code == 0, done.err
    assert "the served model was qwen3_moe (1 answers), and is b now" in done.err
