"""Recorded HTTP traffic of vLLM 0.32.0 and SGLang 0.5.23, against decoding by hand."""

import json

import numpy as np
import pytest

from routectl.dump import WeightSpan
from routectl.errors import FormatError
from routectl.formats import open_dump
from support.building import write_json
from support.recordings import FIXTURES, QWEN, SGLANG, VLLM, decode, request_of, response_of

# the responses with routes: prompt tokens, response tokens, start and rows of each sequence; "-"
# where the response does not tell
EXPECTED = {
    SGLANG: """
    chat                   37 24  0 60
    chat_meta_info_n2      37 24  0 60 | 37 24  0 60
    chat_n2                37 24  0 60 | 37 24  - -
    chat_sglext_ids_n2     37 24  0 60 | 37 24  - -
    chat_stream             -  -  0 42
    chat_token_ids         37 24  0 60
    completion_batch       45  5  0 49 | 70 24  - -
    completion_ids         45  9  0 53
    completion_ids_n2      70 24  0 93 | 70 24  - -
    completion_stream      45  -  0 50
    completion_text         6 24  0 29
    completion_token_ids   45 24  0 68
    generate_batch_n2      45 24 0 68 | 45 24 0 68 | 70 24 0 93 | 70 24 0 93 | 3 24 0 26 | 3 24 0 26
    generate_ids           45 24  0 68
    generate_input_logprobs 45 24 0 68
    generate_max0          45  0  0 44
    generate_max1          45  1  0 45
    generate_start_mid     45 24 20 48
    generate_start_prompt  45 24 45 23
    generate_stop          45 24  0 68
    generate_stream        45  6  0 50
    generate_text           9 24  0 32
    """,
    VLLM: """
    chat                   37 24  0 60
    chat_n2                37 24  0 60 | 37 24  0 60
    chat_plain             37 24  0 60
    chat_turn2             68 24  0 91
    completion_batch       45 24 0 68 | 45 24 0 68 | 70 24 0 93 | 70 24 0 93 | 3 24 0 26 | 3 24 0 26
    completion_echo        45  4  0 48
    completion_echo_0      45  1  0 45
    completion_ids         45 24  0 68
    completion_ids_n4      70 24  0 93 | 70 24  0 93 | 70 24  0 93 | 70 24  0 93
    completion_ids_n4_again 70 24 0 93 | 70 24  0 93 | 70 24  0 93 | 70 24  0 93
    completion_max1        45  1  0 45
    completion_no_token_ids 9 24  0 32
    completion_start_mid   45 24 20 48
    completion_start_prompt 45 24 45 23
    completion_stop        45  1  0 45
    completion_text         9 24  0 32
    """,
}
VLLM_33 = FIXTURES / "servers" / "vllm-0.33.0" / "tiny_rl"
ROWS = [
    pytest.param(folder, line.split()[0], line.split(None, 1)[1], id=f"{folder.parent.name}-{line}")
    for folder, table in EXPECTED.items()
    for line in (line.strip() for line in table.strip().splitlines())
]
NOT_DUMPS = {
    "no routed_experts in any sample, of 1": (
        [(SGLANG, "generate_not_asked"), (VLLM, "chat_stream"), (VLLM, "completion_stream")]
    ),
    "an error response: recv_req.routed_experts_start_len=46": [(SGLANG, "generate_start_too_far")],
    "an error response: routed_experts_prompt_start must be": [(VLLM, "completion_start_too_far")],
    "an error response: Scale-out endpoints are disabled": (
        [(VLLM, f"generate_{name}") for name in ("stream", "tokens", "tokens_n2")]
    ),
    "JSON without routed_experts, choices or meta_info": (
        [(SGLANG, "model_info"), *((VLLM, name) for name in ("models", "version"))]
    ),
    "an answer of /v1/responses, and no engine's carries routes": [(VLLM, "responses")],
}
REFUSED = [(*place, said) for said, places in NOT_DUMPS.items() for place in places]


def _file(folder, name):
    plain = folder / f"{name}.response.json"
    return plain if plain.exists() else folder / f"{name}.response.sse"


def _documents(path):
    """The JSON objects of a response: one, a list, or the chunks of a stream."""
    text = path.read_text("utf-8")
    if path.suffix == ".sse":
        return [json.loads(t[6:]) for t in text.split("\n") if t.startswith("data: {")]
    document = json.loads(text)
    return document if isinstance(document, list) else [document]


def _payloads(path):
    """Payloads in reading order, wherever in the response they are."""
    found = []

    def walk(value):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            if name == "routed_experts":
                found.append(inner)
            elif isinstance(inner, dict | list):
                walk(inner)

    walk(_documents(path))
    return found


def test_every_recorded_response_is_in_a_table():
    """The two tables of this file name all recorded responses."""
    named = {(folder, name) for folder, name, _ in REFUSED}
    named |= {(param.values[0], param.values[1]) for param in ROWS}
    files = [path for folder in EXPECTED for path in folder.glob("*.response.*")]
    assert {(p.parent, p.name.split(".response")[0]) for p in files} == named


@pytest.mark.parametrize(("folder", "name", "numbers"), ROWS)
def test_a_response_gives_its_sequences(folder, name, numbers):
    """A recorded response has the sequences, lengths, start and rows that its request asked for."""
    path = _file(folder, name)
    dump = open_dump(path, model=QWEN)
    wanted = [[None if n == "-" else int(n) for n in part.split()] for part in numbers.split("|")]
    payloads = iter(_payloads(path))
    assert len(dump) == len(wanted)
    for sample, (prompt, response, start, rows) in zip(dump, wanted, strict=True):
        assert (sample.prompt_length, sample.response_length) == (prompt, response)
        assert sample.start_inferred is False
        if start is None:
            assert sample.routes is None
            continue
        assert (sample.routes.start, sample.routes.num_tokens) == (start, rows)
        assert sample.routes.missing_TL is None
        np.testing.assert_array_equal(sample.routes.ids_TLK, decode(next(payloads)))
    assert next(payloads, None) is None
    assert dump.meta.engine == folder.parent.name.split("-")[0]
    assert dump.meta.engine_version == ("0.32.0" if folder is VLLM else None)
    assert dump.meta.wire_dtype == ("uint8" if folder is VLLM else "int32")
    assert dump.meta.format == path.suffix[1:]


@pytest.mark.parametrize(("folder", "name", "reason"), REFUSED)
def test_a_response_without_routes_says_why(folder, name, reason):
    """A response that holds no routes is refused in one line that names the reason."""
    path = _file(folder, name)
    with pytest.raises(FormatError) as caught:
        open_dump(path, model=QWEN)
    assert str(caught.value).startswith(f"{path}: {reason}")
    assert "\n" not in str(caught.value)


NEVER = {
    "vLLM completions": (VLLM / "completion_stream.response.sse", "ask without stream"),
    "vLLM chat": (VLLM / "chat_stream.response.sse", "ask without stream"),
    "vLLM 0.33": (VLLM_33 / "completion_stream.response.sse", "stream /inference/v1/generate"),
    "responses": (VLLM / "responses.response.json", "ask /v1/chat/completions instead"),
    "SGLang": (SGLANG / "generate_not_asked.response.json", "return_routed_experts in each"),
}


@pytest.mark.parametrize(("path", "hint"), NEVER.values(), ids=NEVER.keys())
def test_forms_that_never_carry_routes_are_told_from_those_not_asked(path, hint):
    """Where no flag would help, the hint names none; where one would, it does."""
    with pytest.raises(FormatError) as caught:
        open_dump(path, model=QWEN)
    assert hint in caught.value.hint
    assert ("enable_return_routed_experts" in caught.value.hint) == (path.parent == SGLANG)


def test_a_stream_of_responses_never_carries_routes(tmp_path):
    """A stream of /v1/responses is told as such, though it ends without [DONE]."""
    events = ("response.created", "response.output_text.delta", "response.completed")
    lines = [f"event: {e}\ndata: {json.dumps({'type': e, 'response': {}})}\n\n" for e in events]
    path = tmp_path / "x.sse"
    path.write_text("".join(lines))
    with pytest.raises(FormatError, match="an answer of /v1/responses, and no engine's"):
        open_dump(path, model=QWEN)
    path.write_text("".join(lines).replace("response.", "other."))
    with pytest.raises(FormatError, match="the stream is cut short"):
        open_dump(path, model=QWEN)


@pytest.mark.parametrize("name", ["inference", "inference_stream", "completion_weight_versions"])
def test_vllm_033_reads_as_032(name):
    """Answers and streams of vLLM 0.33 have N - 1 rows, and tell the version of their weights."""
    path = VLLM_33 / f"{name}.response.{'sse' if 'stream' in name else 'json'}"
    (sample,) = open_dump(path, model=FIXTURES / "tiny_rl" / "config.json")
    (payload,) = (found for found in _payloads(path) if found)
    np.testing.assert_array_equal(sample.routes.ids_TLK, decode(payload))
    assert sample.routes.num_tokens == sample.num_tokens - 1
    assert len(sample.weight_spans) == 1


def _choice_facts(choice):
    """Response ids and log-probs of a vLLM choice, by hand; the response part where it echoes."""
    block = choice["logprobs"]
    ids = choice["token_ids"]
    if block is None:
        return ids, None
    if "content" in block:
        return ids, [entry["logprob"] for entry in block["content"]]
    if ids is None:
        ids = [int(token.split(":")[1]) for token in block["tokens"]]
    tail = block["token_logprobs"][-len(ids) :]
    return ids, tail


VLLM_FILES = [param.values[1] for param in ROWS if param.values[0] is VLLM]


@pytest.mark.parametrize("name", [n for n in VLLM_FILES if n != "completion_echo_0"])
def test_vllm_choices_give_tokens_and_logprobs(name):
    """Ids and log-probs of each vLLM choice are its own; an echo's prompt log-probs are cut."""
    document = response_of(VLLM, name)
    dump = open_dump(VLLM / f"{name}.response.json", model=QWEN)
    for i, (sample, choice) in enumerate(zip(dump, document["choices"], strict=True)):
        ids, logprobs = _choice_facts(choice)
        prompt = choice.get("prompt_token_ids") or document.get("prompt_token_ids")
        assert (sample.prompt_ids is None) == (prompt is None)
        assert prompt is None or sample.prompt_ids.tolist() == prompt
        assert (sample.response_ids is None) == (ids is None)
        assert ids is None or sample.response_ids.tolist() == ids
        assert (sample.logprobs is None) == (logprobs is None)
        assert logprobs is None or sample.logprobs.tolist() == logprobs
        assert sample.finish_reason == choice["finish_reason"]
        assert sample.sample_id == f"{document['id']}/{i}"


def test_echo_without_new_tokens_has_no_response_logprobs():
    """vLLM's echo with max_tokens 0 samples one hidden token, whose log-prob it does not give."""
    sample = open_dump(VLLM / "completion_echo_0.response.json", model=QWEN)[0]
    assert sample.response_ids.tolist() == [97]
    assert sample.logprobs is None


@pytest.mark.parametrize(
    "name", [p.values[1] for p in ROWS if p.values[0] is SGLANG and "generate" in p.values[1]]
)
def test_sglang_generate_outputs_give_their_meta_info(name):
    """Ids, log-probs, cache hits, retractions and weight versions are those of meta_info."""
    path = _file(SGLANG, name)
    asked = json.loads((SGLANG / f"{name}.request.json").read_text("utf-8")).get("input_ids")
    outputs = _documents(path)[-1:] if path.suffix == ".sse" else _documents(path)
    if asked and isinstance(asked[0], int):
        asked = [asked]
    for i, (sample, output) in enumerate(
        zip(open_dump(path, model=QWEN), outputs, strict=True),
    ):
        meta = output["meta_info"]
        assert sample.sample_id == meta["id"]
        triples = meta["output_token_logprobs"]
        assert sample.response_ids.tolist() == [token for _, token, _ in triples]
        got = [] if sample.logprobs is None else sample.logprobs.tolist()
        assert got == [logprob for logprob, _, _ in triples]
        assert sample.finish_reason == meta["finish_reason"]["type"]
        assert (sample.cached_tokens, sample.retractions) == (meta["cached_tokens"], 0)
        versions = meta["weight_versions"]
        assert sample.weight_spans == tuple(WeightSpan(**span) for span in versions)
        prompt = None if asked is None else asked[i * len(asked) // len(outputs)]
        assert (sample.prompt_ids is None) == (prompt is None)
        assert prompt is None or sample.prompt_ids.tolist() == prompt


def test_sglang_chat_gives_each_choice_its_own_meta_info():
    """With return_meta_info each of SGLang's choices has its own routes, cache hits and ids."""
    document = response_of(SGLANG, "chat_meta_info_n2")
    dump = open_dump(SGLANG / "chat_meta_info_n2.response.json", model=QWEN)
    for sample, choice in zip(dump, document["choices"], strict=True):
        assert sample.response_ids.tolist() == choice["response_token_ids"]
        assert sample.prompt_ids.tolist() == choice["prompt_token_ids"]
        assert sample.cached_tokens == choice["meta_info"]["cached_tokens"] == 36
        triples = choice["meta_info"]["output_token_logprobs"]
        assert sample.logprobs.tolist() == [logprob for logprob, _, _ in triples]


def test_sglext_gives_ids_to_all_choices_and_routes_to_the_first():
    """SGLang's sglext lists ids for every choice, and its routed_experts are of choice 0 alone."""
    document = response_of(SGLANG, "chat_sglext_ids_n2")
    first, second = open_dump(SGLANG / "chat_sglext_ids_n2.response.json", model=QWEN)
    assert [first.response_ids.tolist(), second.response_ids.tolist()] == document["sglext"][
        "output_ids"
    ]
    assert first.prompt_ids.tolist() == second.prompt_ids.tolist()
    assert first.prompt_ids.tolist() == document["sglext"]["input_ids"]
    assert (first.routes is None, second.routes is None) == (False, True)


def test_n_choices_in_a_row_share_a_prompt(tmp_path):
    """Of three requested prompts with n = 2, choices 0 and 1 have the first, and so on."""
    document, request = response_of(VLLM, "completion_batch"), request_of(VLLM, "completion_batch")
    for choice in document["choices"]:
        del choice["prompt_token_ids"]
    path = write_json(tmp_path / "x.response.json", document, config=None, request=request)
    prompts = [sample.prompt_ids.tolist() for sample in open_dump(path, model=QWEN)]
    assert prompts == [prompt for prompt in request["prompt"] for _ in range(2)]


def test_an_echo_is_told_by_its_length_without_its_request(tmp_path):
    """Log-probs of prompt and response together are cut at the prompt when no request says echo."""
    document = response_of(VLLM, "completion_echo")
    (sample,) = open_dump(write_json(tmp_path / "x.json", document, config=None), model=QWEN)
    logprobs = document["choices"][0]["logprobs"]["token_logprobs"]
    assert sample.logprobs.tolist() == logprobs[45:]
    assert sample.routes.start == 0


@pytest.mark.parametrize("prompt", ["ids", "text"])
@pytest.mark.parametrize("count", [1, 2])
def test_an_echo_without_ids_is_cut_at_the_prompt(tmp_path, prompt, count):
    """An echo that names no token_ids spells prompt and response: the response is what is left."""
    document, request = response_of(VLLM, "completion_echo"), request_of(VLLM, "completion_echo")
    choice = document["choices"][0]
    ids, logprobs = choice["token_ids"], choice["logprobs"]["token_logprobs"][45:]
    bare = {**choice, "token_ids": None, "prompt_token_ids": None}
    document["choices"] = [{**bare, "index": i} for i in range(count)]
    document["usage"]["completion_tokens"] = 4 * count
    if prompt == "text":
        request["prompt"] = "What is seven plus five?"
    path = write_json(tmp_path / "x.response.json", document, config=None, request=request)
    dump = open_dump(path, model=QWEN)
    assert len(dump) == count
    for sample in dump:
        assert (sample.prompt_length, sample.response_length) == (45, 4)
        assert sample.response_ids.tolist() == ids
        assert sample.logprobs.tolist() == logprobs
        assert sample.routes.num_tokens == 48


def test_usage_and_metadata_of_a_response(tmp_path):
    """Cache hits come from the usage details, and weight versions from SGLang's metadata."""
    document = response_of(SGLANG, "chat")
    document["usage"]["prompt_tokens_details"] = {"cached_tokens": 32}
    (sample,) = open_dump(write_json(tmp_path / "x.json", document, config=None), model=QWEN)
    assert sample.cached_tokens == 32
    assert sample.weight_spans == (WeightSpan("default", 0, 24),)
