"""Recorded offline dumps of vLLM 0.32.0 and SGLang 0.5.23, against decoding by hand."""

import hashlib
import json

import numpy as np
import pytest
from building import FIXTURES, QWEN, decode, read_lines, read_text

from routectl.dump import WeightSpan
from routectl.formats import open_dump

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
