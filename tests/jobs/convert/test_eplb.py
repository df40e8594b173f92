"""``convert --to eplb``: what SGLang's own loader took and made of it (fixtures/README.md)."""

import json

import numpy as np
import pytest
import torch

from routectl.formats import open_dump
from routectl.formats.experts.maps import read_expert_map
from support.expert_maps import RECORDED, truths
from support.recordings import DEEPSEEK, DEEPSEEK_CONFIG
from support.shell import complaint, document, run
from support.tiny_rl import TINY

DUMP = RECORDED / "per_token.pt"
OPTIONS = ("--model", TINY, "--to", "eplb")


def counted(dump, layers, experts):
    """The oracle: ids counted one by one, zeros in dense layers."""
    found = np.zeros((layers, experts), int)
    for sample in dump:
        for row_LK in sample.routes.ids_TLK.tolist():
            for layer, ids_K in zip(sample.routes.layers_L, row_LK, strict=True):
                for expert in ids_K:
                    found[layer, expert] += 1
    return found.tolist()


def test_both_forms_are_what_sglang_took(capsys, tmp_path):
    """The bytes of JSON and of the torch file are those that its loader placed experts by."""
    for name in ("eplb.json", "eplb.pt"):
        path = tmp_path / name
        assert run(capsys, "convert", DUMP, "--save", path, *OPTIONS).code == 0
        assert path.read_bytes() == (RECORDED / name).read_bytes()
    made = json.loads((tmp_path / "eplb.json").read_text("utf-8"))["logical_count"]
    assert made == counted(open_dump(DUMP, model=TINY), 6, 32)
    loaded = torch.load(tmp_path / "eplb.pt", weights_only=True)
    assert loaded["logical_count"].tolist() == made
    assert loaded["logical_count"].dtype == torch.int64


def test_both_forms_are_read_back(capsys):
    """show and diff take the counts of either form, and say the same of them."""
    told = {s: document(capsys, "show", RECORDED / f"eplb.{s}") for s in ("json", "pt")}
    sides = [{**doc["sides"][0], "path": ""} for doc in told.values()]
    assert sides[0] == sides[1]
    assert run(capsys, "diff", RECORDED / "eplb.json", RECORDED / "eplb.pt").code == 0


def test_counts_cut_short_are_refused(capsys, tmp_path):
    """Half of the JSON file is no counts: one line."""
    path = tmp_path / "a.json"
    path.write_bytes((RECORDED / "eplb.json").read_bytes()[:99])
    assert "not JSON, or cut short" in complaint(capsys, "show", path)


def test_what_sglang_placed_is_a_map():
    """The map that it made has 40 experts, and more copies of what is taken most."""
    placed = read_expert_map(RECORDED / "placed.json")
    assert placed.logical_SWP.shape == (1, 6, 40)
    counts = json.loads((RECORDED / "eplb.json").read_text("utf-8"))["logical_count"]
    for load, map_P in zip(counts, placed.logical_SWP[0].tolist(), strict=True):
        copies = [map_P.count(expert) for expert in range(32)]
        assert min(copies) == 1
        assert copies[int(np.argmax(load))] == max(copies)


def test_the_truth_has_the_same_counts():
    """The counts are those of transformers' routes of the same rows."""
    counts = np.array(json.loads((RECORDED / "eplb.json").read_text("utf-8"))["logical_count"])
    spans = ((0, 21), (0, 29), (0, 23), (8, 26))
    truth = [routes[a:b] for (_, routes), (a, b) in zip(truths(), spans, strict=True)]
    for layer in range(6):
        ids = np.concatenate([rows[:, layer].ravel() for rows in truth])
        assert np.array_equal(np.bincount(ids, minlength=32), counts[layer])


def test_dense_layers_have_zeros(capsys, tmp_path):
    """A model's dense layers are rows of zeros: SGLang counts all decoder layers."""
    path = tmp_path / "a.json"
    source = DEEPSEEK / "samples.jsonl"
    options = ("--model", DEEPSEEK_CONFIG, "--to", "eplb")
    assert run(capsys, "convert", source, "--save", path, *options).code == 0
    made = json.loads(path.read_text("utf-8"))["logical_count"]
    dump = open_dump(source, model=DEEPSEEK_CONFIG)
    assert made == counted(dump, dump.meta.num_layers, dump.meta.num_experts)
    dense = set(range(dump.meta.num_layers)) - set(dump.meta.layers_L)
    assert dense
    assert not any(any(made[layer]) for layer in dense)


@pytest.mark.parametrize(
    ("name", "more", "told"),
    [
        ("a.parquet", (), "eplb is written to NAME.json or NAME.pt"),
        ("a.json", ("--lossy",), "eplb has counts"),
        ("a.json", ("--codec", "set"), "native"),
    ],
)
def test_what_is_refused(capsys, tmp_path, name, more, told):
    """Another suffix, options of rows and codecs are refused, and nothing is written."""
    error = complaint(capsys, "convert", DUMP, "--save", tmp_path / name, *OPTIONS, *more)
    assert told in error
    assert not (tmp_path / name).exists()


def test_the_document(capsys, tmp_path):
    """--json says what was written, and from how many samples."""
    path = tmp_path / "a.json"
    told = document(capsys, "convert", DUMP, "--save", path, *OPTIONS)
    assert (told["format"], told["samples"]) == ("eplb", 5)
