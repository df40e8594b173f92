"""A router trace in place of a forward: recompute, predict and staleness by what it holds."""

import json

import pytest
import torch

from routectl.formats import open_dump
from routectl.routers.from_config import recipe_from_config
from routectl.routers.maths import route
from support.shell import document, run
from support.traces import TRACES, copied, logits, records, rollout

CONFIG = TRACES / "v0" / "config.json"


def sets_of(path):
    """The sets of each row of a dump's samples."""
    return [[[set(k) for k in row] for row in s.routes.ids_TLK.tolist()] for s in open_dump(path)]


@pytest.mark.parametrize("name", ["v0", "v1"])
def test_routes_of_the_traces_own_logits_are_its_routes(name):
    """The family's selection on the traced logits gives the traced set in every row but ties."""
    recipe = recipe_from_config(json.loads(CONFIG.read_text()), "v0")
    rows = ties = 0
    for record in records(name):
        got = route(recipe, logits(name, record).float())
        for ids, margin, own in zip(
            got.ids_TK.tolist(), got.margin_T.tolist(), record["top_indices"], strict=True
        ):
            rows, ties = rows + 1, ties + (margin == 0)
            assert set(ids) == set(own) or margin == 0
    assert (rows, ties < 4) == (76, True)


@pytest.mark.parametrize("name", ["v0", "v1"])
def test_recompute_gives_the_routes_of_the_trace_by_its_own_routers(name, tmp_path, capsys):
    """A trace is the checkpoint of its routers: on its own inputs they select its own routes."""
    saved = tmp_path / "r.parquet"
    assert run(capsys, "recompute", TRACES / name, TRACES / name, "--save", saved).code == 0
    assert sets_of(saved) == sets_of(TRACES / name)


def test_a_trace_goes_through_another_versions_routers(tmp_path, capsys):
    """v1's routers on v0's inputs select otherwise than v0's in some rows, and v1 in fewer."""
    saved = tmp_path / "r.parquet"
    run(capsys, "recompute", TRACES / "v1", TRACES / "v0", "--save", saved)
    asked = document(capsys, "diff", saved, TRACES / "v0", "--match", "order", code=1)
    assert 0 < asked["rows_mismatched"] < 76


def test_tokens_join_what_is_recomputed_with_the_rollout(tmp_path, capsys):
    """With TRACE::tokens=FILE recomputed samples are the rollout's, and no row differs."""
    saved, tokens = tmp_path / "r.parquet", rollout(tmp_path)
    named = f"{TRACES / 'v0'}::tokens={tokens}"
    assert run(capsys, "recompute", TRACES / "v0", named, "--save", saved).code == 0
    asked = document(capsys, "diff", tokens, saved, "--model", CONFIG)
    assert (asked["rows"], asked["rows_mismatched"]) == (66, 0)


def test_staleness_takes_traces_as_versions(tmp_path, capsys):
    """Traces of both versions give mismatch and staleness at lag 1 with no forward."""
    tokens = rollout(tmp_path)
    at = [f"--at={n}={TRACES / v}::tokens={tokens}" for n, v in (("3", "v0"), ("4", "v1"))]
    asked = document(capsys, "staleness", tokens, "--model", CONFIG, *at)
    found = {(one["kind"], one["lag"]): one["rows_mismatched"] for one in asked["comparisons"]}
    changed = document(capsys, "diff", *(one.split("=", 2)[2] for one in at), code=1)
    assert changed["rows_mismatched"] > 0
    assert found["mismatch", 0] == 0
    assert found["staleness", 1] == changed["rows_mismatched"]


def test_predict_is_fitted_to_traces(tmp_path, capsys):
    """predict fit, judge and write take traces with tokens in place of router inputs."""
    tokens, saved = rollout(tmp_path), tmp_path / "p.safetensors"
    old, new = (f"{TRACES / v}::tokens={tokens}" for v in ("v0", "v1"))
    at = ("--at", f"v0={TRACES / 'v0'}", "--at", f"v1={TRACES / 'v1'}")
    fitted = run(capsys, "predict", "fit", old, *at, "--inputs", f"v1={new}", "--save", saved)
    assert fitted.code == 0
    judged = ("--predictor", saved, "--inputs", f"v1={new}")
    assert run(capsys, "predict", "judge", old, *at, *judged).code == 0
    written = tmp_path / "predicted.parquet"
    asked = run(capsys, "predict", "write", old, *at, "--predictor", saved, "--save", written)
    assert (asked.code, len(open_dump(written))) == (0, 5)


def test_predict_says_where_tokens_come_from(tmp_path, capsys):
    """A trace without tokens is refused with what gives them."""
    at = ("--at", f"v0={TRACES / 'v0'}", "--at", f"v1={TRACES / 'v1'}")
    asked = run(
        capsys,
        *("predict", "fit", TRACES / "v0", *at, "--inputs", f"v1={TRACES / 'v1'}"),
        *("--save", tmp_path / "p.safetensors"),
    )
    assert asked.code == 2
    assert "TRACE::tokens=FILE" in asked.err


def test_a_trace_does_not_say_how_its_routers_select(tmp_path, capsys):
    """Without config.json or --model the routers of a trace are no recipe: nothing is written."""
    saved = tmp_path / "r.parquet"
    asked = run(capsys, "recompute", TRACES / "sigmoid", TRACES / "sigmoid", "--save", saved)
    assert (asked.code, saved.exists()) == (2, False)
    assert "--model CONFIG" in asked.err


def test_inputs_of_a_stage_are_refused(tmp_path, capsys):
    """A trace of fewer layers than the checkpoint has routers may be a stage's, and is refused."""
    folder, saved = copied("v0", tmp_path), tmp_path / "r.parquet"
    path = folder / "router_trace_rank0.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in records("v0") if r["layer"] == 1))
    asked = run(capsys, "recompute", TRACES / "v0", folder, "--save", saved)
    assert asked.code == 2
    assert "a pipeline stage numbers its own from 0" in asked.err


def test_traced_logits_are_of_traced_states():
    """The sidecars fit each other: logits are hidden states times the weight, in bfloat16."""
    for record in records("v0"):
        state = torch.load(TRACES / "v0" / "router_state_rank0.pt")
        weight = state["decoder", None, record["layer"]]["weight"]
        assert logits("v0", record).shape == (record["num_tokens"], len(weight))
