"""Quantised copies of tiny checkpoints, and the plain checkpoint that each stands for.

Nothing of routectl is used here, so that it can be an oracle: every way multiplies stored numbers
with scales spelt out to the weight's own shape.
"""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

__all__ = ["WAYS", "edit_config", "edit_tensors", "quantized"]

FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic"}
STATIC = {"quant_method": "fp8", "activation_scheme": "static", "weight_block_size": None}
E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


def edit_config(folder, **changes):
    """Change a folder's config.json; None takes a name out."""
    path = Path(folder) / "config.json"
    document = {**json.loads(path.read_text("utf-8")), **changes}
    path.write_text(json.dumps({k: v for k, v in document.items() if v is not None}), "utf-8")


def edit_tensors(folder, change):
    """Rewrite a folder's one file of weights; ``change`` is given the tensors by name."""
    path = Path(folder) / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    change(tensors)
    save_file(tensors, path, {"format": "pt"})


def blocks(shape, edges):
    """The shape of a grid of blocks."""
    return [-(-size // edge) for size, edge in zip(shape, edges, strict=True)]


def spread(grid, shape, edges):
    """A grid of factors, each repeated over its block."""
    for axis, (size, edge) in enumerate(zip(shape, edges, strict=True)):
        grid = grid.repeat_interleave(edge, axis).narrow(axis, 0, size)
    return grid


def peaks(weight, edges):
    """The largest magnitude of each block."""
    grid = torch.zeros(blocks(weight.shape, edges))
    for place in torch.cartesian_prod(*(torch.arange(n) for n in grid.shape)).reshape(-1, 2):
        rows, columns = (slice(int(p) * e, (int(p) + 1) * e) for p, e in zip(place, edges))  # noqa: B905
        grid[tuple(place)] = weight[rows, columns].abs().max()
    return grid.clamp(min=1e-8)


def by_blocks(weight, edges, most=448.0, dtype=torch.float8_e4m3fn):
    """Numbers, factors [a block each], and the weight that they stand for."""
    grid = peaks(weight, edges) / most
    factors = spread(grid, weight.shape, edges)
    numbers = (weight / factors).clamp(-most, most)
    numbers = (numbers.round() if dtype == torch.int8 else numbers).to(dtype)
    return numbers, grid, numbers.float() * factors


def exponents(grid):
    """Bytes e with 2^(e - 127) no less than each factor."""
    return (grid.log2().ceil() + 127).to(torch.uint8)


def per_tensor(name, weight):
    """One scale, a number without axes, and the activations' beside it."""
    numbers, grid, plain = by_blocks(weight, weight.shape)
    own = {name: numbers, f"{name}_scale": grid.reshape(())}
    return {**own, f"{name.removesuffix('weight')}input_scale": torch.tensor(0.5)}, plain


def per_tensor_1(name, weight):
    """One scale of shape [1], in bfloat16."""
    numbers, grid, _ = by_blocks(weight, weight.shape)
    scale = grid.reshape(1).bfloat16()
    return {name: numbers, f"{name}_scale": scale}, numbers.float() * scale.float()


def per_channel(name, weight):
    """A scale a row, [R, 1]."""
    numbers, grid, plain = by_blocks(weight, (1, weight.shape[1]))
    return {name: numbers, f"{name}_scale": grid}, plain


def per_channel_1(name, weight):
    """A scale a row, [R], of E5M2 numbers."""
    edges, form = (1, weight.shape[1]), torch.float8_e5m2
    numbers, grid, plain = by_blocks(weight, edges, 57344.0, form)
    return {name: numbers, f"{name}_scale": grid[:, 0].clone()}, plain


def blocks_8(name, weight):
    """DeepSeek's: a scale for each block of 8 rows and 8 columns."""
    numbers, grid, plain = by_blocks(weight, (8, 8))
    return {name: numbers, f"{name}_scale_inv": grid}, plain


def blocks_14(name, weight):
    """Blocks that do not divide the rows, 14 x 10: the config alone says how large they are."""
    numbers, grid, plain = by_blocks(weight, (14, 10))
    return {name: numbers, f"{name}_scale_inv": grid}, plain


def groups_8(name, weight):
    """compressed-tensors' groups: a scale for 8 columns of a row."""
    numbers, grid, plain = by_blocks(weight, (1, 8))
    return {name: numbers, f"{name}_scale": grid}, plain


def int8(name, weight):
    """Integers with a scale a row."""
    numbers, grid, plain = by_blocks(weight, (1, weight.shape[1]), 127.0, torch.int8)
    return {name: numbers, f"{name}_scale": grid}, plain


def mxfp8(name, weight):
    """Exponents as bytes, one for 8 columns of a row."""
    bytes_ = exponents(peaks(weight, (1, 8)) / 448)
    factors = spread((bytes_.float() - 127).exp2(), weight.shape, (1, 8))
    numbers = (weight / factors).to(torch.float8_e4m3fn)
    return {name: numbers, f"{name}_scale_inv": bytes_}, numbers.float() * factors


def fp4(name, weight):
    """DeepSeek-V4's experts: two E2M1 numbers a byte, lower half first, exponents in ``.scale``."""
    if weight.shape[1] % 8:
        return {name: weight}, weight
    bytes_ = exponents(peaks(weight, (1, 8)) / 6)
    factors = spread((bytes_.float() - 127).exp2(), weight.shape, (1, 8))
    codes = ((weight / factors)[..., None] - E2M1).abs().argmin(-1)
    packed = (codes[:, 0::2] | codes[:, 1::2] << 4).to(torch.uint8).view(torch.int8)
    scale = bytes_.view(torch.float8_e8m0fnu)
    stored = {name: packed, f"{name.removesuffix('.weight')}.scale": scale}
    return stored, E2M1[codes] * factors


def compressed(form, **weights):
    """What compressed-tensors says in config.json."""
    group = {"targets": ["Linear"], "weights": {"symmetric": True, **weights}}
    return {"quant_method": "compressed-tensors", "format": form, "config_groups": {"g": group}}


WAYS = {  # of a name and a weight: what is stored, what it stands for; and what the config says
    "per tensor, static": (per_tensor, STATIC),
    "per tensor, no config": (per_tensor, None),
    "per tensor, ModelOpt": (per_tensor_1, {"quant_method": "modelopt", "quant_algo": "FP8"}),
    "per channel, FBGEMM": (per_channel, {"quant_method": "fbgemm_fp8"}),
    "per channel, compressed-tensors": (
        per_channel,
        compressed("float-quantized", num_bits=8, type="float", strategy="channel"),
    ),
    "per channel, no config": (per_channel_1, None),
    "blocks": (blocks_8, {**FP8, "weight_block_size": [8, 8]}),
    "blocks, no config": (blocks_8, None),
    "blocks that do not divide": (blocks_14, {**FP8, "weight_block_size": [14, 10]}),
    "groups, compressed-tensors": (
        groups_8,
        compressed("float-quantized", num_bits=8, type="float", strategy="group", group_size=8),
    ),
    "int8, compressed-tensors": (
        int8,
        compressed("int-quantized", num_bits=8, type="int", strategy="channel"),
    ),
    "mxfp8": (mxfp8, {"quant_method": "mxfp8", "scale_fmt": "ue8m0", "weight_block_size": [1, 8]}),
    "packed FP4": (fp4, {**FP8, "weight_block_size": [128, 128]}),
}


def quantized(folder, way, into):
    """Quantise every projection of a folder; ``into`` becomes the plain one that it stands for.

    Returns how many scales were stored.
    """
    shutil.copytree(folder, into)
    make, config = WAYS[way]
    whole = load_file(Path(folder) / "model.safetensors")
    stored, plain = {}, {}
    for name, tensor in whole.items():
        if name.endswith("_proj.weight") and tensor.ndim == 2:
            made, plain[name] = make(name, tensor.float())
            stored |= made
        else:
            stored[name] = plain[name] = tensor
    save_file({n: t.contiguous() for n, t in stored.items()}, folder / "model.safetensors")
    save_file({n: t.contiguous() for n, t in plain.items()}, into / "model.safetensors")
    edit_config(folder, quantization_config=config)
    return sum(name not in whole for name in stored)
