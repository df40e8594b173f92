"""Every stored tensor has a place, in the model or a list, and none of the model's is lacking."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from routectl import FormatError, MismatchError
from routectl.checkpoints import open_checkpoint
from routectl.checkpoints.left_out import LEFT_OUT, left_out
from routectl.forward import RunOptions, prepare, run_forward
from support.forwards import checkpoint_of, quiet, samples
from support.quantized import edit_config, edit_tensors

pytestmark = pytest.mark.models
NORM = "model.layers.1.input_layernorm.weight"
EXPERT = "model.layers.1.mlp.experts.{}.{}_proj.weight"


@pytest.fixture
def folder(tmp_path):
    """A tiny checkpoint with experts one by one."""
    return checkpoint_of("qwen3_moe", tmp_path)


def refused(folder, match):
    """The line, and the hint, with which a checkpoint is refused before anything is read."""
    with pytest.raises(FormatError, match=match) as error:
        prepare(RunOptions(checkpoint=folder))
    assert str(error.value).startswith(f"{folder}")
    assert "\n" not in str(error.value)
    return error.value


def rename(old, new):
    """A change that gives a tensor another name."""
    return lambda tensors: tensors.__setitem__(new, tensors.pop(old))


def drop(*names):
    """A change that takes tensors out."""
    return lambda tensors: [tensors.pop(name) for name in names]


FAULTS = {
    "one dropped": (drop(NORM), f"tensor {NORM} is missing"),
    "the router dropped": (
        drop("model.layers.1.mlp.gate.weight"),
        "tensor model.layers.1.mlp.gate.weight is missing",
    ),
    "one renamed": (
        rename(NORM, NORM.replace("layernorm", "norm")),
        f"model.layers.1.input_norm.weight has no place in the model; tensor {NORM} is missing",
    ),
    "one more": (
        lambda tensors: tensors.update({"model.layers.1.self_attn.sinks": torch.ones(4)}),
        "tensor model.layers.1.self_attn.sinks has no place in the model",
    ),
    "many more": (
        lambda tensors: tensors.update({f"model.extra.{n}": torch.ones(1) for n in range(5)}),
        "5 tensors have no place in the model: model.extra.0, model.extra.1, model.extra.2, ...",
    ),
    "a layer more": (
        lambda tensors: tensors.update({"model.layers.3.input_layernorm.weight": torch.ones(32)}),
        "tensor model.layers.3.input_layernorm.weight has no place in the model",
    ),
    "one expert's matrix dropped": (
        drop(EXPERT.format(5, "up")),
        f"tensor {EXPERT.format(5, 'up')} is missing",
    ),
    "the last expert dropped": (
        drop(*(EXPERT.format(15, part) for part in ("gate", "up", "down"))),
        "3 tensors are missing",
    ),
    "all of one kind dropped": (
        drop(*(EXPERT.format(n, "up") for n in range(16))),
        "gate_up_proj, of .*up_proj",
    ),
    "an expert more": (
        lambda tensors: tensors.update(
            {
                EXPERT.format(16, part): tensors[EXPERT.format(0, part)].clone()
                for part in ("gate", "up", "down")
            }
        ),
        r"3 tensors have no place in the model: .*experts\.16\.",
    ),
    "an expert of another shape": (
        lambda tensors: tensors.update({EXPERT.format(5, "up"): torch.ones(16, 31)}),
        r"experts\.5\.up_proj\.weight: its shape is \(16, 31\), expected \(16, 32\)",
    ),
    "another shape": (
        lambda tensors: tensors.update({NORM: torch.ones(31)}),
        r"input_layernorm\.weight: its shape is \(31,\), expected \(32,\)",
    ),
    "an adapter beside the weights": (
        lambda tensors: tensors.update(
            {"model.layers.1.self_attn.q_proj.lora_A.weight": torch.ones(2)}
        ),
        "lora_A.weight has no place",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_tensor_is_refused_by_name(fault, folder):
    """One line names what is missing or has no place, before a weight is read."""
    change, words = FAULTS[fault]
    edit_tensors(folder, change)
    error = refused(folder, words)
    if "adapter" in fault:
        assert "merge it into its base model" in error.hint


def test_a_head_that_is_tied_may_be_missing(tmp_path):
    """A tensor that the model shares with another need not be stored twice."""
    folder = checkpoint_of("qwen3_moe", tmp_path)
    edit_config(folder, tie_word_embeddings=True)
    edit_tensors(folder, drop("lm_head.weight"))
    with quiet():
        prepared = prepare(RunOptions(checkpoint=folder, want_logprobs=True))
        (result,) = run_forward(prepared, samples(9))
    assert prepared.store.left_out == ()
    assert len(result.logprobs_G) == 5


@pytest.mark.parametrize(
    ("family", "tensor", "rows", "match"),
    [
        ("qwen3_moe", "model.layers.1.mlp.gate.weight", slice(3, 4), "layer 1: .* for 9 of 9 tok"),
        (
            "deepseek_v3",
            "model.layers.1.mlp.gate.weight",
            slice(3, 4),
            "layer 1: .* for 9 of 9 tok",
        ),
        ("qwen3_moe", "model.layers.1.post_attention_layernorm.weight", slice(2), "layer 1: "),
        ("qwen3_moe", "lm_head.weight", slice(5, 6), "its log-probs are NaN"),
    ],
)
def test_weights_that_are_no_numbers_give_no_routes(family, tensor, rows, match, tmp_path):
    """What a router takes of NaN is no route: refused, with the layer, in one line."""
    folder = checkpoint_of(family, tmp_path)
    edit_tensors(folder, lambda tensors: tensors[tensor][rows].fill_(torch.nan))
    with quiet():
        prepared = prepare(RunOptions(checkpoint=folder, want_logprobs=True))
        with pytest.raises(MismatchError, match=match) as error:
            list(run_forward(prepared, samples(9)))
    assert "fp32" in error.value.hint


def test_a_shard_that_is_not_there(tmp_path):
    """A missing shard is named, whether an index tells of it or the names of the others do."""
    folder = checkpoint_of("qwen3_moe", tmp_path, max_shard_size="60KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 2
    shards[1].unlink()
    refused(folder, re.escape(shards[1].name))
    (folder / "model.safetensors.index.json").unlink()
    refused(folder, f"{len(shards) - 1} shards without an index, expected 0*{len(shards)}")


def test_what_an_index_does_not_list_is_no_part(tmp_path):
    """A tensor that is in a shard and not in the index is named, needed or not."""
    folder = checkpoint_of("qwen3_moe", tmp_path, max_shard_size="60KB")
    index = folder / "model.safetensors.index.json"
    whole = index.read_text("utf-8")
    document = json.loads(whole)
    del document["weight_map"][NORM]
    index.write_text(json.dumps(document), "utf-8")
    error = refused(folder, f"tensor {NORM} is missing")
    assert error.hint == f"{NORM} is in a shard, but the index does not list it"
    index.write_text(whole, "utf-8")
    shard = sorted(folder.glob("model-*.safetensors"))[0]
    save_file({**load_file(shard), "stray": torch.ones(1)}, shard)
    refused(folder, "tensor stray is in a shard, but the index does not list it")


LEFT = {  # as published checkpoints have them, and the place in LEFT_OUT of why they are left out
    "mtp.layers.0.mlp.gate.weight": 0,  # qwen3_next
    "model.mtp.layers.0.eh_proj.weight": 0,  # longcat_flash, mimo
    "model.mtp_block.0.mlp.gate.weight": 0,  # ernie4_5_moe
    "mtp_dspark.layers.0.input_layernorm.weight": 0,
    "model.layers.4.eh_proj.weight": 0,  # deepseek_v3, behind the last layer
    "model.layers.4.mlp.experts.0.up_proj.weight": 0,
    "model.visual.blocks.0.attn.qkv.weight": 1,  # qwen3_vl
    "vision_tower.encoder.layers.0.wqkv.weight": 1,
    "model.vision_model.layers.0.mlp.fc1.weight": 1,  # llama4
    "model.embed_vision.embedding_projection.weight": 1,  # gemma
    "thinker.audio_tower.layers.0.fc1.weight": 2,  # qwen3_omni
    "multi_modal_projector.linear_1.weight": 3,
    "talker.model.layers.0.mlp.gate.weight": 4,
    "code2wav.upsample.0.conv.weight": 4,
    "lm_head.weight": 5,
    "v_head.summary.weight": 5,
    "model.layers.1.self_attn.k_scale": 6,
    "model.layers.1.self_attn.attn.v_scale": 6,
    "model.layers.1.self_attn.k_proj.k_scale": 6,
    "model.layers.1.self_attn.kv_scale": 6,
    "model.layers.1.self_attn.q_proj.input_scale": 7,
    "model.layers.1.mlp.experts.3.up_proj.activation_scale": 7,
    "model.layers.1.self_attn.k_proj.output_scale": 7,
    "model.layers.1.mlp.experts.3.up_proj.input_scale_ub": 7,
    "model.layers.1.self_attn.wq.qscale_act": 7,
    "model.layers.1.self_attn.rotary_emb.inv_freq": 8,
}
KEPT = (  # what looks alike
    "model.layers.1.mtp.weight",
    "model.layers.1.visual.weight",
    "model.layers.1.mlp.lm_head.weight",
    "model.layers.1.self_attn.k_scale.weight",
    "model.layers.1.mlp.gate.per_expert_scale",
    "model.layers.1.self_attn.q_proj.weight_scale",
    "model.layers.1.mlp.gate.e_score_correction_bias",
    "model.layers.1.rotary.weight",
    "model.layers.5.input_layernorm.weight",
    "model.embed_tokens_per_layer.weight",
    "model.norm.bias",
)


def test_names_that_are_left_out_and_names_that_are_not(tmp_path):
    """Each kind of the list has a name here, with its own reason; what looks alike has none."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}", "utf-8")
    save_file({name: torch.ones(1) for name in (*LEFT, *KEPT)}, folder / "model.safetensors")
    found = left_out(open_checkpoint(folder), (*LEFT, *KEPT), 4)
    assert found == {
        **{name: LEFT_OUT[kind].reason for name, kind in LEFT.items()},
        **dict.fromkeys(KEPT),
    }
    assert set(LEFT.values()) == set(range(len(LEFT_OUT)))
    edit_config(folder, text_config={"num_nextn_predict_layers": 2})
    last = KEPT[-3]
    assert left_out(open_checkpoint(folder), [last], 4) == {last: LEFT_OUT[0].reason}
