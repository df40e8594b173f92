"""Files of torch.save that hold routes: samples of slime and miles, grids, verl's jagged batch.

Which is which is told by their keys. Shape suffixes: B samples, S positions, N tokens, R rows,
W layers, K top_k.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from ...dump import Dump, Sample
from ...errors import FormatError, MismatchError
from ...pickled.records import Record
from ...pickled.torch_files import MappedTensor, load_torch
from ...visible import quoted
from ..documents.fields import as_float64
from ..documents.forms import unlike
from ..wire.sample import NoSamplesError, WireSample
from .fields import fields_of, numbers_in, packed_rows, tokens_in, whole_mask, wire_of
from .grids import read_grid
from .layer_lists import find_layers, read_layers
from .rollout_samples import read_rollout
from .train_data import is_train_data, train_data_of
from .xtuner_states import is_states, read_states

__all__ = ["read_torch"]

_GRIDS = ("routed_experts", "rollout_expert_indices")
_JAGGED = ("routed_experts", "input_ids", "prompts", "rollout_log_probs", "loss_mask")


def _unbound(value: Any) -> list[MappedTensor]:
    """The rows of a tensor, or the tensors of a nested one. Raises FormatError for any other.

    Source: torch 2.13 (nested/_internal: NestedTensor.__reduce_ex__, ops.unbind_int).
    """
    if isinstance(value, MappedTensor):
        return value.rows()
    about = value.args[0] if isinstance(value, Record) and value.args else None
    if not isinstance(about, dict) or not isinstance(about.get("values"), MappedTensor):
        raise FormatError(f"{type(value).__name__}, expected a tensor")
    values, axis = about["values"], about.get("_ragged_idx", 1)
    if type(axis) is not int:
        raise FormatError(f"a nested tensor along {quoted(axis, 20)}")
    starts = tokens_in(about.get("offsets"), "offsets").tolist()
    if about.get("lengths") is not None:
        lens = tokens_in(about["lengths"], "lengths").tolist()
    else:
        lens = [end - start for start, end in pairwise(starts)]
        if starts[:1] != [0] or values.shape[axis - 1 : axis] != (starts[-1],):
            raise FormatError(f"offsets to {starts[-1:]} of a tensor {values.shape}")
    return [values.narrow(axis - 1, *part) for part in zip(starts, lens, strict=False)]


def _of_jagged(doc: Mapping[str, Any], path: Path) -> list[WireSample]:
    """The trajectories of verl's tq_batch.pt. Source: verl 0.9.1 (utils/skip/rollout_skip.py)."""
    batch, keys = fields_of(doc["tensordict"]) or {}, doc.get("keys")
    try:
        columns = {name: _unbound(batch[name]) for name in _JAGGED if name in batch}
        if len({len(column) for column in columns.values()}) > 1:
            raise FormatError("got columns of several lengths, expected one a sample")
        ids, tokens, prompts = (columns.pop(n) for n in _JAGGED[:3])
    except KeyError:
        raise FormatError(f"{path}: no tq_batch with routes: {unlike(batch, 'jagged')}") from None
    except FormatError as error:
        raise FormatError(f"{path}: no tq_batch with routed_experts: {error}") from None
    wires = []
    for i, one in enumerate(tokens):
        where, prompt, total = f"{path}: sample {i}", len(prompts[i]), len(one)
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
                logprobs=None if scores is None else as_float64(numbers_in(scores[i], where)),
                loss_mask=None if flags is None else whole_mask(flags[i], prompt, total, where),
            )
        )
    return wires


def read_torch(
    path: Path, tokens: Dump | Sequence[Sample] | None = None, doc: Any = None
) -> list[WireSample]:
    """The sequences of a torch file; ``tokens`` are those of a file that holds layers alone.

    ``doc`` is what it holds, where it is read already.

    Raises NoSamplesError when it is no known dump of routes, MismatchError when tokens do not fit
    its rows or it has its own.
    """
    doc = load_torch(path) if doc is None else doc
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
    if is_states(doc):
        return read_states(doc, path)
    if isinstance(doc, Mapping) and isinstance(doc.get("samples"), list):
        return read_rollout(doc["samples"], path, "miles" if "metadata" in doc else "slime")
    if isinstance(doc, Mapping) and "tensordict" in doc:
        return _of_jagged(doc, path)
    for key in _GRIDS if isinstance(doc, Mapping) else ():
        held = doc.get(key)
        if isinstance(held, MappedTensor) and len(held.shape) == 4:
            return list(read_grid(doc, key, path))
        if isinstance(held, Mapping) and {"values", "cu_seqlens"} <= held.keys():
            rows = packed_rows(held["values"], held["cu_seqlens"], f"{path}: {key}")
            return list(read_grid({**doc, key: rows}, key, path))
    if not isinstance(doc, Mapping):
        raise NoSamplesError(
            f"{path}: a torch file without routes: got a {type(doc).__name__}, expected samples, a "
            "batch with routed_experts, or a list of a tensor [tokens, K] for each layer"
        )
    raise NoSamplesError(f"{path}: a torch file without routes: {unlike(doc, 'torch')}")
