"""show of a dump whose model nothing tells: what can be told without, for every reader."""

import json
import shutil

import numpy as np
import pytest

from routectl.formats.targets.table import TARGETS
from support.building import as_npy, as_raw, record, some_ids, write_lines
from support.recordings import QWEN, SGLANG, VLLM
from support.shell import DUMPS, document, run

IDS = some_ids(9)
SHAPE = {"layers_written": 3, "ids_per_row": 2, "ids_per_token": 6}
FLAT = {"layers_written": None, "ids_per_row": None, "ids_per_token": 6}


def bare(path, lines):
    """A file of lines, with no model beside it."""
    write_lines(path, lines)
    (path.parent / "config.json").unlink()
    return path


def told(doc, **more):
    """The figures of a document that are asked about."""
    return {key: doc[key] for key in more}


@pytest.mark.parametrize(
    ("encode", "shape"), [(as_npy, SHAPE), (np.ndarray.tolist, SHAPE), (as_raw, FLAT)]
)
def test_what_a_payload_says(tmp_path, capsys, encode, shape):
    """Axes are told where the payload has them, the ids of a token where it has none, and the
    greatest id; tokens as samples say them."""
    path = bare(tmp_path / "x.jsonl", [record(IDS, routed_experts=encode(IDS))] * 2)
    doc = document(capsys, "show", path)
    known = {
        "schema": "routectl.outline/1",
        "samples": 2,
        "samples_with_routes": 2,
        "samples_with_token_ids": 2,
        "prompt_tokens": 6,
        "response_tokens": 14,
        "tokens_with_routes": 18,
        "greatest_id": int(IDS.max()),
        "refused": 0,
        **shape,
    }
    assert told(doc, **known) == known
    assert "num_experts" in doc["unknown"]
    assert ("top_k" in doc["unknown"]) == (shape is FLAT)
    assert "LAYERS,K,E" in doc["hint"]
    text = run(capsys, "show", path)
    assert (text.code, text.err) == (0, "")
    assert f"the greatest id {IDS.max()}" in text.out
    assert "--model CONFIG.json" in text.out


def test_without_counts_nothing_is_read(tmp_path, capsys):
    """Raw ids of no known number of tokens are not read, and that is said."""
    path = bare(tmp_path / "x.jsonl", [{"id": "a", "routed_experts": as_raw(IDS)}])
    doc = document(capsys, "show", path)
    assert (doc["samples"], doc["refused"], doc["greatest_id"]) == (1, 1, None)
    assert "neither the token counts nor the start are known" in doc["reason"]
    assert "not told without the model" in run(capsys, "show", path).out


@pytest.mark.parametrize("name", [t.name for t in TARGETS if t.suffix])
def test_every_form(tmp_path, capsys, name):
    """Each form that is written opens without a model: samples and the greatest id of its source.

    Two of them, with the model in the file, say it.
    """
    target = next(t for t in TARGETS if t.name == name)
    path = tmp_path / f"x{target.suffix}"
    lines = write_lines(tmp_path / "in.jsonl", [record(IDS, id="a"), record(IDS[:5], id="b")])
    made = run(capsys, "convert", lines, "--save", path, "--to", name, "--lossy")
    assert made.code == 0, made.err
    for beside in ("config.json", "in.jsonl"):
        (tmp_path / beside).unlink()
    doc = document(capsys, "show", path)
    if name in ("npz", "safetensors"):
        assert doc["schema"] == "routectl.show/1"
        return
    assert doc["schema"] == "routectl.outline/1"
    assert doc["greatest_id"] == int(IDS.max())
    grown = 1 if name == "megatron" else 2  # a list of layers does not say where samples end
    assert (doc["samples"], doc["refused"]) == (grown, 0)


def test_recordings_and_folders(tmp_path, capsys):
    """Recorded responses of both engines, alone and together, streams among them, are told."""
    for place in (VLLM, SGLANG):
        shutil.copytree(place, tmp_path / place.parent.name)
        doc = document(capsys, "show", tmp_path / place.parent.name)
        with_model = document(capsys, "show", place, "--model", QWEN)
        assert doc["schema"] == "routectl.outline/1"
        assert doc["samples"] == with_model["samples"]
        assert doc["prompt_tokens"] == with_model["prompt_tokens"]


def test_every_report_form(tmp_path, capsys):
    """-o writes it in each form, and report shows the saved document again."""
    path = bare(tmp_path / "x.jsonl", [record(IDS)])
    for suffix in (".json", ".html", ".txt", ".md", ".csv"):
        assert run(capsys, "show", path, "-o", tmp_path / f"r{suffix}").code == 0
    assert json.loads((tmp_path / "r.json").read_text())["schema"] == "routectl.outline/1"
    again = run(capsys, "report", tmp_path / "r.json")
    assert (again.code, again.out) == (0, (tmp_path / "r.txt").read_text())


def test_what_knows_its_model_is_no_outline(capsys):
    """A dump with its own model, or one beside it, is shown as ever."""
    for name in ("jsonl", "native", "trainer"):
        assert document(capsys, "show", DUMPS[name])["schema"] == "routectl.show/1"
