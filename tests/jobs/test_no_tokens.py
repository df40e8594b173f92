"""--no-tokens: nothing that is written has a token id, a text, or a name that is one."""

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from routectl import diff
from routectl.formats import open_dump
from routectl.formats.native.container import write_native
from support.capturing import FAST, QUIET, captured, one_prompt, prompts_file
from support.engine_server import EngineServer, error, recorded, reply, vllm_rollouts
from support.recordings import QWEN, SGLANG, VLLM, request_of, response_of
from support.shell import DUMPS, complaint, document, run, written

ID, TEXT = 987_654, "the patient said"  # in no dump unless they were put there
MARKS = (str(ID), TEXT, TEXT.upper(), "the\\npatient", json.dumps(TEXT))


def holds_marks(path):
    """Whether a file has the id or the text, as bytes."""
    data = path.read_bytes()
    return any(mark.encode() in data for mark in MARKS) or b"patient" in data


def marked(samples, *, names=False):
    """Samples whose token ids are the marked one, and with ``names`` their names the text."""
    for i, sample in enumerate(samples):
        ids = [
            np.full(len(part), ID, np.int32) for part in (sample.prompt_ids, sample.response_ids)
        ]
        name = f"{TEXT} {i}\nand more" if names else sample.sample_id
        ids[0][:1] = i  # else all are one sample
        yield replace(sample, prompt_ids=ids[0], response_ids=ids[1], sample_id=name)


@pytest.fixture(scope="module")
def dumps(tmp_path_factory):
    """Two native files of marked samples that differ, with names that are texts."""
    folder, source = tmp_path_factory.mktemp("marked"), open_dump(DUMPS["native"])
    samples = list(marked(source, names=True))[:8]
    write_native(samples, source.meta, folder / "old.parquet", force=False)
    late = [
        replace(s, routes=replace(s.routes, ids_TLK=np.roll(s.routes.ids_TLK, 1, axis=0)))
        for s in samples
    ]
    write_native(late, source.meta, folder / "new.parquet", force=False)
    return folder / "old.parquet", folder / "new.parquet"


PAGES = {
    "diff": ("diff", "OLD", "NEW", "--exit-zero"),
    "by tokens": ("diff", "OLD", "NEW", "--exit-zero", "--match", "tokens", "--examples", 3),
    "check": ("check", "NEW", "--exit-zero"),
    "against": ("check", "NEW", "--against", "OLD", "--exit-zero"),
    "show": ("show", "OLD"),
    "staleness": ("staleness", "OLD", "--at", "v0=OLD", "--at", "v1=NEW", "--version-map", "=v0"),
}


def words_of(line, dumps):
    """A command line on the two dumps."""
    old, new = map(str, dumps)
    return [str(word).replace("OLD", old).replace("NEW", new) for word in line]


@pytest.mark.parametrize("line", PAGES.values(), ids=PAGES.keys())
def test_pages_hold_no_tokens(tmp_path, capsys, dumps, line):
    """Neither a page, nor the data in it, nor the report on stdout has an id or a text."""
    words = words_of(line, dumps)
    done = run(capsys, *words, "--json", "--html", tmp_path / "x.html", "--no-tokens")
    assert done.code == 0, done.err
    assert not holds_marks(tmp_path / "x.html")
    assert not any(mark in done.out for mark in (*MARKS, "patient"))
    shown = run(capsys, *words, "--no-tokens")
    assert "patient" not in shown.out


def test_pages_hold_them_otherwise(tmp_path, capsys, dumps):
    """Without the option a page of a diff has ids and names: the marks are found where they are."""
    words = words_of(PAGES["diff"], dumps)
    assert run(capsys, *words, "--html", tmp_path / "x.html").code == 0
    assert str(ID) in (tmp_path / "x.html").read_text("utf-8")
    assert "patient" in (tmp_path / "x.html").read_text("utf-8")


def test_a_saved_report_is_shown_without_tokens(tmp_path, capsys, dumps):
    """A page made of a report that has ids and texts has none; what is compared stays."""
    words = words_of(PAGES["diff"], dumps)
    saved = tmp_path / "x.json"
    assert run(capsys, *words, "-o", saved).code == 0
    assert holds_marks(saved)
    done = run(capsys, "report", saved, "-o", tmp_path / "x.html", "--no-tokens")
    assert done.code == 0, done.err
    assert not holds_marks(tmp_path / "x.html")
    told = run(capsys, "report", saved, "--no-tokens").out
    assert "(name 1 withheld)" in told
    assert told.splitlines()[0] == run(capsys, "report", saved).out.splitlines()[0]


def test_texts_of_tokens_are_not_wanted_without_tokens(tmp_path, capsys, dumps):
    """A tokenizer for a page without tokens is refused."""
    words = words_of(PAGES["diff"], dumps)
    more = ("--html", tmp_path / "x.html", "--tokenizer", tmp_path, "--no-tokens")
    assert "cannot both be given" in complaint(capsys, *words, *more)


TARGETS = {
    "x.parquet": (),
    "packed.parquet": ("--codec", "packed", "--verify"),
    "context.parquet": ("--codec", "context", "--keep-order", "--verify"),
    "x.jsonl": (),
}


@pytest.mark.parametrize(("name", "more"), TARGETS.items(), ids=TARGETS.keys())
def test_converted_files_hold_no_tokens(tmp_path, capsys, name, more):
    """Routes, counts and names of a sample stay; ids do not, and a line says what is lost."""
    source = open_dump(DUMPS["native"])
    write_native(marked(source), source.meta, tmp_path / "marked.parquet", force=False)
    target = tmp_path / name
    done = run(
        capsys, "convert", tmp_path / "marked.parquet", "--save", target, *more, "--no-tokens"
    )
    assert done.code == 0, done.err
    assert "without token ids: samples are joined by their names alone" in done.err
    assert not holds_marks(target)
    made = open_dump(target, model=DUMPS["config"])
    assert all(s.prompt_ids is None and s.response_ids is None for s in made)
    assert all(key.tokens is None and key.prompt is None for key in made.keys)
    found = diff(source, made)
    assert (found.samples.compared, found.rows_mismatched) == (len(source), 0)
    assert [s.num_tokens for s in made] == [s.num_tokens for s in source]
    assert all(np.array_equal(a.logprobs, b.logprobs) for a, b in zip(made, source, strict=True))
    if target.suffix == ".parquet":
        table = pq.read_table(target, columns=["prompt_ids", "response_ids"])
        assert all(column.null_count == len(source) for column in table.columns)


@pytest.mark.parametrize(
    "target", ["verl", "slime", "skyrl", "nemo-rl", "prime-rl", "jsonl-sglang", "npz"]
)
def test_what_is_made_of_tokens_is_refused(tmp_path, capsys, target):
    """A trainer's format that needs token ids is refused in one line, and nothing is written."""
    line = ("convert", DUMPS["native"], "--save", tmp_path / "x", "--to", target, "--no-tokens")
    said = complaint(capsys, *line)
    assert f"--no-tokens: {target} needs token ids: expected native or jsonl" in said
    line = (
        "convert",
        DUMPS["native"],
        "--save",
        tmp_path / "x.parquet",
        "--codec",
        "delta",
        "--no-tokens",
    )
    assert "--no-tokens: delta finds the rows of its base by token ids" in complaint(capsys, *line)
    assert written(tmp_path) == []


def spoken(answer):
    """An answer of SGLang with the marked ids and text, wherever it has some."""
    meta = answer["meta_info"]
    scored = [[score, ID, TEXT] for score, _, _ in meta["output_token_logprobs"]]
    reason = {"type": "stop", "matched": TEXT}
    told = {**meta, "output_token_logprobs": scored, "finish_reason": reason, "echo": [TEXT]}
    ids = [ID] * len(answer["output_ids"])
    return {**answer, "text": TEXT, "output_ids": ids, "prompt": TEXT, "meta_info": told}


CAPTURED = {
    "native": ("x.parquet", ("--model", QWEN)),
    "lines": ("x.jsonl", ("--model", QWEN)),
    "lines of no model": ("x.jsonl", ()),
}


@pytest.mark.parametrize(("name", "model"), CAPTURED.values(), ids=CAPTURED.keys())
def test_captures_hold_no_tokens(tmp_path, capsys, name, model):
    """A capture has the routes of every answer, and neither what was asked nor what was said."""
    whole = response_of(SGLANG, "generate_ids")
    asked = {"id": "p", "input_ids": [ID] * 45, "sampling": {"stop": [TEXT], "top_p": 0.5}}
    flags = ("--max-tokens", 24, *model, *FAST, "--request", f"extra_key={TEXT}", "--no-tokens")
    with EngineServer("sglang", reply(json.dumps(spoken(whole)).encode())) as server:
        done = captured(capsys, server, prompts_file(tmp_path, asked), tmp_path / name, *flags)
    assert done.code == 0, done.err
    assert "without token ids: " in done.err
    assert server.posts[0].body["input_ids"] == [ID] * 45
    assert not holds_marks(tmp_path / name)
    assert written(tmp_path) == ["prompts.jsonl", name]
    sample, plain = open_dump(tmp_path / name, model=QWEN)[0], plain_capture(tmp_path, capsys)
    assert np.array_equal(sample.routes.ids_TLK, plain.routes.ids_TLK)
    assert np.array_equal(sample.logprobs, plain.logprobs)
    for field in ("num_tokens", "prompt_length", "weight_spans", "cached_tokens", "retractions"):
        assert getattr(sample, field) == getattr(plain, field)
    assert (sample.sample_id, sample.group_id, sample.finish_reason) == ("p/0", "p", "stop")
    assert sample.token_ids is None


def plain_capture(folder, capsys):
    """The sample of the recorded answer, captured with its tokens."""
    with EngineServer("sglang", recorded(SGLANG, "generate_ids")) as server:
        captured(capsys, server, one_prompt(folder), folder / "plain.parquet", *QUIET)
    return open_dump(folder / "plain.parquet")[0]


def test_captures_of_vllm_hold_no_tokens(tmp_path, capsys):
    """vLLM's text, ids and token strings stay out too; a start that was asked for is kept."""
    prompt, answers = vllm_rollouts()
    choice = answers[0]["choices"][0]
    choice |= {"text": TEXT, "token_ids": [ID] * len(choice["token_ids"])}
    choice["logprobs"] = {**choice["logprobs"], "tokens": [TEXT] * len(choice["token_ids"])}
    answers[0] |= {"prompt_token_ids": [ID] * len(prompt), "kv": TEXT}
    flags = ("--max-tokens", 24, "--model", QWEN, *FAST, "--no-tokens")
    with EngineServer("vllm", reply(json.dumps(answers[0]).encode())) as server:
        asked = prompts_file(tmp_path, {"prompt": [ID] * len(prompt)})
        done = captured(capsys, server, asked, tmp_path / "x.jsonl", *flags)
    assert done.code == 0, done.err
    assert not holds_marks(tmp_path / "x.jsonl")
    shown = document(capsys, "show", tmp_path / "x.jsonl", "--model", QWEN)
    assert (shown["dump"]["engine"], shown["samples_with_logprobs"]) == ("vllm", 1)


def test_a_start_is_kept_without_tokens(tmp_path, capsys):
    """Rows of an answer that begin later are where they were."""
    asked = request_of(VLLM, "completion_start_mid")
    start = asked["routed_experts_prompt_start"]
    prompts = prompts_file(tmp_path, {"prompt": asked["prompt"]})
    flags = ("--max-tokens", 24, "--model", QWEN, "--no-tokens")
    more = ("--request", f"routed_experts_prompt_start={start}")
    with EngineServer("vllm", recorded(VLLM, "completion_start_mid")) as server:
        done = captured(capsys, server, prompts, tmp_path / "x.jsonl", *flags, *more)
    assert done.code == 0, done.err
    sample = open_dump(tmp_path / "x.jsonl", model=QWEN)[0]
    assert sample.routes.start == start > 0
    assert not sample.start_inferred


def test_a_partial_holds_no_tokens_and_is_not_gone_on_with(tmp_path, capsys):
    """What a failed run leaves is a dump without tokens; the next run says that it is there."""
    whole = spoken(response_of(SGLANG, "generate_ids"))
    asked = prompts_file(tmp_path, {"input_ids": [ID] * 45})
    target, partial = tmp_path / "x.parquet", tmp_path / "x.parquet.partial.jsonl"
    flags = ("--n", 3, "--concurrency", 1, *QUIET, *FAST)
    answers = reply(json.dumps(whole).encode())
    with EngineServer("sglang", answers, [None, error(400, "no")]) as server:
        done = captured(capsys, server, asked, target, *flags, "--no-tokens")
    assert done.code == 2
    said = f"{partial}: keeps 1 of 3 answers; it is a dump, and not gone on with"
    assert said in done.err
    assert not holds_marks(partial)
    assert len(open_dump(partial, model=QWEN)) == 1
    kept = partial.read_bytes()
    with EngineServer("sglang", answers) as server:
        done = captured(capsys, server, asked, target, *flags, "--no-tokens")
        assert "an earlier run left answers there" in done.err
        assert captured(capsys, server, asked, target, *flags).code == 2  # nor with tokens
    assert server.posts == []
    assert partial.read_bytes() == kept
