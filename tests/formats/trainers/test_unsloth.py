"""Unsloth's own routing replay on rollouts that vLLM recorded: its rows are those that are read."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from routectl.formats import open_dump
from support.newer_trainers import UNSLOTH, unsloth_replay
from support.recordings import DEEPSEEK, DEEPSEEK_CONFIG

pytestmark = [
    pytest.mark.trainers,
    pytest.mark.skipif(not UNSLOTH.is_dir(), reason="unsloth_zoo in .trainers"),
]
SAMPLES, LAYERS, PAD = (0, 1, 5, 9), 5, 511


def as_answered(sample):
    """A RequestOutput of vLLM: a row a fed token, zeros in the dense layer."""
    routes = sample.routes
    rows = np.zeros((routes.num_tokens, LAYERS, routes.top_k), np.uint8)
    rows[:, list(routes.layers_L)] = routes.ids_TLK
    one = SimpleNamespace(token_ids=sample.response_ids.tolist(), routed_experts=rows)
    return SimpleNamespace(prompt_token_ids=sample.prompt_ids.tolist(), outputs=[one])


def test_its_replay_tensor_is_read(tmp_path):
    """What its routers are to replay is the recording; the last token has -1."""
    dump = open_dump(DEEPSEEK / "samples.jsonl")
    samples = [dump[i] for i in SAMPLES]
    size = max(len(sample.token_ids) for sample in samples)
    tokens = torch.full((len(samples), size), PAD)
    mask = torch.zeros_like(tokens)
    for row, sample in enumerate(samples):
        tokens[row, : len(sample.token_ids)] = torch.from_numpy(sample.token_ids.astype(np.int64))
        mask[row, : len(sample.token_ids)] = 1
    with unsloth_replay() as theirs:
        with pytest.warns(UserWarning, match="repeated ids"):  # the dense layer's: they become -1
            assert theirs.record_routed_experts(map(as_answered, samples)) == len(samples)
        replayed = theirs._build_replay(tokens, None, mask)
    replayed = replayed.reshape(len(samples), size, LAYERS, -1)
    assert (replayed[mask == 0] == -1).all()
    path = tmp_path / "replayed.jsonl"
    with path.open("w") as file:
        for row, sample in enumerate(samples):
            record = {
                "prompt_token_ids": sample.prompt_ids.tolist(),
                "generation_token_ids": sample.response_ids.tolist(),
                "routed_experts": replayed[row, : len(sample.token_ids)].tolist(),
            }
            file.write(json.dumps(record) + "\n")
    for mine, theirs in zip(samples, open_dump(path, model=str(DEEPSEEK_CONFIG)), strict=True):
        np.testing.assert_array_equal(theirs.token_ids, mine.token_ids)
        rows = mine.routes.num_tokens
        np.testing.assert_array_equal(theirs.routes.ids_TLK[:rows], mine.routes.ids_TLK)
        assert theirs.routes.num_tokens in (rows, rows + 1)
        assert theirs.routes.missing_TL is None or not theirs.routes.missing_TL[:rows].any()
