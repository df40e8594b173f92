"""Dumps that trainers save, read back: torch files and prime-rl's micro-batches.

What each holds is in docs/formats.md; every sequence becomes a WireSample with its rows at hand.
"""

from pathlib import Path

from ..dump import Dump, DumpMeta
from ..model import ModelFacts
from .facts import find_context
from .fields import joined
from .wire import NoSamplesError, WireSample, to_sample

__all__ = ["open_trainer_file"]


def open_trainer_file(
    path: Path, kind: str, model: ModelFacts | str | Path | None, start: int | None
) -> Dump:
    """Open a trainer's file; ``kind`` is torch or msgpack.

    The file is mapped or held whole; rows are checked when a sample is read. Raises FormatError
    on what is no dump of a known trainer, and on a pickle of anything but plain data.
    """
    if kind == "torch":
        from .trainer_torch import read_torch

        wires = read_torch(path)
    else:
        from .trainer_msgpack import read_micro_batches

        wires = read_micro_batches(path)
    if not any(wire.has_routes for wire in wires):
        raise NoSamplesError(f"{path}: no routes in any of its {len(wires)} samples")
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
    return Dump(meta, keys, lambda index: to_sample(wires[index], context.facts, start))


def _dtype(wire: WireSample) -> str | None:
    return None if wire.payload is None else str(wire.payload.dtype)
