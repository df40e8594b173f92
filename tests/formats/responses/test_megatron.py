"""Answers of Megatron-Core 0.19.2's inference server, by its own endpoints, and its requests."""

import json

import pytest

from routectl.errors import FormatError
from routectl.formats import open_dump
from routectl.model import ModelFacts
from support.traces import ANSWERS, truth

FACTS = ModelFacts(3, (1, 2), 8, 2, None)


def samples(name):
    """The samples of a recorded answer."""
    return list(open_dump(ANSWERS / name, model=FACTS))


def expected(micro_batch, begin, rows):
    """The sets that the traced routers selected, by token and layer."""
    maps = truth("v0")
    return [[maps[micro_batch, layer][begin + t] for layer in (1, 2)] for t in range(rows)]


def sets_of(sample):
    """The sets of each row, by token and layer."""
    return [[set(ids) for ids in row] for row in sample.routes.ids_TLK.tolist()]


def test_completions_have_the_routes_of_every_choice():
    """Each choice of completions has moe_topk_indices of N - 1 tokens, its ids and log-probs."""
    first, second = samples("completions.response.json")
    assert sets_of(first) == expected(0, 0, 6)
    assert sets_of(second) == expected(0, 7, 11)
    assert (first.prompt_length, first.response_length) == (3, 4)
    assert first.logprobs.tolist() == [-0.5, -0.625, -0.75, -0.875]
    assert second.finish_reason == "length"


def test_chat_has_ids_in_the_message():
    """Chat has prompt and generated ids, log-probs and epochs in the message."""
    (one,) = samples("chat.response.json")
    assert sets_of(one) == expected(1, 0, 8)
    assert one.prompt_ids.tolist() == [88, 10, 421, 415]
    assert (len(one.response_ids), len(one.logprobs), one.cached_tokens) == (5, 5, 0)


def test_epochs_are_weight_versions():
    """New weights at the last fed position sample the next token: spans over response tokens."""
    (one,) = samples("chat.response.json")
    assert [(s.version, s.start, s.end) for s in one.weight_spans] == [("3", 0, 4), ("4", 4, 5)]


def test_serialised_requests_are_read():
    """A DynamicInferenceRequest as its own method serialises it is a sample."""
    first, second = samples("requests.jsonl")
    assert (sets_of(first), sets_of(second)) == (expected(1, 9, 3), expected(1, 13, 5))
    assert [s.sample_id for s in (first, second)] == ["3/0", "4/0"]
    assert [s.version for s in second.weight_spans] == ["3", "4"]
    meta = open_dump(ANSWERS / "requests.jsonl", model=FACTS).meta
    assert meta.engine == "megatron"


def test_plain_lists_are_read_too(tmp_path):
    """Routes as nested lists, as versions give them that unwrap arrays, are the same rows."""
    doc = json.loads((ANSWERS / "chat.response.json").read_text())
    choice = doc["choices"][0]
    choice["moe_topk_indices"] = choice["moe_topk_indices"][1]["data"]
    path = tmp_path / "chat.json"
    path.write_text(json.dumps(doc))
    (one,) = open_dump(path, model=FACTS)
    assert sets_of(one) == expected(1, 0, 8)


@pytest.mark.parametrize("epochs", [[[0]], ["a"], [[0, "x"]], {"a": 1}])
def test_odd_epochs_are_refused(epochs, tmp_path):
    """Epochs that are no pairs are refused."""
    doc = json.loads((ANSWERS / "chat.response.json").read_text())
    doc["choices"][0]["message"]["policy_epoch"] = epochs
    path = tmp_path / "chat.json"
    path.write_text(json.dumps(doc))
    with pytest.raises(FormatError, match="policy_epoch"):
        open_dump(path, model=FACTS)
