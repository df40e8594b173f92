"""Recorded files changed at random, and each field of a document given wrong types."""

import copy
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from routectl.errors import FormatError, RoutectlError
from routectl.formats import open_dump
from routectl.formats.native.container import write_native
from support.building import (
    FACTS,
    WRONG,
    as_npy,
    check_line,
    npy_bytes,
    record,
    some_ids,
    write_json,
    write_lines,
)
from support.recordings import FIXTURES, QWEN, SGLANG, VLLM, read_lines, request_of, response_of

QUICK = settings(
    max_examples=80, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck)
)
NAMES = [
    *((SGLANG, n) for n in ("generate_batch_n2", "generate_start_mid", "generate_input_logprobs")),
    *((SGLANG, n) for n in ("chat_meta_info_n2", "chat_sglext_ids_n2", "completion_batch")),
    *((SGLANG, n) for n in ("generate_stream", "completion_stream", "chat_stream")),
    *((VLLM, n) for n in ("completion_batch", "completion_echo", "chat_n2", "completion_stream")),
    *((VLLM, n) for n in ("completion_start_mid", "completion_no_token_ids")),
]
VALUES = st.sampled_from(
    [
        *WRONG,
        0,
        1,
        float("nan"),
        float("inf"),
        "\ud800",
        "\n",
        [None],
        [[1]],
        [{}],
        [[1, 2]],
        {"type": []},
        [-1],
        [True],
        as_npy(some_ids(3)),
        [[[1, 2]] * 6] * 3,
        "k05VTVBZAA==",
        {"version": "v"},
    ]
)


def _paths(value, at=()):
    """The path of every container and leaf in a document; long lists by their first entries."""
    yield at
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _paths(inner, (*at, name))
    elif isinstance(value, list):
        for i, inner in enumerate(value[:2]):
            yield from _paths(inner, (*at, i))


def _changed(document, path, value, drop=False):
    """A copy of the document with another value at the path, or with the path's entry gone."""
    if not path:
        return value
    document = copy.deepcopy(document)
    inner = document
    for step in path[:-1]:
        inner = inner[step]
    if drop:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return document


def _survives(path, *paths, **options):
    """A file opens and gives its samples, or raises one clear line that names a file."""
    try:
        dump = open_dump(path, **options)
        for i in range(len(dump)):
            try:
                sample = dump[i]
            except RoutectlError as error:
                check_line(error, path)
            else:
                assert sample.routes is None or sample.routes.num_tokens >= 0
        write_native([], dump.meta, path.with_name("out.parquet"), force=True)
    except RoutectlError as error:
        named = [p for p in paths if str(error).startswith(str(p))]
        check_line(error, named[0] if named else path)


def _mutated(data, document):
    """The document with one to three random changes."""
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(list(_paths(document))))
        drop = bool(path) and data.draw(st.booleans())
        document = _changed(document, path, data.draw(VALUES), drop)
    return document


@QUICK
@given(data=st.data())
@pytest.mark.slow
def test_a_changed_response_is_read_or_refused(tmp_path_factory, data):
    """A recorded response or its request with random changes never raises but RoutectlError."""
    folder, name = data.draw(st.sampled_from(NAMES))
    place = tmp_path_factory.getbasetemp() / "fuzz"
    place.mkdir(exist_ok=True)
    request = request_of(folder, name)
    stream = folder / f"{name}.response.sse"
    if data.draw(st.booleans()):
        request = _mutated(data, request)
    if stream.exists():
        lines = stream.read_text("utf-8").split("\n")
        chunks = [i for i, line in enumerate(lines) if line.startswith("data: {")]
        i = data.draw(st.sampled_from([chunks[0], chunks[-2], chunks[-1]]))
        lines[i] = "data: " + json.dumps(_mutated(data, json.loads(lines[i][6:])))
        path = place / "x.response.sse"
        path.write_text("\n".join(lines), "utf-8")
    else:
        path = place / "x.response.json"
        path.write_text(json.dumps(_mutated(data, response_of(folder, name))), "utf-8")
    beside = place / "x.request.json"
    beside.write_text(json.dumps(request), "utf-8")
    _survives(path, beside, model=QWEN)


@QUICK
@given(data=st.data())
def test_a_changed_record_is_read_or_refused(tmp_path_factory, data):
    """A recorded line, its meta.json or its model config with random changes is read or refused."""
    place = tmp_path_factory.getbasetemp() / "records"
    place.mkdir(exist_ok=True)
    source = FIXTURES / "recordings" / "vllm-0.32.0" / "deepseek_v3.bf16.grpo"
    meta = json.loads((source / "meta.json").read_text("utf-8"))
    meta = {name: meta[name] for name in ("engine", "engine_version", "hf_config")}
    lines = read_lines(source / "samples.jsonl")[:2]
    which = data.draw(st.sampled_from(["line", "meta", "both"]))
    if which != "meta":
        lines[1] = _mutated(data, lines[1])
    if which != "line":
        meta = _mutated(data, meta)
    path = place / "x.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    (place / "meta.json").write_text(json.dumps(meta), "utf-8")
    _survives(path, place / "meta.json")


def _containers():
    ids = some_ids(5).astype(np.uint8)
    arrays = {"s.routed_experts": ids, "s.token_ids": np.arange(4)}
    sse = (SGLANG / "generate_stream.response.sse").read_bytes()
    return {"x.npy": npy_bytes(ids), "x.safetensors": save(arrays), "x.response.sse": sse}


@QUICK
@given(data=st.data())
def test_changed_bytes_are_read_or_refused(tmp_path_factory, data):
    """A container with random bytes changed or its end cut off never raises but RoutectlError."""
    place = tmp_path_factory.getbasetemp() / "bytes"
    place.mkdir(exist_ok=True)
    name, whole = data.draw(st.sampled_from(sorted(_containers().items())))
    changed = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        span = len(whole) if data.draw(st.booleans()) else min(len(whole), 160)
        changed[data.draw(st.integers(0, span - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.sampled_from([0, 0, 1, 7, 50]))
    path = place / name
    path.write_bytes(changed[: len(changed) - cut])
    _survives(path, model=QWEN if name.endswith("sse") else FACTS)


COUNT, LIST, OBJECT = ["7", 1.5, -1, True, [1], {}], ["x", 7, True, {"a": 1}], ["x", 7, [1]]
TOKENS = [*LIST, ["x"], [1.5], [-1], [True], [None], [2**31], [[1]]]
NUMBERS = [*LIST, ["x"], [[1]], [{}]]
HALF = [{"version": "v", "start": "0", "end": 1}], [{"start": 0, "end": 1}]
SPANS = [*LIST, [1.5], [True], ["v", {}], [{}], *HALF]
PAYLOAD = ["x", 7, True, 1.5, [1], [["a"]], [[[0.5]]], {"data": ""}]
META = ("meta_info",)
CHOICE = ("choices", 0)
FIELDS = [
    ("generate_ids", META, OBJECT),
    ("generate_ids", ("output_ids",), TOKENS),
    ("generate_ids", (*META, "routed_experts"), PAYLOAD),
    ("generate_ids", (*META, "output_token_logprobs"), [*LIST, [1], [[1]], [["a", 1, ""]]]),
    ("generate_ids", (*META, "cached_tokens"), COUNT),
    ("generate_ids", (*META, "num_retractions"), COUNT),
    ("generate_ids", (*META, "weight_versions"), SPANS),
    ("generate_text", (*META, "prompt_tokens"), COUNT),
    ("chat", ("choices",), LIST),
    ("chat", CHOICE, ["x", 7, [1]]),
    ("chat", (*CHOICE, "index"), COUNT),
    ("chat", (*CHOICE, "logprobs"), ["x", 7]),
    ("chat", (*CHOICE, "logprobs", "content"), [*LIST, ["x"], [1], [{"logprob": "x"}] * 24]),
    ("chat", ("sglext",), OBJECT),
    ("chat", ("sglext", "routed_experts"), PAYLOAD),
    ("chat", ("usage",), OBJECT),
    ("chat", ("usage", "prompt_tokens"), COUNT),
    ("chat", ("usage", "completion_tokens"), COUNT),
    ("chat", ("usage", "prompt_tokens_details"), OBJECT),
    ("chat", ("metadata",), OBJECT),
    ("chat", ("metadata", "weight_versions"), SPANS),
    ("chat_meta_info_n2", (*CHOICE, "meta_info"), OBJECT),
    ("chat_meta_info_n2", (*CHOICE, "meta_info", "output_token_logprobs"), [*LIST, [1], [[]]]),
    ("chat_meta_info_n2", (*CHOICE, "prompt_token_ids"), TOKENS[:-1]),  # [[1]]: media behind id 1
    ("chat_meta_info_n2", (*CHOICE, "response_token_ids"), TOKENS),
    ("chat_sglext_ids_n2", ("sglext", "output_ids"), [*LIST, [7, 7]]),
    ("chat_sglext_ids_n2", ("sglext", "input_ids"), TOKENS[:-1]),
]
RECORD_FIELDS = {
    "routed_experts": PAYLOAD,
    "prompt_token_ids": TOKENS,
    "token_ids": TOKENS,
    "logprobs": NUMBERS,
    "loss_mask": [*NUMBERS, [None], [1]],
    "num_cached_tokens": COUNT,
    "start": COUNT,
    "num_retractions": COUNT,
    "weight_versions": SPANS,
    "routed_experts_start_len": COUNT,
}


@pytest.mark.parametrize(("name", "at", "values"), FIELDS, ids=lambda v: str(v)[:50])
def test_a_field_of_a_wrong_type_is_refused(tmp_path, name, at, values):
    """Each field that the doors read from a response raises one clear line when of a wrong type."""
    document, request = response_of(SGLANG, name), request_of(SGLANG, name)
    path = tmp_path / "x.response.json"
    for value in values:
        wrong = _changed(document, at, value)
        write_json(path, wrong, config=None, request=request)
        with pytest.raises(FormatError if value != {"data": ""} else RoutectlError) as caught:
            list(open_dump(path, model=QWEN))
        check_line(caught.value, path)


@pytest.mark.parametrize("name", RECORD_FIELDS)
def test_a_field_of_a_record_of_a_wrong_type_is_refused(tmp_path, name):
    """Each field of a flat record raises one line with its number when of a wrong type."""
    path = tmp_path / "x.jsonl"
    for value in RECORD_FIELDS[name]:
        lines = [record(some_ids(5)), record(some_ids(5)) | {name: value}]
        write_lines(path, lines)
        with pytest.raises(RoutectlError) as caught:
            list(open_dump(path))
        assert check_line(caught.value, path).startswith(": line 2: ")


@pytest.mark.parametrize(
    ("at", "values"),
    [
        ((), [7, "x", [1]]),
        (("routed_experts_start_len",), COUNT),
        (("sampling_params",), ["x", 7]),
        (("input_ids",), [[-1], [True], [2**31]]),
    ],
)
def test_a_request_of_a_wrong_type_is_refused(tmp_path, at, values):
    """Each field that the doors read from a request raises one clear line when of a wrong type."""
    document, request = response_of(SGLANG, "generate_ids"), request_of(SGLANG, "generate_ids")
    path = write_json(tmp_path / "x.response.json", document, config=None)
    beside = tmp_path / "x.request.json"
    for value in values:
        beside.write_text(json.dumps(_changed(request, at, value)), "utf-8")
        with pytest.raises(FormatError) as caught:
            list(open_dump(path, model=QWEN))
        check_line(caught.value, path if at else beside)
