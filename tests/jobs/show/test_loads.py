"""Counts without routes: show and diff of their loads, and every other command's refusal."""

import json

import numpy as np
import pytest
import torch

from support.expert_maps import RECORDED, truths
from support.shell import complaint, document, run
from support.tiny_rl import TINY

STAT, PASSES, TOKENS = (RECORDED / f"{name}.pt" for name in ("stat", "per_pass", "per_token"))
SPANS = ((0, 21), (0, 29), (0, 23), (8, 26))  # rows of the four sequences that were recorded


def true_load():
    """Counts [layers][experts] of transformers' routes of the same rows."""
    rows = [routes[a:b] for (_, routes), (a, b) in zip(truths(), SPANS, strict=True)]
    whole = np.concatenate(rows)
    return [np.bincount(whole[:, layer].ravel(), minlength=32).tolist() for layer in range(6)]


@pytest.mark.parametrize("path", [STAT, PASSES], ids=["stat", "per_pass"])
def test_show_counts(capsys, path):
    """show of counts has those of the routes that were recorded, and says load-only."""
    found = document(capsys, "show", path)
    assert found["schema"] == "routectl.loads/1"
    assert found["note"].startswith("load-only")
    assert [row["load"][0] for row in found["layers"]] == true_load()
    for row, load in zip(found["layers"], true_load(), strict=True):
        assert row["dead_experts"] == [load.count(0)]
        assert row["max_vio"][0] == pytest.approx(max(load) * 32 / sum(load) - 1)
    told = run(capsys, "show", path)
    assert told.code == 0
    assert "load-only" in told.out
    assert "16 forward passes" in told.out


def test_a_model_is_held_against_counts(capsys):
    """Counts of another number of layers or experts than the model's are refused."""
    assert document(capsys, "show", STAT, "--model", TINY)["sides"][0]["model"] == "qwen3_moe"
    assert "counts of 6 layers and 32 experts" in complaint(
        capsys, "show", STAT, "--model", "7,4,32"
    )


def test_diff_of_two_counts(capsys):
    """Two modes of the same run have the same shares: exit 0."""
    found = document(capsys, "diff", STAT, PASSES)
    assert (found["max_load_shift"], found["verdict"]["exit_code"]) == (0, 0)
    assert [side["of"] for side in found["sides"]] == ["counts", "counts"]


def test_diff_of_counts_and_routes(capsys):
    """The routes of the same run, counted, have the same load; those of more samples another."""
    assert document(capsys, "diff", STAT, TOKENS, "--model", TINY)["max_load_shift"] == 0
    other = TINY / "routes_v0.fp32.npz"
    found = document(capsys, "diff", other, STAT, code=1)
    assert [side["of"] for side in found["sides"]] == ["routes", "counts"]
    load = np.array(true_load(), float)
    with np.load(other) as arrays:
        whole = np.concatenate([arrays[n] for n in arrays if n.endswith("routed_experts")])
    for layer, row in enumerate(found["layers"]):
        old = np.bincount(whole[:, layer].ravel(), minlength=32)
        shift = np.abs(old / old.sum() - load[layer] / load[layer].sum()).sum() / 2
        assert row["load_shift"] == pytest.approx(shift)
    assert run(capsys, "diff", other, STAT, "--exit-zero").code == 0


def test_maps_of_passes(capsys, tmp_path):
    """Physical counts of each pass become logical ones by a map of theirs."""
    doc = {
        "records": [
            {"forward_pass_id": step, "global_physical_count": torch.tensor([[5, 1, 2]])}
            for step in (0, 1)
        ],
        "last_physical_to_logical_map": torch.tensor([[0, 1, 1]]),
    }
    torch.save(doc, tmp_path / "a.pt")
    found = document(capsys, "show", tmp_path / "a.pt")
    assert found["layers"][0]["load"] == [[10, 6]]
    np.save(tmp_path / "maps.npy", np.array([[[1, 0, 0]], [[0, 1, 1]]]))
    found = document(capsys, "show", tmp_path / "a.pt", "--expert-map", tmp_path / "maps.npy")
    assert found["layers"][0]["load"] == [[3 + 5, 5 + 3]]
    error = complaint(capsys, "show", STAT, "--expert-map", tmp_path / "maps.npy")
    assert "counts of logical experts, which no map is for" in error


OTHERS = {
    "check": ("check", STAT),
    "convert": ("convert", STAT, "--save", "{}/a.parquet"),
    "staleness": ("staleness", STAT, "--at", f"v0={STAT}", "--at", f"v1={STAT}"),
    "pack": ("pack", STAT, "--save", "{}/packed"),
    "rows": ("diff", STAT, PASSES, "--layers", "1"),
    "thresholds": ("diff", STAT, PASSES, "--fail-over", "mismatch:0"),
    "a part": ("show", STAT, "--shard", "1/2", "--partial", "{}/part"),
}


@pytest.mark.parametrize("words", OTHERS.values(), ids=OTHERS)
def test_other_commands_refuse(capsys, tmp_path, words):
    """What needs routes says load-only, exit 2, and writes nothing."""
    error = complaint(capsys, *(str(word).replace("{}", str(tmp_path)) for word in words))
    assert "load-only" in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("doc", "told"),
    [
        (
            {"logical_count": torch.zeros(3, dtype=torch.int32)},
            "expected [passes, layers, experts]",
        ),
        ({"logical_count": torch.full((1, 2, 3), -1)}, "expected counts"),
        ({"logical_count": "a"}, "expected counts"),
        (
            {
                "records": [{"forward_pass_id": 0, "global_physical_count": torch.zeros(1, 2)}],
                "last_physical_to_logical_map": torch.zeros(1, 2, dtype=torch.int64),
            },
            "expected counts",
        ),
        (
            {
                "records": [{"forward_pass_id": 0}],
                "last_physical_to_logical_map": torch.zeros(1, 2, dtype=torch.int64),
            },
            "neither ids nor counts",
        ),
    ],
)
def test_damaged_counts(capsys, tmp_path, doc, told):
    """What no recorder writes is refused in one line."""
    torch.save(doc, tmp_path / "a.pt")
    assert told in complaint(capsys, "show", tmp_path / "a.pt")


def test_a_saved_report_is_shown_again(capsys, tmp_path):
    """-o NAME.json is read by routectl report, and a page shows the load-only words."""
    path, page = tmp_path / "a.json", tmp_path / "a.html"
    assert run(capsys, "diff", STAT, PASSES, "-o", path, "--html", page).code == 0
    assert json.loads(path.read_text("utf-8"))["schema"] == "routectl.loads/1"
    assert "load-only" in run(capsys, "report", path).out
    assert "load-only" in page.read_text("utf-8")
