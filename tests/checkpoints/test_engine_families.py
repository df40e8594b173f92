"""Checkpoints of families that only engines run: shown and replayed, and no forward is made up."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from routectl import open_dump
from support.building import record, some_ids, write_lines
from support.recordings import FIXTURES
from support.shell import complaint, run

RECORDED = FIXTURES / "engine_routers.safetensors"
NAMES = {  # behind "layers.N.", as the published checkpoints have them
    "bailing_moe": ("mlp.gate.weight", None),
    "bailing_moe_v2": ("mlp.gate.weight", "mlp.gate.expert_bias"),
    "deepseek_v41": ("ffn.gate.weight", "ffn.gate.bias"),
    "interns1_pro": ("mlp.gate.weight", None),
    "kimi_k3": ("block_sparse_moe.gate.weight", "block_sparse_moe.gate.e_score_correction_bias"),
    "llada2_moe": ("mlp.gate.weight", "mlp.gate.expert_bias"),
    "longcat_next": ("mlp.router.classifier.weight", "mlp.router.e_score_correction_bias"),
    "mimo_v2": ("mlp.gate.weight", "mlp.gate.e_score_correction_bias"),
    "minimax_m3": ("block_sparse_moe.gate.weight", "block_sparse_moe.e_score_correction_bias"),
    "step3": ("moe.gate.weight", None),
    "step3p5": ("moe.gate.weight", "moe.router_bias"),
}
LAYERS = (1, 3)


def written(name, folder):
    """A checkpoint with the recorded router in two of four layers, its inputs, its ids [T, K]."""
    with safe_open(RECORDED, framework="pt") as file:
        config = json.loads(file.metadata()[name])["config"]
        parts = ("matrix", "bias") if f"{name}/bias" in file.keys() else ("matrix",)  # noqa: SIM118
        router = {part: file.get_tensor(f"{name}/{part}") for part in parts}
        hidden, ids_TK = (file.get_tensor(f"{name}/{part}") for part in ("hidden", "ids"))
    config.get("text_config", config)["moe_layers"] = list(LAYERS)
    names = dict(zip(("matrix", "bias"), NAMES[name], strict=True))
    tensors = {
        f"model.layers.{layer}.{names[part]}": tensor.clone()
        for layer in LAYERS
        for part, tensor in router.items()
    }
    if name == "deepseek_v41":
        tensors |= {f"model.layers.{n}.ffn.gate.bias_vl": torch.zeros(32) for n in LAYERS}
    (folder / "c").mkdir()
    (folder / "c" / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "c" / "model.safetensors")
    inputs = {f"layer.{layer}": hidden.clone() for layer in LAYERS}
    save_file(inputs, folder / "i.safetensors")
    return folder / "c", folder / "i.safetensors", ids_TK.numpy()


@pytest.mark.parametrize("name", NAMES)
def test_router_inputs_give_the_engines_experts(name, capsys, tmp_path):
    """recompute on dumped inputs selects what the engine did, in both layers; show knows both."""
    folder, inputs, ids_TK = written(name, tmp_path)
    done = run(capsys, "recompute", folder, inputs, "--save", tmp_path / "r.parquet")
    assert done.code == 0, done.err
    dump = open_dump(tmp_path / "r.parquet")
    assert dump.meta.layers_L == LAYERS
    routes = dump[0].routes
    same_TL = (np.sort(routes.ids_TLK) == np.sort(ids_TK)[:, None]).all(-1)
    assert (same_TL | (routes.margin_TL == 0)).all()
    assert same_TL.mean() > 0.9
    shown = run(capsys, "show", folder)
    assert (shown.code, "1, 3" in shown.out) == (0, True), shown.out


@pytest.mark.models
@pytest.mark.parametrize("name", ["bailing_moe_v2", "kimi_k3"])
def test_a_forward_is_refused_by_name(name, capsys, tmp_path):
    """transformers has no code of the family: one line, and what can be done without."""
    folder, _, _ = written(name, tmp_path)
    dump = write_lines(tmp_path / "x.jsonl", [record(some_ids(5))])
    said = complaint(capsys, "recompute", folder, dump, "--save", tmp_path / "o.parquet")
    assert f"has no family '{name}'" in said
    assert (
        "hint: its routers alone run on dumped router inputs: recompute CHECKPOINT INPUTS" in said
    )
