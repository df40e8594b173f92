"""Rows of -1, which Unsloth, miles and NeMo-RL route live: what each command makes of them."""

import json

import numpy as np
import pytest
import torch

from routectl.formats import open_dump
from support.building import as_npy
from support.expert_maps import truths
from support.shell import complaint, document, run
from support.tiny_rl import TINY

PROMPT, TOKENS, SAMPLES = 17, 49, 3
MODEL = ("--model", TINY)


def natural(index):
    """The rows of a sample that are left to the trainer's router: four of its response."""
    return slice(20 + index, 24 + index)


@pytest.fixture
def dump(tmp_path):
    """Three samples of tiny_rl with int8 routes, in which those rows are -1."""
    documents = []
    for i, (ids, routes) in enumerate(truths(SAMPLES)):
        rows = routes[: TOKENS - 1].astype(np.int8)
        rows[natural(i)] = -1
        documents.append(
            {
                "id": f"s{i}",
                "prompt_token_ids": ids[:PROMPT].tolist(),
                "token_ids": ids[PROMPT:TOKENS].tolist(),
                "routed_experts": as_npy(rows),
            }
        )
    path = tmp_path / "unsloth.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in documents), "utf-8")
    return path


def test_natural_rows_of_unsloth_are_missing(dump, capsys):
    """They are no routes: open_dump says so, diff compares the others alone, check says where."""
    for i, sample in enumerate(open_dump(dump, model=TINY)):
        assert sample.routes.missing_TL[natural(i)].all()
        assert sample.routes.missing_TL.sum() == 4 * 6
    truth = TINY / "routes_v0.fp32.npz"
    told = document(capsys, "diff", dump, truth, "--match", "prefix", "--allow-unmatched", *MODEL)
    assert (told["rows"], told["rows_mismatched"]) == (SAMPLES * 44 * 6, 0)
    (found,) = document(capsys, "check", dump, *MODEL, code=1)["findings"]
    assert (found["code"], found["rows"]) == ("R205", SAMPLES * 4 * 6)
    assert "Unsloth" in found["cause"]


def test_natural_rows_are_packed_as_such(dump, capsys, tmp_path):
    """pack writes -1 where the trainer takes it, verify agrees, and verl's zeros are refused."""
    folder = tmp_path / "packed"
    words = ("pack", dump, "--save", folder, "--framework", "miles", *MODEL)
    assert run(capsys, *words).code == 0
    assert run(capsys, "verify", folder, "--against", dump, *MODEL).code == 0
    error = complaint(capsys, "pack", dump, "--save", tmp_path / "verl", *MODEL)
    assert "padding zero would make routes up" in error


@pytest.mark.parametrize("target", ["nemo-rl-tensor", "npz"])
def test_natural_rows_are_written_as_such(dump, capsys, tmp_path, target):
    """What has a place for -1 has it again; slime's form has none, and is refused."""
    saved = tmp_path / ("a.npz" if target == "npz" else "a.pt")
    assert run(capsys, "convert", dump, "--save", saved, "--to", target, *MODEL).code == 0
    if target == "npz":
        with np.load(saved) as arrays:
            rows = [arrays[f"s{i}.routed_experts"] for i in range(SAMPLES)]
    else:
        rows = torch.load(saved, weights_only=True)["routed_experts"].numpy()
    for i in range(SAMPLES):
        assert (rows[i][natural(i)] == -1).all()
        assert (rows[i][: natural(i).start] >= 0).all()
    error = complaint(capsys, "convert", dump, "--save", tmp_path / "b.pt", "--to", "slime", *MODEL)
    assert "24 of 288 rows are missing, which slime cannot say" in error
