"""Forms of routed_experts that no recording has, built from recorded payloads or by hand."""

import json
import tracemalloc

import numpy as np
import pytest

from routectl.dump import WeightSpan
from routectl.errors import FormatError
from routectl.formats import open_dump
from routectl.formats.responses.streams import merge_stream
from support.building import as_npy, record, some_ids, write_json, write_lines
from support.recordings import (
    DEEPSEEK_CONFIG,
    QWEN,
    SGLANG,
    VLLM,
    decode,
    deepseek_record,
    request_of,
    response_of,
)

SPANS = [{"version": "v7", "start": 0, "end": 20}, {"version": "v8", "start": 20, "end": 24}]


def _token_in_token_out(name):
    """What /inference/v1/generate would have answered to a recorded completion."""
    choice = response_of(VLLM, name)["choices"][0]
    content = [{"token_id": t, "logprob": -0.5 - t, "rank": 1} for t in choice["token_ids"]]
    return {
        "request_id": "r1",
        "choices": [
            {
                "index": 0,
                "finish_reason": "length",
                "token_ids": choice["token_ids"],
                "logprobs": {"content": content},
                "routed_experts": choice["routed_experts"],
                "weight_versions": SPANS,
            }
        ],
    }


@pytest.mark.parametrize(("name", "start"), [("completion_ids", 0), ("completion_start_mid", 20)])
def test_token_in_token_out(tmp_path, name, start):
    """/inference/v1/generate: prompt and start come from the request, spans from choices."""
    document = _token_in_token_out(name)
    request = request_of(VLLM, "generate_tokens")
    if start:
        request["sampling_params"]["routed_experts_prompt_start"] = start
    path = write_json(tmp_path / "x.response.json", document, config=None, request=request)
    (sample,) = open_dump(path, model=QWEN)
    choice = document["choices"][0]
    assert sample.prompt_ids.tolist() == request["token_ids"]
    assert sample.response_ids.tolist() == choice["token_ids"]
    assert sample.logprobs.tolist() == [-0.5 - t for t in choice["token_ids"]]
    assert sample.routes.start == start
    np.testing.assert_array_equal(sample.routes.ids_TLK, decode(choice["routed_experts"]))
    assert sample.weight_spans == (WeightSpan("v7", 0, 20), WeightSpan("v8", 20, 24))
    assert sample.sample_id == "r1/0"


def test_token_in_token_out_stream(tmp_path):
    """The stream of /inference/v1/generate: ids of all chunks, routes of the last."""
    whole = _token_in_token_out("completion_ids")["choices"][0]
    chunks = []
    for lo in range(0, 24, 10):
        ids, content = whole["token_ids"][lo : lo + 10], whole["logprobs"]["content"][lo : lo + 10]
        choice = {"index": 0, "token_ids": ids, "logprobs": {"content": content}}
        chunks.append({"request_id": "r1", "choices": [choice]})
    last = {k: whole[k] for k in ("finish_reason", "routed_experts", "weight_versions")}
    chunks[-1]["choices"][0] |= last
    path = tmp_path / "x.response.sse"
    text = "".join(f"data: {json.dumps(chunk)}\r\n\r\n" for chunk in chunks) + "data: [DONE]\n\n"
    path.write_text(": ping\n\n" + text, "utf-8", newline="")
    request = request_of(VLLM, "generate_tokens")
    (tmp_path / "x.request.json").write_text(json.dumps(request), "utf-8")
    (sample,) = open_dump(path, model=QWEN)
    assert sample.response_ids.tolist() == whole["token_ids"]
    assert len(sample.logprobs) == 24
    assert sample.routes.num_tokens == 68
    assert sample.finish_reason == "length"


@pytest.mark.parametrize("rows_less", [0, 1])
def test_split_form_of_vllm_0_21(tmp_path, rows_less):
    """vLLM 0.21: prompt rows and response rows, MoE layers only, G or G-1 rows, -1 is missing."""
    line, ids = deepseek_record()
    prompt, response = line["prompt_token_ids"], line["token_ids"]
    p = len(prompt)
    split = ids[:, 1:].astype(int)
    split[:3] = -1
    last = some_ids(1, 4, 4, 32)
    tail = np.concatenate([split[p:], last])[: len(response) - rows_less]
    choice = {"index": 0, "token_ids": response, "routed_experts": tail.tolist()}
    document = {
        "id": "cmpl-1",
        "object": "text_completion",
        "prompt_token_ids": prompt,
        "prompt_routed_experts": split[:p].tolist(),
        "choices": [choice],
    }
    path = write_json(tmp_path / "split.json", document, config=None)
    (sample,) = open_dump(path, model=DEEPSEEK_CONFIG)
    assert p > 3
    assert sample.routes.start == 0
    assert sample.routes.missing_TL[:3].all()
    assert not sample.routes.missing_TL[3:].any()
    np.testing.assert_array_equal(sample.routes.ids_TLK[3:], ids[3:, 1:])


@pytest.mark.parametrize("place", ["choice", "sgl_ext", "doc"])
def test_older_places_of_sglang(tmp_path, place):
    """SGLang before sglext: raw base64 in the choice, in sgl_ext or beside the choices."""
    document = response_of(SGLANG, "completion_ids")
    payload = document.pop("sglext")["routed_experts"]
    if place == "choice":
        document["choices"][0]["routed_experts"] = payload
    elif place == "sgl_ext":
        document["sgl_ext"] = {"routed_experts": payload}
    else:
        document["routed_experts"] = payload
    request = request_of(SGLANG, "completion_ids")
    path = write_json(tmp_path / "x.response.json", document, config=None, request=request)
    dump = open_dump(path, model=QWEN)
    assert dump.meta.engine == "sglang"
    assert (dump[0].routes.start, dump[0].prompt_length, dump[0].response_length) == (0, 45, 9)
    np.testing.assert_array_equal(dump[0].routes.ids_TLK, decode(payload))


@pytest.mark.parametrize("encode", [as_npy, np.ndarray.tolist])
def test_request_outputs(tmp_path, encode):
    """vLLM's RequestOutput saved as JSON: one sample an output, all with the request's prompt."""
    prompt = [5, 6, 7]
    arrays = [some_ids(3 + length - 1, seed=length) for length in (4, 2)]
    outputs = [
        {
            "index": i,
            "token_ids": list(range(len(ids) - 2)),
            "logprobs": [-1.0] * (len(ids) - 2),
            "routed_experts": encode(ids),
            "finish_reason": "stop",
        }
        for i, ids in enumerate(arrays)
    ]
    documents = [
        {
            "request_id": "9",
            "prompt_token_ids": prompt,
            "outputs": outputs,
            "num_cached_tokens": 2,
        }
    ] * 2
    dump = open_dump(write_lines(tmp_path / "outputs.jsonl", documents))
    assert len(dump) == 4
    assert [key.sample_id for key in dump.keys] == ["9/0", "9/1"] * 2
    for sample, ids in zip(dump, arrays * 2, strict=True):
        np.testing.assert_array_equal(sample.routes.ids_TLK, ids)
        assert sample.prompt_ids.tolist() == prompt
        assert sample.logprobs.tolist() == [-1.0] * sample.response_length
        assert (sample.finish_reason, sample.cached_tokens) == ("stop", 2)


def test_candidate_logprobs_of_request_outputs(tmp_path):
    """In RequestOutput a token's log-prob is looked up among its candidates by the sampled id."""
    ids = some_ids(3 + 2 - 1, seed=0)
    candidates = [
        {"41": {"logprob": -3.5, "rank": 9}, "8": {"logprob": -0.1, "rank": 1}},
        {"42": {"logprob": -0.25, "rank": 1}},
    ]
    output = {"token_ids": [41, 42], "logprobs": candidates, "routed_experts": as_npy(ids)}
    document = {"request_id": "1", "prompt_token_ids": [5, 6, 7], "outputs": [output]}
    dump = open_dump(write_lines(tmp_path / "outputs.jsonl", [document]))
    assert dump[0].logprobs.tolist() == [-3.5, -0.25]


def _write_stream(folder, chunks, name):
    """Chunks as a .sse file beside the recorded request ``name``."""
    path = folder / "x.response.sse"
    text = "".join(f"data: {json.dumps(c, ensure_ascii=False)}\n\n" for c in chunks)
    path.write_text(text + "data: [DONE]\n\n", "utf-8")
    request = json.dumps(request_of(SGLANG, name))
    (folder / "x.request.json").write_text(request, "utf-8")
    return path


def _recorded_chunks(name):
    lines = (SGLANG / f"{name}.response.sse").read_text("utf-8").split("\n")
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


def test_only_newlines_end_a_line_of_a_stream(tmp_path):
    """Text with U+2028, U+0085 and other line breaks of Unicode does not cut a stream's chunk."""
    chunks = _recorded_chunks("generate_stream")
    for chunk in chunks:
        chunk["text"] = "a\u2028b\u2029c\x85d\x0be\x1cf"
    (sample,) = open_dump(_write_stream(tmp_path, chunks, "generate_stream"), model=QWEN)
    (plain,) = open_dump(SGLANG / "generate_stream.response.sse", model=QWEN)
    assert sample.token_ids.tolist() == plain.token_ids.tolist()
    np.testing.assert_array_equal(sample.routes.ids_TLK, plain.routes.ids_TLK)


def test_incremental_streams_add_up(tmp_path):
    """Where each chunk of /generate has only the new ids, the sample has all of them."""
    chunks = _recorded_chunks("generate_stream")
    whole = chunks[-1]["output_ids"]
    for i, chunk in enumerate(chunks):
        chunk["output_ids"] = whole[i : i + 1]
    (sample,) = open_dump(_write_stream(tmp_path, chunks, "generate_stream"), model=QWEN)
    assert sample.response_ids.tolist() == whole
    assert sample.routes.num_tokens == 50


def test_interleaved_choices_of_a_stream(tmp_path):
    """A stream of two choices gives two samples, and SGLang's routes go to the first."""
    chunks = []
    for chunk in _recorded_chunks("completion_stream"):
        chunks.append(chunk)
        if chunk["choices"]:
            choice = {**chunk["choices"][0], "index": 1, "finish_reason": None}
            chunks.append({**chunk, "choices": [choice]})
    dump = open_dump(_write_stream(tmp_path, chunks, "completion_stream"), model=QWEN)
    assert [key.sample_id[-2:] for key in dump.keys] == ["/0", "/1"]
    assert [sample.routes is None for sample in dump] == [False, True]
    assert [sample.finish_reason for sample in dump] == ["length", None]


def test_a_stream_of_two_kinds_is_refused(tmp_path):
    """A chunk of /generate behind one of completions: neither the one nor the other is read."""
    chunks = _recorded_chunks("completion_stream") + _recorded_chunks("generate_stream")
    with pytest.raises(FormatError, match="the stream is of two kinds: chunks with meta_info"):
        open_dump(_write_stream(tmp_path, chunks, "generate_stream"), model=QWEN)


@pytest.mark.parametrize("kind", [{"choices": [{"token_ids": [7]}]}, {"meta_info": {"id": "x"}}])
def test_chunks_of_a_stream_are_let_go_of(kind):
    """Merging holds one chunk at a time: what it says anew takes the place of what was said."""
    chunk = json.dumps({**kind, "usage": [[]] * 1000})  # 64 kB as objects
    text = f"data: {chunk}\n\n" * 200 + "data: [DONE]\n\n"
    tracemalloc.start()
    merge_stream(text, "x.sse")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * len(text)  # its lines, and little else


@pytest.mark.parametrize("error", [{"message": "killed"}, "killed"])
def test_a_stream_that_failed_says_so(tmp_path, error):
    """A stream that ends with an error is an error response; a null error is none."""
    chunks = _recorded_chunks("generate_stream")
    path = _write_stream(tmp_path, [{**c, "error": None} for c in chunks], "generate_stream")
    assert len(open_dump(path, model=QWEN)) == 1
    path = _write_stream(tmp_path, [*chunks, {"error": error}], "generate_stream")
    with pytest.raises(FormatError, match="an error response: killed"):
        open_dump(path, model=QWEN)


def test_choices_in_any_order(tmp_path):
    """Choices are told by their index: sglext is of index 0, prompts go by index."""
    document = response_of(SGLANG, "completion_batch")
    document["choices"].reverse()
    request = request_of(SGLANG, "completion_batch")
    path = write_json(tmp_path / "x.response.json", document, config=None, request=request)
    second, first = open_dump(path, model=QWEN)
    assert (first.routes is None, second.routes is None) == (False, True)
    assert first.prompt_ids.tolist() == request["prompt"][0]
    assert second.prompt_ids.tolist() == request["prompt"][1]


def test_prompts_in_sglext_are_spread_over_their_choices(tmp_path):
    """With one list of input ids a prompt and n choices of each, every choice has its prompt."""
    choice = {"token_ids": [7, 8], "routed_experts": as_npy(some_ids(4))}
    document = {
        "choices": [{**choice, "index": i} for i in range(4)],
        "sglext": {"input_ids": [[1, 2, 3], [4, 5, 6]]},
    }
    dump = open_dump(write_json(tmp_path / "x.json", document))
    assert [s.prompt_ids.tolist() for s in dump] == [[1, 2, 3]] * 2 + [[4, 5, 6]] * 2


def test_split_halves_of_two_shapes_are_refused(tmp_path):
    """Prompt rows and response rows of two widths are refused with both shapes."""
    document = {
        "id": "x",
        "prompt_token_ids": [1, 2],
        "prompt_routed_experts": some_ids(2).tolist(),
        "choices": [{"token_ids": [1, 2], "routed_experts": some_ids(2, 2).tolist()}],
    }
    path = write_json(tmp_path / "x.json", document)
    with pytest.raises(FormatError, match=r"\(2, 3, 2\) and routed_experts \(2, 2, 2\) are not of"):
        list(open_dump(path))


@pytest.mark.parametrize(
    ("flags", "mask"),
    [
        ([0, 0, 0, 1, 1, 0], [False, False, False, True, True, False]),
        ([True, False, True], [False, False, False, True, False, True]),
        ([0.0] * 6, [False] * 6),
        (None, None),
    ],
)
def test_loss_masks(tmp_path, flags, mask):
    """A mask of all tokens is taken as it is, one of the response is false for the prompt."""
    path = write_lines(tmp_path / "x.jsonl", [record(some_ids(5), loss_mask=flags)])
    (sample,) = open_dump(path)
    assert (None if sample.loss_mask is None else sample.loss_mask.tolist()) == mask
    write_lines(path, [record(some_ids(5), loss_mask=[1] * 4)])
    with pytest.raises(FormatError, match=r"loss_mask: got 4 entries, expected 6 \(all tokens\)"):
        list(open_dump(path))
