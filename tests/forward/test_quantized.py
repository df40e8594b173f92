"""Quantised checkpoints: the routes are those of the plain weights that they stand for."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from routectl import FormatError, UnsupportedError
from routectl.forward import RunOptions, prepare
from support.forwards import checkpoint_of, forward, hooked, load, quiet, samples
from support.quantized import WAYS, edit_config, edit_tensors, quantized

pytestmark = pytest.mark.models
Q = "model.layers.1.self_attn.q_proj.weight"
DOWN = "model.layers.1.mlp.experts.5.down_proj.weight"


@pytest.fixture(autouse=True)
def one_thread():
    """Sums in one order."""
    torch.set_num_threads(1)


@pytest.fixture
def fp8(tmp_path):
    """A checkpoint with one scale a tensor."""
    folder = checkpoint_of("qwen3_moe", tmp_path / "fp8")
    quantized(folder, "per tensor, static", tmp_path / "plain")
    return folder


@pytest.mark.parametrize("streaming", ["plain", "stream"])
@pytest.mark.parametrize("way", WAYS)
def test_routes_are_those_of_the_plain_weights(way, streaming, tmp_path):
    """Every row is that of transformers on the plain checkpoint in float32."""
    folder, plain = checkpoint_of("deepseek_v3", tmp_path / "q"), tmp_path / "plain"
    assert quantized(folder, way, plain) > 50
    inputs = samples(24, 13)
    results, prepared = forward(folder, inputs, dtype="float32", streaming=streaming)
    expected = hooked(load(plain, torch.float32, "deepseek_v3"), inputs)
    for result, (ids_TLK, _, _) in zip(results, expected, strict=True):
        assert np.array_equal(result.ids_TLK, ids_TLK)
    assert prepared.provenance["dequantized"]
    unscaled, _ = forward(checkpoint_of("deepseek_v3", tmp_path / "o"), inputs, dtype="float32")
    same = [np.array_equal(a.ids_TLK, b.ids_TLK) for a, b in zip(results, unscaled, strict=True)]
    assert not all(same)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("name", ["qwen3_moe", "glm4_moe", "deepseek_v3"])
def test_weights_are_bit_for_bit_those_of_transformers(name, dtype, tmp_path):
    """Blocks that divide are turned back to the bits that from_pretrained gives them."""
    from transformers import AutoModelForCausalLM, FineGrainedFP8Config

    folder = checkpoint_of(name, tmp_path / "q")
    quantized(folder, "blocks", tmp_path / "plain")
    options = RunOptions(checkpoint=folder, dtype=dtype)
    with quiet():
        loaded = prepare(options).store.whole()
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            quantization_config=FineGrainedFP8Config(dequantize=True),
        )
    for key, tensor in model.state_dict().items():
        if tensor.dtype == loaded[key].dtype:  # it leaves norms, and biases, in another
            assert torch.equal(tensor, loaded[key]), key
    projections = [key for key in loaded if key.endswith(("_proj", "_proj.weight"))]
    assert len(projections) >= 11
    assert all(model.state_dict()[key].dtype == loaded[key].dtype for key in projections)


def test_fused_experts_have_a_scale_each(tmp_path):
    """Experts stored as one tensor [E, ...] are turned back with scales [E, 1, 1], and block by
    block; they are cut where all of them would be too much at once.
    """
    from routectl.forward import dequantize

    folder = checkpoint_of("gpt_oss", tmp_path / "q")
    tensors = load_file(folder / "model.safetensors")
    stored, plain = {}, {}
    for name, tensor in tensors.items():
        stored[name] = plain[name] = tensor
        if name.endswith("_proj") and "experts" in name:
            blocks = name.endswith("down_proj")
            rows, columns = (size // 8 if blocks else 1 for size in tensor.shape[1:])
            grid = torch.rand(len(tensor), rows, columns) + 0.5
            factors = grid.repeat_interleave(tensor.shape[1] // rows, 1)
            factors = factors.repeat_interleave(tensor.shape[2] // columns, 2)
            stored[name] = (tensor.float() / factors).to(torch.float8_e4m3fn)
            stored[f"{name}_scale_inv" if blocks else f"{name}_scale"] = grid
            plain[name] = stored[name].float() * factors
    save_file(stored, folder / "model.safetensors")
    inputs = samples(20)
    results, prepared = forward(folder, inputs, dtype="float32")
    loaded = prepared.store.whole()
    whole, dequantize._ELEMENTS = dequantize._ELEMENTS, 1
    try:
        cut = prepared.store.whole()
    finally:
        dequantize._ELEMENTS = whole
    for name, tensor in plain.items():
        assert torch.equal(loaded[name], tensor.float())
        assert torch.equal(cut[name], tensor.float())
    save_file({n: t.contiguous() for n, t in plain.items()}, folder / "model.safetensors")
    expected = hooked(load(folder, torch.float32, "gpt_oss"), inputs)
    assert np.array_equal(results[0].ids_TLK, expected[0][0])


def test_scales_of_activations_and_caches_change_nothing(fp8, tmp_path):
    """Weights alone are quantised here: what an engine rounds besides is left out."""
    before, prepared = forward(fp8, samples(9))
    assert all(name.endswith("input_scale") for name in prepared.store.left_out)
    assert len(prepared.store.left_out) > 50

    def more(tensors):
        for layer in range(3):
            for name in ("k_scale", "v_scale", "attn.k_scale", "k_proj.output_scale"):
                tensors[f"model.layers.{layer}.self_attn.{name}"] = torch.tensor(0.1)

    edit_tensors(fp8, more)
    after, prepared = forward(fp8, samples(9))
    assert np.array_equal(before[0].ids_TLK, after[0].ids_TLK)
    assert len([n for n in prepared.store.left_out if "self_attn" in n]) >= 12


def drop(*names):
    """A change that takes tensors out."""
    return lambda tensors: [tensors.pop(name) for name in names]


def put(name, tensor):
    """A change that puts a tensor in, or another in its place."""
    return lambda tensors: tensors.__setitem__(name, tensor)


FLOAT8 = torch.zeros(32, 32).to(torch.float8_e4m3fn)
REFUSED = {
    "a scale dropped": (drop(f"{Q}_scale"), f"{Q}: stored as F8_E4M3, without a scale"),
    "an expert's scale dropped": (drop(f"{DOWN}_scale"), f"{DOWN}: stored as F8_E4M3, without a"),
    "a scale of another shape": (
        put(f"{Q}_scale", torch.ones(3, 3)),
        r"F8_E4M3 \[32, 32\], with .*_scale as F32 \[3, 3\]: nothing that fits",
    ),
    "a scale of three axes": (put(f"{Q}_scale", torch.ones(4, 1, 4)), "nothing that fits"),
    "two scales": (put(f"{Q}_scale_inv", torch.ones(4, 4)), f"{Q}: two scales"),
    "a scale of integers": (
        put(f"{Q}_scale", torch.ones(1, dtype=torch.int32)),
        "nothing that fits",
    ),
    "NVFP4 of ModelOpt": (put(f"{Q}_scale_2", torch.ones(())), "NVFP4 of ModelOpt"),
    "NVFP4 of compressed-tensors": (
        put(Q.replace("weight", "weight_global_scale"), torch.ones(1)),
        "NVFP4 of compressed-tensors",
    ),
    "packed integers": (
        put(Q.replace("weight", "weight_packed"), torch.ones(32, 4, dtype=torch.int32)),
        "integers packed by compressed-tensors",
    ),
    "AWQ of ModelOpt": (
        put(Q.replace("weight", "pre_quant_scale"), torch.ones(32)),
        "AWQ of ModelOpt",
    ),
    "bytes that are no numbers": (put(Q, torch.ones(32, 16, dtype=torch.uint8)), "stored as U8"),
    "integers without a scale": (
        lambda tensors: (drop(f"{Q}_scale")(tensors), put(Q, torch.ones(32, 32).char())(tensors)),
        f"{Q}: stored as I8, without a scale",
    ),
    "a router in 8 bits": (
        put("model.layers.1.mlp.gate.weight", FLOAT8[:16]),
        r"gate\.weight: stored as F8_E4M3, without a scale",
    ),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_what_cannot_be_turned_back_is_refused(fault, fp8):
    """It is named, before a weight is read, with why."""
    change, words = REFUSED[fault]
    edit_tensors(fp8, change)
    with pytest.raises(UnsupportedError, match=words) as error:
        prepare(RunOptions(checkpoint=fp8))
    assert str(error.value).startswith(f"{fp8}: ")
    assert "\n" not in str(error.value)


def test_a_scale_of_a_plain_weight_is_refused(fp8):
    """A scale whose weight is not quantised has no place; nobody knows what it is for."""
    edit_tensors(fp8, put(Q, torch.ones(32, 32)))
    with pytest.raises(
        FormatError, match=r"q_proj\.weight_scale has no place in the model"
    ) as error:
        prepare(RunOptions(checkpoint=fp8))
    assert error.value.hint is not None


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"quant_method": "awq"}, "quantization 'awq': expected one of fp8, mxfp8"),
        ({"quant_method": "nvfp4"}, "quantization 'nvfp4': expected one of"),
        ({"quant_method": None}, "quantization None: expected one of"),
        (
            {"quant_method": "compressed-tensors", "transform_config": {"a": 1}},
            "'compressed-tensors' with transform_config: weights are turned",
        ),
        (
            {"quant_method": "compressed-tensors", "sparsity_config": {"format": "sparse-24"}},
            "with sparsity 'sparse-24'",
        ),
        ({"quant_method": "quark", "algo_config": [{"name": "rotation"}]}, "'quark' with algo_con"),
    ],
)
def test_methods_that_tensors_do_not_show(config, words, fp8):
    """A config that says more than numbers and scales is refused."""
    edit_config(fp8, quantization_config=config)
    with pytest.raises(UnsupportedError, match=words):
        prepare(RunOptions(checkpoint=fp8))
