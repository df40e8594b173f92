"""Files of torch.save that hold routes: samples of slime and miles, grids, verl's jagged batch.

Loaded with ``weights_only=True``, mapped, and nothing but tensors and plain data let in: numpy
arrays by name, a TensorDict where tensordict is installed. Shape suffixes: B samples, S positions,
N tokens, R rows, W layers, K top_k.
"""

import importlib.util
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch

from ..dump import WeightSpan
from ..errors import FormatError
from .fields import one_line, text
from .limits import check_inflation
from .trainer_fields import numbers_in, tokens_in, whole_mask, wire_of
from .trainer_grids import read_grid
from .wire import NoSamplesError, WireSample

__all__ = ["read_torch"]

_GRIDS = ("routed_experts", "rollout_expert_indices")
_STATUS = {"completed": "stop", "truncated": "length", "aborted": "abort"}
_NUMPY: tuple[Any, ...] = (
    np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
    np.ndarray,
    np.dtype,
    *(type(np.dtype(code)) for code in ("i1", "u1", "i2", "u2", "i4", "i8")),
)


def _load(path: Path) -> Any:
    """What the file holds. Raises FormatError on a bomb, on damage and on any other pickle."""
    try:
        with zipfile.ZipFile(path) as archive:
            inflated = sum(entry.file_size for entry in archive.infolist())
        check_inflation(inflated, path.stat().st_size, str(path))
        if importlib.util.find_spec("tensordict") is not None:
            import tensordict  # noqa: F401 - lets its class be loaded
        with torch.serialization.safe_globals(list(_NUMPY)):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FormatError:
        raise
    except (zipfile.BadZipFile, UnpicklingError, OSError, EOFError, RuntimeError, ValueError,
            KeyError, TypeError, AttributeError, IndexError) as error:  # fmt: skip
        raise FormatError(
            f"{path}: damaged, or no torch file of plain data: {one_line(error)}"
        ) from None


def _of_sample(doc: Any, where: str) -> WireSample:
    """A Sample.to_dict of slime or miles."""
    if not isinstance(doc, Mapping) or "tokens" not in doc:
        raise FormatError(f"{where}: got {type(doc).__name__}, expected a sample with tokens")
    tokens = tokens_in(doc["tokens"], f"{where}: tokens")
    length = doc.get("response_length")
    if type(length) is not int:
        raise FormatError(f"{where}: response_length: got {length!r:.40}, expected a count")
    prompt = len(tokens) - length
    about = doc.get("metadata")
    about = about if isinstance(about, Mapping) else {}
    logprobs, routes = doc.get("rollout_log_probs"), doc.get("rollout_routed_experts")
    cache = doc.get("prefix_cache_info")
    named, group = about.get("sample_id", doc.get("index")), about.get("group_id")
    return wire_of(
        where,
        None if routes is None else numbers_in(routes, where),
        tokens,
        prompt,
        sample_id=text(named),
        group_id=text(doc.get("group_index") if group is None else group),
        logprobs=None if logprobs is None else numbers_in(logprobs, where).astype(np.float64),
        loss_mask=whole_mask(doc.get("loss_mask"), prompt, len(tokens), where),
        weight_spans=_spans(about.get("weight_spans"), doc.get("weight_versions"), length),
        finish_reason=_STATUS.get(str(doc.get("status"))),
        cached_tokens=cache.get("cached_tokens") if isinstance(cache, Mapping) else None,
    )


def _spans(known: Any, versions: Any, length: int) -> tuple[WeightSpan, ...]:
    """The spans that routectl wrote; else one version for all, where all calls had the same."""
    if isinstance(known, list):
        return tuple(WeightSpan(str(v), int(start), int(end)) for v, start, end in known)
    same = isinstance(versions, list) and len({str(v) for v in versions}) == 1
    return (WeightSpan(str(versions[0]), 0, length),) if same else ()


def _of_jagged(doc: Mapping[str, Any], path: Path) -> list[WireSample]:
    """The trajectories of verl's tq_batch.pt. Source: verl 0.9.1 (utils/skip/rollout_skip.py)."""
    batch, keys = doc["tensordict"], doc.get("keys")
    names = ("input_ids", "prompts", "routed_experts", "rollout_log_probs", "loss_mask")
    try:
        there = set(batch.keys())
        columns = {name: batch[name].unbind() for name in names if name in there}
        ids, tokens, prompts = (columns.pop(n) for n in ("routed_experts", "input_ids", "prompts"))
    except (KeyError, RuntimeError, TypeError, AttributeError) as error:
        raise FormatError(f"{path}: no tq_batch with routed_experts: {one_line(error)}") from None
    wires = []
    for i, one in enumerate(tokens):
        where, prompt = f"{path}: sample {i}", len(prompts[i])
        scores, flags = (columns.get(n) for n in ("rollout_log_probs", "loss_mask"))
        name = str(keys[i]) if isinstance(keys, list) and i < len(keys) else str(i)
        wires.append(
            wire_of(
                where, numbers_in(ids[i], where), tokens_in(one, where), prompt, sample_id=name,
                group_id=name.partition("_")[0],
                logprobs=None if scores is None else numbers_in(scores[i], where).astype("f8"),
                loss_mask=None if flags is None else whole_mask(flags[i], prompt, len(one), where),
            )
        )  # fmt: skip
    return wires


def _of_layers(layers: Sequence[Any], path: Path) -> WireSample:
    """A list of [tokens, K], one a MoE layer, as one sequence: a file like that has no bounds."""
    arrays = [numbers_in(layer, f"{path}: layer {i}") for i, layer in enumerate(layers)]
    if len({array.shape for array in arrays}) > 1 or arrays[0].ndim != 2:
        shapes = sorted({array.shape for array in arrays})
        raise FormatError(f"{path}: got layers of shapes {shapes}, expected one [tokens, K]")
    return WireSample(
        where=str(path), payload=np.stack(arrays, axis=1), start=0, sample_id=path.stem
    )


def read_torch(path: Path) -> list[WireSample]:
    """The sequences of a torch file. Raises NoSamplesError when it is no known dump of routes."""
    doc = _load(path)
    if isinstance(doc, list) and doc and all(isinstance(x, torch.Tensor) for x in doc):
        return [_of_layers(doc, path)]
    if isinstance(doc, Mapping) and isinstance(doc.get("samples"), list):
        where = f"{path}: sample"
        return [_of_sample(sample, f"{where} {i}") for i, sample in enumerate(doc["samples"])]
    if isinstance(doc, Mapping) and "tensordict" in doc:
        return _of_jagged(doc, path)
    for key in _GRIDS if isinstance(doc, Mapping) else ():
        if isinstance(doc.get(key), torch.Tensor) and doc[key].ndim == 4:
            return list(read_grid(doc, key, path))
    raise NoSamplesError(
        f"{path}: a torch file without routes: expected samples, a batch with routed_experts, "
        "or a list of layers"
    )
