"""Which stored weights are quantised, and the scales that turn them back, by names and headers.

Sources: transformers 5.23 ``integrations/finegrained_fp8`` (Fp8Dequantize) for blocks, per-tensor
scales, MXFP8 and DeepSeek-V4's packed FP4; compressed-tensors 0.13 ``quantization/lifecycle`` for
``weight_scale`` by tensor, channel, group and block; vLLM 0.32 ``fp8``, ``modelopt``,
``fbgemm_fp8`` and ``quark`` for the same names elsewhere. In all of them a weight is the stored
number times its scale, ``weight_scale_inv`` too.
"""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import NamedTuple

from .checkpoint import Checkpoint
from .infos import TensorInfo
from .left_out import left_out

__all__ = [
    "StoredScale",
    "WeightScales",
    "quantization_of",
    "refusal",
    "refused_method",
    "weight_scales",
]

# methods whose weights are a number times a scale, as far as their tensors show it; of other
# methods config.json alone says how they are undone
METHODS = (
    "fp8", "mxfp8", "fbgemm_fp8", "compressed-tensors", "modelopt", "quark", "mxfp4",
)  # fmt: skip
_SCALES = {  # how names of scales end, and their weights' names in place of that
    "_scale_inv": "",
    "_scale": "",
    ".scale": ".weight",  # DeepSeek-V4
    ".qscale_weight": ".weight",  # Mistral Large 4
}
_SCALE_ENDS = tuple(_SCALES)
_Edges = tuple[tuple[int, int], ...]
_FLOAT8 = ("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")
_QUANTIZED = frozenset((*_FLOAT8, "I8", "U8", "F4", "F6_E2M3", "F6_E3M2"))
_FACTORS = ("F64", "F32", "BF16", "F16", "F8_E8M0", "U8")
# the last part of a name that only a format has which is not undone here
FORMATS = {
    "weight_packed": "integers packed by compressed-tensors",
    "weight_scale_2": "NVFP4 of ModelOpt",
    "weight_global_scale": "NVFP4 of compressed-tensors",
    "weight_zero_point": "zero points",
    "weight_g_idx": "reordered groups",
    "pre_quant_scale": "AWQ of ModelOpt",
    "qweight": "GPTQ or AWQ",
    "qzeros": "GPTQ or AWQ",
    "absmax": "bitsandbytes",
    "quant_map": "bitsandbytes",
    "SCB": "bitsandbytes",
    "bitmask": "2:4 sparsity of compressed-tensors",
}
_FORMAT_ENDS = tuple(FORMATS)


class StoredScale(NamedTuple):
    """What a stored weight is multiplied with.

    scale   its tensor; of dtype U8 and F8_E8M0 exponents, 2 to the power of (byte - 127)
    edges   for each axis of the weight how many neighbours share a factor; 1: each has its own
    packed  two FP4 numbers (E2M1) a byte, the lower half first: the last axis is twice as long
    """

    scale: TensorInfo
    edges: tuple[int, ...]
    packed: bool = False


@dataclass(frozen=True, slots=True)
class WeightScales:
    """The quantised weights of a checkpoint.

    of       by the weight's name
    scales   the names of all scales that belong to a quantised weight
    refused  by the name of a tensor, why it cannot be turned back
    """

    of: Mapping[str, StoredScale]
    scales: frozenset[str]
    refused: Mapping[str, str]


def quantization_of(config: Mapping[str, object]) -> Mapping[str, object] | None:
    """What a config.json says of quantisation, in the language model's part too; None: nothing."""
    for document in (config, config.get("text_config"), config.get("llm_config")):
        for name in ("quantization_config", "compression_config"):
            found = document.get(name) if isinstance(document, Mapping) else None
            if isinstance(found, Mapping):
                return found
    return None


def refused_method(quantization: Mapping[str, object]) -> str | None:
    """Why weights of this quantisation are not turned back, whatever their tensors are; or None."""
    method = quantization.get("quant_method")
    if method not in METHODS:
        return f"quantization {method!r}: expected one of {', '.join(METHODS)}"
    for name in ("transform_config", "algo_config"):  # compressed-tensors, quark
        if quantization.get(name):
            return (
                f"quantization {method!r} with {name}: weights are turned, and are not turned back"
            )
    sparsity = quantization.get("sparsity_config")
    form = sparsity.get("format") if isinstance(sparsity, Mapping) else None
    if form not in (None, "dense"):
        return f"quantization {method!r} with sparsity {form!r}"
    return None


def weight_scales(checkpoint: Checkpoint) -> WeightScales:
    """The scale of every quantised weight; nothing is read but headers.

    mxfp4 of gpt-oss (``_blocks`` and ``_scales``) has no entry, as transformers undoes it; it is
    refused where one of the two is not there.
    """
    quantization = quantization_of(checkpoint.config or {}) or {}
    own_edges = tuple(_configured(quantization))
    mxfp4 = quantization.get("quant_method") == "mxfp4"
    found: dict[str, StoredScale] = {}
    refused = _foreign(checkpoint)
    tensors = checkpoint.tensors
    by_weight = _scales_by_weight(tensors)
    for name, info in tensors.items():
        if mxfp4 and name.endswith(("_blocks", "_scales")):
            stem, _, part = name.rpartition("_")
            other = f"{stem}_{'scales' if part == 'blocks' else 'blocks'}"
            if other not in tensors:
                refused[name] = f"mxfp4, without {other}"
            continue
        if info.dtype not in _QUANTIZED:
            continue
        scales = by_weight.get(name, ())
        if len(scales) > 1:
            refused[name] = f"two scales: {' and '.join(scales)}"
            continue
        if not scales:
            refused[name] = f"stored as {info.dtype}, without a scale"
            continue
        entry = _stored(info, tensors[scales[0]], own_edges)
        if isinstance(entry, str):
            refused[name] = entry
        else:
            found[name] = entry
    names = frozenset(chain.from_iterable(by_weight.values()))
    alone = {n: why for n, why in refused.items() if n not in names}
    return WeightScales(found, names, alone)


def refusal(checkpoint: Checkpoint, num_layers: int | None) -> str | None:
    """Why a forward of these weights is refused, as far as headers tell, or None.

    Whether every tensor has a place in the model is known when the model is built.
    """
    if checkpoint.format != "hf":
        return None
    quantization = quantization_of(checkpoint.config or {})
    if quantization is not None and (why := refused_method(quantization)) is not None:
        return why
    refused = weight_scales(checkpoint).refused
    aside = left_out(checkpoint, refused, sys.maxsize if num_layers is None else num_layers)
    names = [name for name in refused if aside[name] is None]
    if names:
        more = f" ({len(names) - 1:,} more are refused)" if len(names) > 1 else ""
        return f"{names[0]}: {refused[names[0]]}{more}"
    if checkpoint.unindexed:
        return f"{min(checkpoint.unindexed)} is in a shard, but the index does not list it"
    return None


def _scales_by_weight(tensors: Mapping[str, TensorInfo]) -> dict[str, list[str]]:
    """The names of the scales of each quantised weight that has any."""
    found: dict[str, list[str]] = {}
    for name in tensors:
        if not name.endswith(_SCALE_ENDS):
            continue
        for ending, own in _SCALES.items():
            if name.endswith(ending):
                weight = name[: -len(ending)] + own
                if weight in tensors and tensors[weight].dtype in _QUANTIZED:
                    found.setdefault(weight, []).append(name)
                break
    return found


def _foreign(checkpoint: Checkpoint) -> dict[str, str]:
    """Tensors of formats that are not undone."""
    found = {}
    for name in checkpoint.tensors:
        if name.endswith(_FORMAT_ENDS):
            form = FORMATS.get(name.rpartition(".")[2])
            if form is None:
                continue
            found[name] = f"{form}: weights of this format are not turned back"
    return found


def _stored(weight: TensorInfo, scale: TensorInfo, own_edges: _Edges) -> StoredScale | str:
    """A weight's scale, or why there is none that fits."""
    packed, edges = _fit(weight.dtype, weight.shape, scale.dtype, scale.shape, own_edges)
    if edges is not None:
        return StoredScale(scale, edges, packed)
    told = f"stored as {weight.dtype} {list(weight.shape)}"
    return f"{told}, with {scale.name} as {scale.dtype} {list(scale.shape)}: nothing that fits"


@lru_cache(4096)  # of many thousand weights, few have dtypes and shapes of their own
def _fit(
    dtype: str, shape: tuple[int, ...], factors: str, grid: tuple[int, ...], own_edges: _Edges
) -> tuple[bool, tuple[int, ...] | None]:
    """Whether numbers are packed, and how many share a factor; None where the two do not fit."""
    packed = dtype == "I8" and factors == "F8_E8M0"
    plain = dtype in _FLOAT8 or packed or (dtype == "I8" and factors != "U8")
    if not plain or factors not in _FACTORS:
        return packed, None
    if packed and shape:
        shape = (*shape[:-1], 2 * shape[-1])
    return packed, _edges(shape, grid, own_edges)


def _edges(
    shape: tuple[int, ...], grid: tuple[int, ...], own_edges: _Edges
) -> tuple[int, ...] | None:
    """How many neighbours share a factor, by axis: all of one tensor, a channel's, or a block's."""
    if all(size == 1 for size in grid):
        return tuple(max(1, length) for length in shape)
    if len(grid) < len(shape) and grid == shape[: len(grid)]:  # [E] or [R] of [E, R, C]
        grid = (*grid, *(1 for _ in shape[len(grid) :]))
    if len(grid) != len(shape):
        return None
    for configured in own_edges:
        found = _by_blocks(shape, grid, (*(0 for _ in shape[2:]), *configured)[-len(shape) :])
        if found is not None:
            return found
    return _by_blocks(shape, grid, tuple(0 for _ in shape))


def _by_blocks(
    shape: tuple[int, ...], grid: tuple[int, ...], sizes: tuple[int, ...]
) -> tuple[int, ...] | None:
    """By axis: one factor for all, each its own, or blocks of a size.

    Size 0 is the power of two that gives so many blocks; there is never more than one.
    """
    edges = []
    for length, blocks, size in zip(shape, grid, sizes, strict=True):
        if blocks in (1, length):
            edges.append(length if blocks == 1 else 1)
            continue
        if blocks < 1 or blocks > length:
            return None
        edge = size or 1 << (-(-length // blocks) - 1).bit_length()
        if -(-length // edge) != blocks:
            return None
        edges.append(edge)
    return tuple(edges)


def _configured(quantization: Mapping[str, object]) -> Iterator[tuple[int, int]]:
    """The blocks [rows, columns] that a config names."""
    groups = quantization.get("config_groups")
    entries = [quantization]
    if isinstance(groups, Mapping):
        weights = [g.get("weights") for g in groups.values() if isinstance(g, Mapping)]
        entries += [entry for entry in weights if isinstance(entry, Mapping)]
    for entry in entries:
        for name in ("weight_block_size", "block_structure"):
            block = entry.get(name)
            if isinstance(block, list | tuple) and len(block) == 2:
                rows, columns = block
                if type(rows) is int and type(columns) is int and rows > 0 and columns > 0:
                    yield rows, columns
        size = entry.get("group_size")
        if type(size) is int and size > 0:
            yield 1, size
