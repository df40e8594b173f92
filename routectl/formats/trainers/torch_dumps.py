"""Files of torch.save that hold routes: samples of slime and miles, grids, verl's jagged batch.

Which is which is told by their keys. Shape suffixes: B samples, S positions, N tokens, R rows,
W layers, K top_k.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ...dump import Dump, Sample
from ...errors import FormatError, MismatchError
from ..documents.fields import one_line
from ..wire.sample import NoSamplesError, WireSample
from .fields import numbers_in, tokens_in, whole_mask, wire_of
from .grids import read_grid
from .layer_lists import find_layers, read_layers
from .rollout_samples import read_rollout
from .torch_files import load_torch
from .train_data import is_train_data, train_data_of

__all__ = ["read_torch"]

_GRIDS = ("routed_experts", "rollout_expert_indices")


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
                where,
                numbers_in(ids[i], where),
                tokens_in(one, where),
                prompt,
                sample_id=name,
                group_id=name.partition("_")[0],
                logprobs=None if scores is None else numbers_in(scores[i], where).astype("f8"),
                loss_mask=None if flags is None else whole_mask(flags[i], prompt, len(one), where),
            )
        )
    return wires


def read_torch(path: Path, tokens: Dump | Sequence[Sample] | None = None) -> list[WireSample]:
    """The sequences of a torch file; ``tokens`` are those of a file that holds layers alone.

    Raises NoSamplesError when it is no known dump of routes, MismatchError when tokens do not fit
    its rows or it has its own.
    """
    doc = load_torch(path)
    layers = find_layers(doc)
    if layers is not None:
        return read_layers(layers, path, tokens)
    if tokens is not None:
        raise MismatchError(f"{path}: no list of layers: its samples have their own tokens")
    if is_train_data(doc):
        raise NoSamplesError(
            f"{path}: {train_data_of(doc, path)}; no routes",
            hint="diff --logprobs compares its log-probs, pack --plan takes its micro-batches",
        )
    if isinstance(doc, Mapping) and isinstance(doc.get("samples"), list):
        return read_rollout(doc["samples"], path)
    if isinstance(doc, Mapping) and "tensordict" in doc:
        return _of_jagged(doc, path)
    for key in _GRIDS if isinstance(doc, Mapping) else ():
        if isinstance(doc.get(key), torch.Tensor) and doc[key].ndim == 4:
            return list(read_grid(doc, key, path))
    raise NoSamplesError(
        f"{path}: a torch file without routes: expected samples, a batch with routed_experts, "
        "or a list of layers"
    )
