"""Dumps that trainers save, read back: torch files, pickled batches, prime-rl's micro-batches.

What each holds is in docs/formats.md; every sequence becomes a WireSample with its rows at hand.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ...dump import Dump, DumpMeta, Sample
from ...model import ModelFacts
from ..documents.facts import find_context
from ..documents.fields import joined
from ..wire.sample import NoRoutesError, WireSample, to_sample

__all__ = ["open_trainer_file"]


def open_trainer_file(
    path: Path,
    kind: str,
    model: ModelFacts | str | Path | None,
    start: int | None,
    tokens: Dump | Sequence[Sample] | None = None,
) -> Dump:
    """Open a trainer's file; ``kind`` is torch, pickle or msgpack.

    ``tokens`` are the samples whose rows a torch file of layers holds, for their tokens.

    The file is mapped or held whole; rows are checked when a sample is read. Raises FormatError
    on what is no dump of a known trainer, and on a pickle of anything but plain data.
    """
    if kind == "torch":
        from .torch_dumps import read_torch

        wires = read_torch(path, tokens)
    elif kind == "pickle":
        from .pickles import read_pickle

        wires = read_pickle(path)
    else:
        from .micro_batches import read_micro_batches

        wires = read_micro_batches(path)
    if not any(wire.has_routes for wire in wires):
        raise NoRoutesError(f"{path}: no routes in any of its {len(wires)} samples")
    context = find_context(path, model)
    meta = DumpMeta(
        path=str(path),
        format=kind,
        layers_L=context.facts.layers,
        num_experts=context.facts.num_experts,
        top_k=context.facts.top_k,
        model=context.facts.model_type,
        wire_dtype=joined({_dtype(wire) for wire in wires}),
        facts_source=context.source,
        file_bytes=path.stat().st_size,
        num_layers=context.facts.num_layers,
    )
    keys = [wire.key for wire in wires]
    top_k = context.facts.top_k
    return Dump(meta, keys, lambda i: to_sample(_unfolded(wires[i], top_k), context.facts, start))


def _unfolded(wire: WireSample, top_k: int) -> WireSample:
    """Relax has each row's layers end to end, [T, W x K]: such a payload as [T, W, K]."""
    ids = wire.payload
    if not isinstance(ids, np.ndarray) or ids.ndim != 2 or ids.shape[1] % top_k:
        return wire
    return replace(wire, payload=ids.reshape(len(ids), -1, top_k))


def _dtype(wire: WireSample) -> str | None:
    return None if wire.payload is None else str(wire.payload.dtype)
