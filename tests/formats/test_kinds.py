"""A wrong kind of file is named in the message of who expected another one."""

import gzip
import json

import numpy as np
import pytest
import torch

from routectl.formats.documents.kinds import kind_in_words
from support.building import npy_bytes
from support.shell import DUMPS, complaint, run

LINES = b'{"a": 1}\n{"a": 2}\n'
KINDS = {
    "JSON lines": LINES,
    "JSON": b'{"a":\n 1}\n',
    "text": b"# A title\n",
    "unknown bytes": b"\x00\x01\x02\xff" * 9,
    "an empty file": b" \n",
    "a gzipped file": gzip.compress(LINES),
    "an array (.npy)": npy_bytes(np.zeros(3)),
}


@pytest.mark.parametrize(("words", "content"), KINDS.items(), ids=KINDS.keys())
def test_by_content(tmp_path, words, content):
    """Text and bytes are told by what is in them, whatever their name."""
    path = tmp_path / "x.json"
    path.write_bytes(content)
    assert kind_in_words(path) == words


def test_containers(tmp_path):
    """Containers of dumps are told as the door tells them."""
    torch.save([1], tmp_path / "x.pt")
    assert kind_in_words(tmp_path / "x.pt") == "a torch file"
    assert kind_in_words(DUMPS["native"]) == "a native dump"
    assert kind_in_words(DUMPS["trainer"]) == "arrays (.npz)"
    assert kind_in_words(DUMPS["jsonl"]) == "JSON lines"
    assert kind_in_words(tmp_path / "none") == "a file that cannot be read"


def test_what_is_no_dump_says_what_to_do(capsys, tmp_path):
    """A text, and what --partial wrote, are refused with a hint."""
    (tmp_path / "README.md").write_bytes(KINDS["text"])
    told = "\nhint: a dump is what an engine answered or a trainer saved"
    assert told in complaint(capsys, "show", tmp_path / "README.md")
    part = tmp_path / "part"
    assert run(capsys, "check", DUMPS["native"], "--shard", "1/2", "--partial", part).code == 0
    assert complaint(capsys, "show", part) == (
        f"routectl: {part}: a part that --partial wrote, not a dump\n"
        "hint: routectl merge adds all parts up, and tells what they come to\n"
    )


def test_a_dump_is_no_model_and_no_report(capsys, tmp_path):
    """A dump named as a model, or as a report, is told to be one; broken JSON is not JSON."""
    said = complaint(capsys, "show", DUMPS["jsonl"], "--model", DUMPS["native"])
    assert "got a native dump, expected an HF config.json" in said
    said = complaint(capsys, "show", DUMPS["jsonl"], "--model", DUMPS["jsonl"])
    assert "got JSON lines, expected an HF config.json" in said
    assert "got a native dump, expected a report" in complaint(capsys, "report", DUMPS["native"])
    (tmp_path / "config.json").write_text(json.dumps({"a": 1})[:-1])
    said = complaint(capsys, "show", DUMPS["jsonl"], "--model", tmp_path)
    assert "config.json: not JSON, expected an HF config.json" in said
