"""Recorded offline dumps of vLLM 0.32.0 and SGLang 0.5.23, against decoding by hand."""

import hashlib
import json

import numpy as np
import pytest

from routectl.dump import WeightSpan
from routectl.errors import FormatError
from routectl.formats import open_dump
from support.recordings import FIXTURES, QWEN, decode, read_lines, read_text

OFFLINE = [
    *sorted((FIXTURES / "recordings").glob("*/*/samples.jsonl*")),
    FIXTURES / "tiny_rl" / "vllm.bf16" / "samples.jsonl",
]
SHAPES = {"qwen3_moe": (6, 32, 4), "qwen3_moe_soft": (8, 64, 8), "deepseek_v3": (5, 32, 4)}


def _digest(ids):
    return hashlib.blake2b(b"".join(i.to_bytes(4, "little") for i in ids), digest_size=16).digest()


@pytest.mark.parametrize("path", OFFLINE, ids=lambda p: f"{p.parent.parent.name}-{p.parent.name}")
def test_an_offline_recording_is_what_its_lines_say(path):
    """Every sample of a recorded dump equals its JSON line, decoded by hand."""
    records = read_lines(path)
    model = path.parent.name.split(".")[0]
    layers, experts, top_k = SHAPES.get(model, (6, 32, 4))
    first = 1 if model == "deepseek_v3" else 0
    engine, version = [*path.parent.parent.name.split("-"), ""][:2]
    dump = open_dump(path)
    assert len(dump) == len(records)
    assert dump.meta.layers_L == tuple(range(first, layers))
    assert (dump.meta.num_experts, dump.meta.top_k, dump.meta.format) == (experts, top_k, "jsonl")
    if version:
        assert (dump.meta.engine, dump.meta.engine_version) == (engine, version)
    assert dump.meta.wire_dtype == records[0]["routed_experts_dtype"]
    for key, sample, line in zip(dump.keys, dump, records, strict=True):
        prompt, response = line["prompt_token_ids"], line["token_ids"]
        payload = line.get("routed_experts_b64npy") or line["routed_experts_b64raw"]
        ids = decode(payload, layers, top_k)
        assert list(ids.shape) == line["routed_experts_shape"]
        assert not ids[:, :first].any()
        assert sample.routes.ids_TLK.dtype == np.uint8
        np.testing.assert_array_equal(sample.routes.ids_TLK, ids[:, first:])
        assert sample.routes.missing_TL is None
        assert sample.routes.start == (line["routed_experts_prompt_start"] or 0)
        assert sample.routes.stop == len(prompt) + len(response) - 1
        assert sample.prompt_ids.tolist() == prompt
        assert sample.response_ids.tolist() == response
        assert (sample.prompt_length, sample.response_length) == (len(prompt), len(response))
        assert sample.logprobs.tolist() == line["logprobs"]
        assert sample.cached_tokens == line["num_cached_tokens"]
        reason = line["finish_reason"]
        assert sample.finish_reason == (reason["type"] if engine == "sglang" else reason)
        assert sample.group_id == str(line["group"])
        assert key.tokens == _digest(prompt + response)
        assert key.prompt == _digest(prompt)
        assert not sample.start_inferred


def test_a_lone_weight_version_spans_the_response():
    """The weight_version of a tiny_rl record holds for all its response tokens."""
    sample = open_dump(OFFLINE[-1])[0]
    assert sample.weight_spans == (WeightSpan("v0", 0, 96),)
    assert sample.sample_id == "0/0"


@pytest.mark.parametrize(
    ("said", "spans"),
    [
        ({"weight_versions": ["7", "7"]}, [("7", 0, 4)]),  # slime: calls, all of one version
        ({"weight_versions": ["7", "8"]}, [("7+8", 0, 4)]),  # whose tokens were whose is not said
        ({"output_versions": [3, 3, 4, 4]}, [("3", 0, 2), ("4", 2, 4)]),  # AReaL
        ({"response_model_steps": [5, 5, 5, 5]}, [("5", 0, 4)]),  # xtuner
        ({"min_global_steps": 2, "max_global_steps": 2}, [("2", 0, 4)]),  # verl
        ({"min_global_steps": 2, "max_global_steps": 3}, [("2..3", 0, 4)]),
        ({"weight_versions": [], "weight_version": "v1"}, [("v1", 0, 4)]),
    ],
)
def test_versions_are_read_in_the_forms_of_engines_and_trainers(said, spans, tmp_path):
    """Each framework's way to say which weights sampled what becomes spans of response tokens."""
    routes = [[[0, 1, 2, 3]] * 6] * 6
    short = {"prompt_token_ids": [1, 2, 3], "token_ids": [4, 5, 6, 7], "routed_experts": routes}
    path = tmp_path / "samples.jsonl"
    path.write_text(json.dumps({**short, **said}) + "\n")
    sample = open_dump(path, model=FIXTURES / "tiny_rl" / "config.json")[0]
    assert sample.weight_spans == tuple(WeightSpan(*span) for span in spans)


def test_versions_that_are_not_one_a_token_are_refused(tmp_path):
    """A list of another length than the response, and null in it, are refused in one line."""
    routes = [[[0, 1, 2, 3]] * 6] * 4
    short = {"prompt_token_ids": [1, 2], "token_ids": [4, 5, 6], "routed_experts": routes}
    path = tmp_path / "samples.jsonl"
    for versions, words in (([1, 1], "got 2 versions, expected 3"), ([1, None, 1], "got null")):
        path.write_text(json.dumps({**short, "output_versions": versions}) + "\n")
        with pytest.raises(FormatError, match=words):
            open_dump(path, model=FIXTURES / "tiny_rl" / "config.json")[0]


def test_engine_outputs_equal_the_samples_of_the_same_run():
    """The file of Engine.generate's outputs and the run's samples.jsonl give equal samples."""
    folder = FIXTURES / "recordings" / "sglang-0.5.23"
    path = folder / "engine_outputs.qwen3_moe.bf16.json.gz"
    outputs = open_dump(path, model=QWEN)
    samples = open_dump(folder / "qwen3_moe.bf16.grpo")
    assert sum(len(pair["response"]) for pair in json.loads(read_text(path))) == 46
    assert len(outputs) == len(samples) == 46
    for mine, other in zip(outputs, samples, strict=True):
        np.testing.assert_array_equal(mine.routes.ids_TLK, other.routes.ids_TLK)
        assert mine.routes.start == other.routes.start == 0
        assert mine.token_ids.tolist() == other.token_ids.tolist()
        assert mine.logprobs.tolist() == other.logprobs.tolist()
        assert (mine.finish_reason, mine.cached_tokens) == (
            other.finish_reason,
            other.cached_tokens,
        )
