"""Files of earlier versions beside dumps: replay folders, reports, predictors, baselines, plans.

fixtures/versions/README.md says which commit wrote which.
"""

import json
import shutil

import numpy as np
import pytest
from safetensors import safe_open

import routectl
from routectl.checkpoints.predictor import open_predictor
from routectl.checkpoints.router_inputs import open_router_inputs
from routectl.formats.replay.plans import read_plan
from routectl.jobs.ci.baseline import read_baseline
from routectl.jobs.saved import read_report
from routectl.reports.page.page import VIEWED
from support.recordings import DEEPSEEK, DEEPSEEK_CONFIG, FIXTURES, decode, read_lines
from support.shell import run

FOLDER = FIXTURES / "versions"
REPORTS = sorted((FOLDER / "reports").glob("*.json"))
REPLAYS = sorted(path for path in (FOLDER / "replay").iterdir())


def _dump(folder):
    """The three samples that the replay folders were packed from."""
    lines = (DEEPSEEK / "samples.jsonl").read_text("utf-8").split("\n")[:3]
    shutil.copy(DEEPSEEK_CONFIG, folder / "config.json")
    (folder / "samples.jsonl").write_text("\n".join(lines), "utf-8")
    return folder / "samples.jsonl"


@pytest.mark.parametrize("folder", REPLAYS, ids=lambda path: path.name)
def test_a_replay_folder_of_before_is_unpacked(folder, tmp_path):
    """Its tensors give back the recording's routes; a sample that was skipped is not there."""
    saved = tmp_path / "back.parquet"
    routectl.run(routectl.UnpackRequest(folder=folder, save=saved))
    recorded = read_lines(DEEPSEEK / "samples.jsonl")[:3]
    if folder.name == "skipped":
        del recorded[1]
    dump = routectl.open_dump(saved)
    assert len(dump) == len(recorded)
    for sample, line in zip(dump, recorded, strict=True):
        wanted = decode(line["routed_experts_b64npy"])[:, 1:]
        assert np.array_equal(sample.routes.ids_TLK, wanted)


@pytest.mark.parametrize("name", ["plan", "ranks"])
def test_a_replay_folder_of_before_is_verified(name, tmp_path):
    """Every row of its tensors is its token's route in the dump."""
    request = routectl.VerifyRequest(folder=FOLDER / "replay" / name, against=str(_dump(tmp_path)))
    document = routectl.run(request)
    assert document["ok"], document
    assert document["rows"] == 4 * 96


@pytest.mark.parametrize("path", REPORTS, ids=lambda path: path.name)
def test_a_report_of_before_is_shown(path, tmp_path, capsys):
    """As text, in which its own words or figures are, and as a page."""
    page = tmp_path / "page.html"
    shown = run(capsys, "report", path)
    assert (shown.code, shown.err) == (0, "")
    assert _SAID[path.name.split(".")[0]] in shown.out
    assert run(capsys, "report", path, "-o", page).code == 0
    assert page.stat().st_size > 10_000


_SAID = {
    "check": "CLEAN",
    "checkpoint": "torch_dist",
    "ci": "2 of 3 checks",
    "diff": "DIFFERS",
    "predict": "UNDECIDED",
    "series": "2 steps",
    "show": " samples",
    "staleness": "OVER",
    "verify": "VERIFIED",
}


def test_there_is_a_report_of_each_schema_of_before():
    """Every schema of 0.1.0 that can be shown has a report of its first days."""
    found = {json.loads(path.read_text("utf-8"))["schema"] for path in REPORTS}
    names = "diff check staleness staleness_series show checkpoint predict verify ci"
    assert found == {f"routectl.{name}/1" for name in names.split()}
    assert found <= set(VIEWED)


def _holds(now, before):
    """Whether a document has all that an earlier one has, with the same values."""
    if isinstance(before, dict):
        return all(key in now and _holds(now[key], value) for key, value in before.items())
    if isinstance(before, list):
        return len(now) == len(before) and all(map(_holds, now, before))
    return now == before


@pytest.mark.parametrize("path", REPORTS, ids=lambda path: path.name)
def test_what_came_later_is_filled_in_and_nothing_else_changed(path):
    """A report of before keeps every key and value that it has."""
    assert _holds(read_report(path, *VIEWED), json.loads(path.read_text("utf-8")))


def test_a_predictor_of_before_is_read():
    """Its weights are those of the file, its facts those of the metadata."""
    path = FOLDER / "predictor.safetensors"
    predictor = open_predictor(path)
    with safe_open(path, framework="np") as file:
        for layer, weight_DE in predictor.weights.items():
            assert np.array_equal(weight_DE.numpy(), file.get_tensor(f"layer.{layer}.predictor"))
    assert list(predictor.weights) == list(range(6))
    assert (predictor.facts.family, predictor.facts.old) == ("qwen3_moe", "v0")
    assert predictor.facts.later == ("v1",)


def test_router_inputs_of_before_are_read():
    """They are of the tokens of the recording's first sample, 64 numbers a token and layer."""
    inputs = open_router_inputs(FOLDER / "router_inputs.safetensors")
    line = read_lines(FIXTURES / "tiny_rl" / "vllm.bf16" / "samples.jsonl")[0]
    tokens = [*line["prompt_token_ids"], *line["token_ids"]]
    assert inputs.token_ids_T.tolist() == tokens[: len(inputs.token_ids_T)]
    assert list(inputs) == list(range(6))
    assert {tuple(inputs[layer].shape) for layer in inputs} == {(len(inputs.token_ids_T), 64)}


def test_a_baseline_of_before_is_read():
    """Its numbers are those of its file."""
    found = read_baseline(FOLDER / "baseline.json")
    assert found == json.loads((FOLDER / "baseline.json").read_text("utf-8"))["checks"]
    assert found["mismatch"]["routectl/mismatch"] == pytest.approx(0.0202, abs=1e-4)


def test_a_plan_of_before_is_read():
    """Two micro-batches on two data-parallel ranks, the last of them empty."""
    steps = read_plan(FOLDER / "plan.json", 1).micro_batches
    assert [step.groups for step in steps] == [((0,), (1,)), ((2,), ())]
