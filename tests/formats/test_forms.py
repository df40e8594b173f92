"""An unknown form is refused with the nearest known one, and how it differs, at every door."""

import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from routectl.errors import RoutectlError
from routectl.formats import open_dump
from routectl.formats.documents.forms import FORMS, unlike
from routectl.model import ModelFacts
from support.shell import run

FACTS = ModelFacts(2, (0, 1), 8, 2, None)


def _torch(doc):
    return lambda path: torch.save(doc, path)


def _text(doc):
    return lambda path: path.write_text(json.dumps(doc))


def _parquet(**columns):
    return lambda path: pq.write_table(pa.table(columns), path)


GRID = torch.zeros((2, 3, 2, 2))
CASES = {  # file, how it is made, what the message says of it
    "a name of a batch misspelt": (
        "x.pt",
        _torch({"routed_expert": GRID, "input_ids": GRID[:, :, 0, 0]}),
        "nearest is the batch of verl, ROLL or ms-swift, whose 'routed_experts' may be "
        "'routed_expert'",
    ),
    "a batch of SkyRL without routes": (
        "x.pt",
        _torch({"sequences": GRID, "attention_mask": GRID, "loss_mask": GRID}),
        "nearest is the batch of SkyRL, which has also 'rollout_expert_indices'",
    ),
    "routes of other axes": (
        "x.pt",
        _torch({"routed_experts": GRID[0], "input_ids": GRID}),
        "nearest is the batch of verl, ROLL or ms-swift, of other types or shapes",
    ),
    "a torch file of other names": (
        "x.pt",
        _torch({"epoch": 1}),
        "it has ['epoch'], none of them of a known form: slime's or miles' rollout dump",
    ),
    "a tensor": ("x.pt", _torch(GRID), "got a MappedTensor, expected samples"),
    "a pickled dict": (
        "x.pkl",
        lambda path: path.write_bytes(pickle.dumps({"a": 1})),
        "it has ['dict'], none of them of a known form: verl's or ROLL's DataProto",
    ),
    "a record without routes": (
        "x.json",
        _text({"prompt_token_ids": [1], "experts": [[[0, 1]]], "sample_id": "a"}),
        "nearest is a flat record, which has also 'routed_experts'",
    ),
    "a line": (
        "x.jsonl",
        _text({"routed_expert": [[[0, 1]]]}),
        "nearest is a flat record, whose 'routed_experts' may be 'routed_expert'",
    ),
    "a request of Megatron-Core": (
        "x.json",
        _text({"request_id": 1, "generated_tokens": [1], "prompt_tokens": [1]}),
        "nearest is a request of Megatron-Core's inference, which has also 'routing_indices'",
    ),
    "arrays": (
        "x.npz",
        lambda path: np.savez(path, routed_expert=np.zeros(3), lengths=np.zeros(1)),
        "nearest is a padded array, whose 'routed_experts' may be 'routed_expert'",
    ),
    "router inputs": (
        "x.safetensors",
        lambda path: _save_safetensors(path, {"layer.3": np.zeros((2, 4), np.float32)}),
        "nearest is router inputs, which routectl recompute takes",
    ),
    "another program's Parquet": (
        "x.parquet",
        _parquet(sample_id=["a"], prompt_ids=[[1]], routes=[[1]]),
        "nearest is routectl's native file, which has also 'response_ids', 'num_rows', 'layer_NNN'",
    ),
    "unknown bytes": (
        "x.msgpack",
        lambda path: path.write_bytes(b"\x81\xa1a\xff" * 8),
        "not a dump: unknown bytes, expected JSON, an event stream, arrays",
    ),
}


def _save_safetensors(path, tensors):
    from safetensors.numpy import save_file

    save_file(tensors, path)


@pytest.mark.parametrize("name", CASES)
def test_a_door_says_what_is_nearest(name, tmp_path):
    """A file of an unknown form is refused in one line with the nearest form and the difference."""
    file, make, message = CASES[name]
    make(tmp_path / file)
    with pytest.raises(RoutectlError) as caught:
        open_dump(tmp_path / file, model=FACTS)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_says_it_of_its_first_file(tmp_path, capsys):
    """A folder without a dump says it of the first of its files, and exits 2."""
    (tmp_path / "a.json").write_text('{"routed_expert": 1}')
    asked = run(capsys, "show", tmp_path, "--model", "2,2,8")
    assert (asked.code, asked.out) == (2, "")
    assert "no file holds samples, of 1" in asked.err
    assert "whose 'routed_experts' may be 'routed_expert'" in asked.err


@pytest.mark.parametrize("form", FORMS, ids=lambda one: f"{one.container}-{one.name}")
def test_every_form_is_nearest_to_itself(form):
    """A form's own names are nearest to it, one of them away too, where it has two or more."""
    assert f"nearest is {form.name}" in unlike((*form.needs, *form.has), form.container)
    if len(form.needs) > 1:
        *rest, last = form.needs
        said = unlike((*rest, *form.has), form.container)
        assert f"nearest is {form.name}, which has also {last!r}" in said


def test_names_of_others_are_shown_and_few():
    """Names in a message are escaped, cut and counted, however many and long a file's are."""
    said = unlike(["\x1b[31m" + "x" * 10_000, *(f"layer{i}" for i in range(100_000))], "torch")
    assert "\x1b" not in said
    assert "and more" in said
    assert len(said) < 800
