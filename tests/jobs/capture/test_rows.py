"""The rows of a live answer: exactly those of its tokens, and of the model that ran."""

import base64
import io
import json
import re

import numpy as np
import pytest

from routectl.formats import open_dump
from support.capturing import FAST, captured, prompts_file
from support.engine_server import EngineServer, recorded, reply
from support.recordings import FIXTURES, QWEN, SGLANG, VLLM, decode, request_of
from support.shell import complaint, run, written

TINY_RL = FIXTURES / "tiny_rl" / "config.json"
VLLM_33 = FIXTURES / "servers" / "vllm-0.33.0" / "tiny_rl"
# folder, recorded answer, engine, endpoint or None, config, N - 1 rows
FORMS = {
    "SGLang generate": (SGLANG, "generate_ids", "sglang", None, QWEN),
    "SGLang generate text": (SGLANG, "generate_text", "sglang", None, QWEN),
    "SGLang completions": (SGLANG, "completion_token_ids", "sglang", "completions", QWEN),
    "SGLang chat": (SGLANG, "chat_token_ids", "sglang", None, QWEN),
    "vLLM completions": (VLLM, "completion_ids", "vllm", None, QWEN),
    "vLLM completions text": (VLLM, "completion_text", "vllm", None, QWEN),
    "vLLM chat": (VLLM, "chat", "vllm", None, QWEN),
    "vLLM inference": (VLLM_33, "inference", "vllm", "inference", TINY_RL),
    "vLLM 0.33 completions": (VLLM_33, "completion_weight_versions", "vllm", None, TINY_RL),
}
WRONG = {
    "4 layers": {"num_hidden_layers": 4},
    "K = 8": {"num_experts_per_tok": 8},
    "3 layers of K = 8": {"num_hidden_layers": 3, "num_experts_per_tok": 8},
    "12 layers": {"num_hidden_layers": 12},
}
_PAYLOAD = re.compile(rb'("routed_experts": ?")([^"]+)"')


def with_rows(answer, change):
    """A recorded answer whose rows [T, 6, 4] are changed, in the container that they came in."""
    (found,) = _PAYLOAD.findall(answer.body)
    rows = change(decode(found[1].decode()))
    if base64.b64decode(found[1]).startswith(b"\x93NUMPY"):
        file = io.BytesIO()
        np.save(file, rows, allow_pickle=False)
        data = file.getvalue()
    else:
        data = rows.astype("<i4").tobytes()
    text = base64.b64encode(data)
    return reply(_PAYLOAD.sub(lambda m: m[1] + text + b'"', answer.body))


def asked(capsys, folder, form, answer, config, *more):
    """A capture of one recorded prompt from a server that gives this answer."""
    place, name, engine, endpoint, _ = FORMS[form]
    body = request_of(place, name)
    names = ("input_ids", "text", "prompt", "messages", "token_ids")
    prompts = prompts_file(folder, {k: body[k] for k in names if k in body})
    flags = ("--endpoint", endpoint) if endpoint else ()
    with EngineServer(engine, answer) as server:
        flags = (*flags, "--model", config, *FAST, *more)
        return captured(capsys, server, prompts, folder / "dump.parquet", *flags)


def config_of(folder, base, **changed):
    """The config.json of another model."""
    path = folder / "other.json"  # not beside the dump as config.json: that is the dump's own
    path.write_text(json.dumps({**json.loads(base.read_text("utf-8")), **changed}))
    return path


@pytest.mark.parametrize("form", FORMS)
def test_the_right_model_is_taken(tmp_path, capsys, form):
    """The answers of every form have N - 1 rows, and are written."""
    place, name, *_, config = FORMS[form]
    done = asked(capsys, tmp_path, form, recorded(place, name), config)
    assert done.code == 0, done.err
    (sample,) = open_dump(tmp_path / "dump.parquet")
    assert sample.routes.num_tokens == sample.num_tokens - 1


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("form", FORMS)
def test_another_model_is_refused(tmp_path, capsys, form, wrong):
    """With another model's sizes the first answer is refused, and the line names the model."""
    place, name, *_, base = FORMS[form]
    config = config_of(tmp_path, base, **WRONG[wrong])
    done = asked(capsys, tmp_path, form, recorded(place, name), config)
    assert done.code == 2
    line, hint = done.err.splitlines()[-2:]
    assert re.search(r"N = \d+ tokens \(\d+ prompt \+ \d+ response\) have N - 1 = \d+ row", line)
    assert "6 x 4" in line or ", 6, 4)" in line
    assert hint.startswith("hint: --model CONFIG.json of the model that the server runs")
    assert not (tmp_path / "dump.parquet").exists()


@pytest.mark.parametrize("rows", ["N", "N - 2", "none"])
@pytest.mark.parametrize("form", FORMS)
def test_forms_of_files_are_none_of_answers(tmp_path, capsys, form, rows):
    """A row for the last token too, one too few and none at all are refused, whatever the model."""
    place, name, *_, config = FORMS[form]
    changes = {"N": lambda r: np.concatenate([r, r[:1]]), "N - 2": lambda r: r[:-1]}
    answer = with_rows(recorded(place, name), changes.get(rows, lambda r: r[:0]))
    done = asked(capsys, tmp_path, form, answer, config)
    assert done.code == 2
    assert "have N - 1 = " in done.err or "no routed_experts in the answer" in done.err
    assert not (tmp_path / "dump.parquet").exists()


@pytest.mark.parametrize("shape", [(4, 4), (6, 8)])
def test_a_first_answer_of_two_tokens_tells(tmp_path, capsys, shape):
    """Three tokens, two rows: read as 4 layers they are N rows, and at K = 8 they are N - 2."""
    answer = json.loads(recorded(SGLANG, "generate_max1").body)
    meta, ids = answer["meta_info"], request_of(SGLANG, "generate_max1")["input_ids"]
    rows = decode(meta["routed_experts"])[:2]
    meta |= {"routed_experts": base64.b64encode(rows.tobytes()).decode(), "prompt_tokens": 2}
    prompts = prompts_file(tmp_path, {"input_ids": ids[:1]})
    answer["output_ids"] = [5, 6]
    meta |= {"prompt_tokens": 1, "completion_tokens": 2, "output_token_logprobs": []}
    sizes = {"num_hidden_layers": shape[0], "num_experts_per_tok": shape[1]}
    config = config_of(tmp_path, QWEN, **sizes)
    with EngineServer("sglang", reply(json.dumps(answer).encode())) as server:
        flags = ("capture", server.url, "--prompts", prompts, "--save", tmp_path / "x.parquet")
        done = run(capsys, *flags, "--model", config)
        right = run(capsys, *flags, "--model", QWEN)
    assert done.code == 2
    assert "got 192 bytes = 48 ids of routes, but N = 3 tokens (1 prompt + 2 response)" in done.err
    assert "24 ids a row, which L x K = 24 x 1, 12 x 2, 8 x 3, 6 x 4, 4 x 6, 3 x 8" in done.err
    assert f"the given model has L x K = {shape[0]} x {shape[1]}" in done.err
    assert "that the server runs: ckpt/qwen3_moe" in done.err
    assert right.code == 0, right.err


def test_a_start_that_is_asked_for_counts(tmp_path, capsys):
    """With routed_experts_start_len the rows are N - 1 - start; without it they are too few."""
    body = request_of(SGLANG, "generate_start_mid")
    prompts = prompts_file(tmp_path, {"input_ids": body["input_ids"]})
    start = body["routed_experts_start_len"]
    target = tmp_path / "dump.parquet"
    with EngineServer("sglang", recorded(SGLANG, "generate_start_mid")) as server:
        flags = ("--model", QWEN, *FAST)
        field = ("--request", f"routed_experts_start_len={start}")
        done = captured(capsys, server, prompts, target, *flags, *field)
        assert done.code == 0, done.err
        assert server.posts[-1].body["routed_experts_start_len"] == start
        bare = captured(capsys, server, prompts, tmp_path / "bare.parquet", *flags)
    assert bare.code == 2
    assert "the given model has L x K = 6 x 4" in bare.err
    (sample,) = open_dump(target)
    assert sample.routes.start == start
    assert not sample.start_inferred


def test_rows_are_counted_without_a_model(tmp_path, capsys):
    """JSON lines of an unknown model refuse rows that fit no model, and a count in a header."""
    for folder, name, engine in ((SGLANG, "generate_ids", "sglang"), (VLLM, "chat", "vllm")):
        body = request_of(folder, name)
        prompt = {k: body[k] for k in ("input_ids", "messages") if k in body}
        prompts = prompts_file(tmp_path, prompt)
        cut = with_rows(recorded(folder, name), lambda r: r[:-1])
        for answer, code in ((recorded(folder, name), 0), (cut, 2)):
            target = tmp_path / f"{engine}.{code}.jsonl"
            with EngineServer(engine, answer) as server:
                done = captured(capsys, server, prompts, target, *FAST)
            assert done.code == code, done.err
            assert target.exists() == (code == 0)
            assert ("but N = " in done.err) == (code == 2)


def test_an_answer_that_hides_its_tokens_is_refused(tmp_path, capsys):
    """Without token ids and counts nobody knows how many rows there should be."""
    answer = json.loads(recorded(VLLM, "completion_no_token_ids").body)
    answer.pop("usage")
    answer["choices"][0]["logprobs"] = None
    prompts = prompts_file(tmp_path, {"prompt": "def"})
    with EngineServer("vllm", reply(json.dumps(answer).encode())) as server:
        flags = ("--prompts", prompts, "--save", tmp_path / "x.parquet", "--model", QWEN, *FAST)
        said = run(capsys, "capture", server.url, *flags)
    assert said.code == 2
    assert "says neither its tokens nor how many there are" in said.err


def test_kept_answers_of_another_model_are_refused(tmp_path, capsys):
    """A side file that was kept without a model is judged with the one that is given now."""
    body = request_of(SGLANG, "generate_ids")
    prompts = prompts_file(tmp_path, *({"input_ids": body["input_ids"]} for _ in range(2)))
    side = tmp_path / "x.jsonl.partial.jsonl"
    config = config_of(tmp_path, QWEN, num_hidden_layers=5)
    with EngineServer("sglang", recorded(SGLANG, "generate_ids"), lives=1) as server:
        flags = ("capture", server.url, "--prompts", prompts, "--save", tmp_path / "x.jsonl", *FAST)
        first = run(capsys, *flags)
        assert (first.code, side.exists()) == (2, True), first.err
        said = run(capsys, *flags, "--model", config)
    assert said.code == 2
    assert f"{side}: " in said.err
    assert "the given model has L x K = 5 x 4" in said.err
    assert "x.jsonl" not in written(tmp_path)


def test_zero_rows_are_no_missing_routes(tmp_path, capsys):
    """SGLang leaves routed_experts out of an OpenAI answer that has no row from the start on."""
    answer = json.loads(recorded(SGLANG, "completion_token_ids").body)
    choice = answer["choices"][0]
    count = len(choice["prompt_token_ids"])
    answer.pop("sglext", None)
    choice["token_ids"], choice["logprobs"] = choice["token_ids"][:1], None
    prompts = prompts_file(tmp_path, {"prompt": choice["prompt_token_ids"]})
    with EngineServer("sglang", reply(json.dumps(answer).encode())) as server:
        flags = ("--prompts", prompts, "--endpoint", "completions", "--model", QWEN, *FAST)
        field = ("--request", f"routed_experts_start_len={count}", "--save", tmp_path / "a.jsonl")
        done = run(capsys, "capture", server.url, *flags, *field)
        assert done.code == 0, done.err
        bare = (*flags, "--save", tmp_path / "b.jsonl")
        assert "no routed_experts in the answer" in run(capsys, "capture", server.url, *bare).err


def test_complaints_are_one_line(tmp_path, capsys):
    """Before a server is found nothing but the error is said."""
    flags = ("--prompts", prompts_file(tmp_path, {"prompt": [1]}), "--save", tmp_path / "x.parquet")
    with EngineServer("none") as gone:
        pass
    assert "Connection refused" in complaint(
        capsys, "capture", gone.url, *flags, "--model", QWEN, *FAST
    )
