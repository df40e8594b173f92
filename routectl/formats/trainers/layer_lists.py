"""Routes as a trainer's routers recorded them: a list of layers, with no tokens beside.

megatron-core's ``RouterReplay.set_replay_data`` takes a tensor [tokens, K] for each MoE layer;
miles' ``rank0_routing_replay.pt`` has a list of them, one a micro-batch, for each MoE layer (miles
31f1ca96, utils/debug_utils/run_megatron/worker/replay.py; for a time it was
``{"version": 1, "replays": ...}``). Rows are in the order of tokens, one for every token, the
last too. Shape suffixes: N tokens, R rows, W layers, K top_k.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...dump import Dump, Sample
from ...errors import FormatError, MismatchError
from ...pickled.torch_files import MappedTensor
from ..wire.sample import WireSample
from .fields import numbers_in, wire_of

__all__ = ["cut_rows", "find_layers", "read_layers", "sequence_of"]

_Layers = list[list[Any]]  # by layer, by micro-batch


def find_layers(doc: Any) -> tuple[_Layers, bool] | None:
    """Tensors by layer and micro-batch, and whether micro-batches were told; None for others."""
    if isinstance(doc, Mapping) and isinstance(doc.get("replays"), list):
        doc = doc["replays"]
    if not isinstance(doc, list) or not doc:
        return None
    if _are_tensors(doc):
        return [[layer] for layer in doc], False
    if all(isinstance(layer, list) and layer and _are_tensors(layer) for layer in doc):
        return doc, True
    return None


def _are_tensors(values: list[Any]) -> bool:
    return all(isinstance(value, MappedTensor) for value in values)


def read_layers(
    found: tuple[_Layers, bool], path: Path, tokens: Dump | Sequence[Sample] | None
) -> list[WireSample]:
    """The sequences of a list of layers.

    ``tokens`` are the samples that were run, in order; then each is a sequence, and every
    micro-batch has to be made up of whole ones. Without them a micro-batch is one sequence.
    Raises FormatError when layers are not of one shape, MismatchError when tokens do not fit.
    """
    layers, told = found
    batches = list(_micro_batches(layers, path))
    if tokens is not None:
        return list(_cut(batches, tokens, path))
    names = [f"{path.stem}/{m}" for m in range(len(batches))] if told else [path.stem]
    return [
        WireSample(
            where=f"{path}: micro-batch {m}" if told else str(path),
            payload=ids_RWK,
            start=0,
            sample_id=name,
        )
        for m, (ids_RWK, name) in enumerate(zip(batches, names, strict=True))
    ]


def _micro_batches(layers: _Layers, path: Path) -> Iterator[NDArray[Any]]:
    """[R, W, K] of each micro-batch."""
    counts = sorted({len(layer) for layer in layers})
    if len(counts) > 1:
        raise FormatError(f"{path}: got layers of {counts} micro-batches, expected one count")
    for m in range(counts[0]):
        arrays = [numbers_in(layer[m], f"{path}: layer {w}") for w, layer in enumerate(layers)]
        shapes = sorted({array.shape for array in arrays})
        if len(shapes) > 1 or arrays[0].ndim != 2:
            raise FormatError(f"{path}: got layers of shapes {shapes}, expected one [tokens, K]")
        yield np.stack(arrays, axis=1)


def _cut(
    batches: Sequence[NDArray[Any]], samples: Dump | Sequence[Sample], path: Path
) -> Iterator[WireSample]:
    """Each sample's rows, out of micro-batches that hold whole samples in order."""
    for i, (m, rows, sample) in enumerate(cut_rows([len(b) for b in batches], samples, path)):
        yield sequence_of(f"{path}: sample {i}", batches[m][rows], i, sample)


def sequence_of(where: str, ids_RWK: NDArray[Any] | None, i: int, sample: Sample) -> WireSample:
    """Sample ``i`` of those that were run, with its rows.

    Log-probs are not taken along: those of a rollout are not the router's forward's.
    """
    assert sample.token_ids is not None
    return wire_of(
        where,
        ids_RWK,
        sample.token_ids,
        sample.prompt_length or 0,
        sample_id=sample.sample_id or str(i),
        group_id=sample.group_id,
        loss_mask=sample.loss_mask,
    )


def cut_rows(
    lengths: Sequence[int], samples: Dump | Sequence[Sample], path: Path
) -> Iterator[tuple[int, slice, Sample]]:
    """Where the rows of each sample are: the micro-batch, of ``lengths`` rows each, and its part.

    Raises MismatchError where micro-batches are not made up of whole samples in order.
    """
    todo = iter(enumerate(samples))
    used = 0
    for m, length in enumerate(lengths):
        at = 0
        while at < length:
            i, sample = next(todo, (-1, None))
            ids = None if sample is None else sample.token_ids
            if sample is None or ids is None or not len(ids):
                what = "no more samples" if sample is None else f"sample {i} without tokens"
                raise MismatchError(
                    f"{path}: micro-batch {m}: {length - at} rows are left, but {what}"
                )
            if at + len(ids) > length:
                raise MismatchError(
                    f"{path}: micro-batch {m}: {length - at} of {length} rows are "
                    f"left, sample {i} has {len(ids)} tokens"
                )
            yield m, slice(at, at + len(ids)), sample
            at += len(ids)
            used += 1
    if used < len(samples):
        raise MismatchError(f"{path}: has rows of {used} samples, the tokens are of {len(samples)}")
