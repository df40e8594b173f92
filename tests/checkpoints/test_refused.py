"""Folders of which no forward is run, by headers alone: what show says, and routers read alone."""

import json
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from routectl import FormatError, MismatchError, UnsupportedError, open_checkpoint, router_tensors
from routectl.checkpoints.headers import read_header, strict_json
from routectl.checkpoints.router_inputs import open_router_inputs
from routectl.checkpoints.routers import router_recipe
from routectl.limits import raised_limits
from support.shell import complaint, document, run

CONFIG = {
    "model_type": "deepseek_v3",
    "num_hidden_layers": 2,
    "first_k_dense_replace": 1,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
}
GATE, UP = "model.layers.1.mlp.gate.", "model.layers.1.mlp.experts.0.up_proj."
FLOAT8 = torch.ones(16, 16).to(torch.float8_e4m3fn)
WEIGHTS = {
    f"{GATE}weight": torch.ones(8, 16, dtype=torch.bfloat16),
    f"{GATE}e_score_correction_bias": torch.zeros(8),
    f"{UP}weight": FLOAT8,
    f"{UP}weight_scale": torch.ones(()),
}


def build(folder: Path, config: dict | None = None, **changes: torch.Tensor | None) -> Path:
    """A folder of routers and one quantised weight; None takes a tensor out."""
    folder.mkdir()
    stored = {name: t for name, t in {**WEIGHTS, **changes}.items() if t is not None}
    save_file(
        {name: tensor.clone() for name, tensor in stored.items()}, folder / "model.safetensors"
    )
    (folder / "config.json").write_text(json.dumps({**CONFIG, **(config or {})}), "utf-8")
    return folder


MTP = "model.layers.2.mlp.experts.0.up_proj.weight"
SHOWN = {
    "nothing": ({}, {}, None),
    "a scale dropped": ({}, {f"{UP}weight_scale": None}, f"{UP}weight: stored as F8_E4M3, without"),
    "a scale of multi-token prediction": ({"num_nextn_predict_layers": 1}, {MTP: FLOAT8}, None),
    "a layer more": ({}, {MTP: FLOAT8}, f"{MTP}: stored as F8_E4M3, without a scale"),
    "NVFP4": (
        {},
        {
            f"{UP}weight": torch.ones(16, 8, dtype=torch.uint8),
            f"{UP}weight_scale": torch.ones(16, 1).to(torch.float8_e4m3fn),
            f"{UP}weight_scale_2": torch.ones(()),
        },
        "NVFP4 of ModelOpt: weights of this format are not turned back (1 more are refused)",
    ),
    "a method": (
        {"quantization_config": {"quant_method": "gptq"}},
        {},
        "quantization 'gptq': expected one of fp8",
    ),
    "mxfp4 that nobody tells of": (
        {},
        {"model.layers.1.mlp.experts.up_proj_blocks": torch.ones(1, 2, 1, 16, dtype=torch.uint8)},
        "up_proj_blocks: stored as U8, without a scale",
    ),
    "mxfp4 without scales": (
        {"quantization_config": {"quant_method": "mxfp4"}},
        {"model.layers.1.mlp.experts.up_proj_blocks": torch.ones(1, 2, 1, 16, dtype=torch.uint8)},
        "mxfp4, without model.layers.1.mlp.experts.up_proj_scales",
    ),
}


@pytest.mark.parametrize("case", SHOWN)
def test_show_says_what_no_forward_is_run_of(case, tmp_path, capsys):
    """The reason is in the document and in a line, and no weight is read for it."""
    config, changes, words = SHOWN[case]
    folder = build(tmp_path / "model", config, **changes)
    refused = document(capsys, "show", folder)["refused"]
    out = run(capsys, "show", folder).out
    if words is None:
        assert refused is None
        assert "refused" not in out
    else:
        assert words in refused
        assert "refused   no forward is run of it: " in out


def test_show_names_what_an_index_does_not_list(tmp_path, capsys):
    """A tensor in a shard that the index does not list is left out by nobody."""
    folder = build(tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    listed = dict.fromkeys([n for n in WEIGHTS if n != f"{UP}weight_scale"], "model-00001-of-00001")
    index = {"weight_map": {name: f"{file}.safetensors" for name, file in listed.items()}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    refused = document(capsys, "show", folder)["refused"]
    assert refused == f"{UP}weight: stored as F8_E4M3, without a scale"
    index["weight_map"] = {n: f for n, f in index["weight_map"].items() if UP not in n}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    refused = document(capsys, "show", folder)["refused"]
    assert refused == f"{UP}weight is in a shard, but the index does not list it"


class TestRouters:
    """Routers read alone: from router inputs, for gates, by predict."""

    @pytest.mark.parametrize(
        ("name", "tensor"),
        [
            ("weight_scale", torch.ones(())),
            ("correction_bias", torch.zeros(8)),
            ("lora_A.weight", torch.ones(2, 16)),
        ],
    )
    def test_a_tensor_of_a_router_that_nobody_knows(self, name, tensor, tmp_path):
        """What is inside a router and none of its known parts is refused by name."""
        folder = build(tmp_path / "model", **{f"{GATE}{name}": tensor})
        with pytest.raises(FormatError, match=f"gate.{name}: a tensor of a router that is none of"):
            router_tensors(open_checkpoint(folder))

    def test_scales_of_activations_are_left_out(self, tmp_path):
        """An engine's scale of what the router is given is no part of the router."""
        folder = build(tmp_path / "model", **{f"{GATE}input_scale": torch.ones(())})
        assert list(router_tensors(open_checkpoint(folder))) == [1]

    def test_a_bias_in_8_bits(self, tmp_path):
        """A router's bias is read in floating point, as its weight is."""
        bias = torch.zeros(8).to(torch.float8_e4m3fn)
        folder = build(tmp_path / "model", **{f"{GATE}e_score_correction_bias": bias})
        with pytest.raises(UnsupportedError, match="stored as F8_E4M3: a router's bias is read as"):
            router_tensors(open_checkpoint(folder))

    def test_a_bias_that_the_recipe_does_not_use(self, tmp_path):
        """A bias that is stored, and that the family's recipe has no use for, is refused."""
        config = {
            "model_type": "qwen3_moe",
            "num_experts": 8,
            "mlp_only_layers": [0],
            "scoring_func": "softmax",
        }
        folder = build(tmp_path / "model", config)
        with pytest.raises(MismatchError, match=r"got .*correction_bias, expected none with"):
            router_recipe(open_checkpoint(folder))


def test_other_tensors_among_router_inputs(tmp_path):
    """A renamed layer in a file of router inputs is not passed over in silence."""
    path = tmp_path / "inputs.safetensors"
    save_file({"layer.1": torch.ones(3, 16), "layers.2": torch.ones(3, 16)}, path)
    with pytest.raises(FormatError, match=r"tensor 'layers\.2' is not of router inputs: expected"):
        open_router_inputs(path)


ADAPTER = {"peft_type": "LORA", "r": 16, "base_model_name_or_path": "org/base"}


def adapter(folder: Path) -> Path:
    """A LoRA adapter as PEFT saves one."""
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(ADAPTER), "utf-8")
    name = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"
    save_file({name: torch.ones(2, 16)}, folder / "adapter_model.safetensors")
    return folder


@pytest.mark.parametrize(
    "line",
    [
        ("show", "{adapter}"),
        ("recompute", "{adapter}", "{dump}", "--save", "{out}.parquet"),
        ("recompute", "{adapter}", "{inputs}", "--save", "{out}.parquet"),
        ("staleness", "{dump}", "--at=a={adapter}", "--at=b={model}"),
        ("staleness", "{dump}", "--at=a={model}", "--at=b={adapter}"),
        ("check", "{dump}", "--against", "{adapter}"),
        (
            "predict",
            "{inputs}",
            "--at=a={model}",
            "--at=b={adapter}",
            "--fit",
            "-o{out}.safetensors",
        ),
    ],
)
def test_every_door_says_what_an_adapter_is(line, tmp_path, capsys):
    """One line says that it is an adapter, of what, and what to do; nothing is written."""
    inputs, dump = tmp_path / "inputs.safetensors", tmp_path / "dump.jsonl"
    save_file({"layer.1": torch.ones(3, 16), "cu_seqlens": torch.tensor([0, 3])}, inputs)
    dump.write_text(
        '{"prompt_ids": [1, 2], "response_ids": [3], "routed_experts": null}\n', "utf-8"
    )
    places = {
        "adapter": adapter(tmp_path / "adapter"),
        "model": build(tmp_path / "model"),
        "inputs": inputs,
        "dump": dump,
        "out": tmp_path / "out",
        "fit": tmp_path / "out.safetensors",
    }
    said = complaint(capsys, *(word.format(**places) for word in line))
    assert f"{places['adapter']}: an adapter (LORA, rank 16, of 'org/base')" in said
    assert "hint: merge it into its base model first" in said
    assert not list(tmp_path.glob("out*"))


def test_an_adapter_beside_its_base_model(tmp_path, capsys):
    """A folder that has both is refused too: the adapter would be left out."""
    folder = adapter(build(tmp_path / "model"))
    said = complaint(capsys, "show", folder)
    assert (
        "an adapter (LORA, rank 16, of 'org/base') beside model.safetensors, which would be" in said
    )
    (folder / "adapter_config.json").write_text("no JSON", "utf-8")
    assert ": an adapter (PEFT)" in complaint(capsys, "show", folder)


def test_a_header_of_too_many_tensors_is_refused_before_it_is_parsed(tmp_path):
    """A safetensors header names 262,144 tensors at most: counted by its braces, at once."""
    one = '"t{}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'
    text = "{" + ",".join(one.format(i) for i in range((1 << 18) + 2)) + "}"
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text.encode())
    begun = time.process_time()
    with pytest.raises(FormatError, match="a header of 262147 tensors, expected 262144 at most"):
        read_header(path)
    assert time.process_time() - begun < 0.5


def test_values_of_an_index_are_counted_before_it_is_parsed():
    """JSON of a checkpoint is within the budget of values, which --limit raises."""
    text = b'{"a":[' + b"0," * 50 + b"0]}"
    with raised_limits(nodes="10"), pytest.raises(FormatError, match="values of JSON") as caught:
        strict_json(text, "index.json")
    assert "--limit nodes=" in caught.value.hint
    assert strict_json(text, "index.json") == {"a": [0] * 51}
