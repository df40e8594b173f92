"""Dumps that trainers save, read back: torch files, pickled batches, prime-rl's micro-batches.

What each holds is in docs/formats.md; every sequence becomes a WireSample with its rows at hand.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...dump import Dump, Sample
from ...errors import FormatError, MismatchError
from ...files.reading import open_regular, read_bytes
from ..documents.facts import Model, Physical, UnknownModelError, find_context, refuse_alone
from ..documents.fields import from_json, joined, token_ids
from ..experts.counts import ExpertCounts, LoadsOnlyError, counts_of_passes, counts_of_steps
from ..wire.guess import guess_facts
from ..wire.sample import NoRoutesError, WireSample, to_sample, weighed
from ..wire.shapes import rows_of_flat

__all__ = ["open_trainer_file", "read_tokens"]

_MAX_TOKEN_BYTES = 256 << 20


def open_trainer_file(
    path: Path,
    kind: str,
    model: Model,
    start: int | None,
    tokens: Dump | Sequence[Sample] | None = None,
) -> Dump:
    """Open a trainer's file; ``kind`` is torch, pickle, straw, msgpack, trace or counts.

    ``tokens`` are the samples whose rows a torch file of layers, or a trace, holds.

    The file is mapped or held whole; rows are checked when a sample is read. Raises FormatError
    on what is no dump of a known trainer, and on a pickle of anything but plain data.
    """
    if kind == "trace":
        from .router_traces import open_router_trace

        return open_router_trace(path, model, start, tokens)
    refuse_alone(path, model)
    if kind == "counts":
        return _open_recording(_json(path), path, model, start)
    held: int | None = None
    if kind == "torch":
        from ...pickled.torch_files import load_torch
        from .expert_recorder import is_recording
        from .torch_dumps import read_torch

        doc = load_torch(path)
        if is_recording(doc):
            return _open_recording(doc, path, model, start)
        wires = read_torch(path, tokens, doc)
    elif kind == "pickle":
        from .pickles import read_pickle

        wires = read_pickle(path)
    elif kind == "straw":
        from .straw_archives import read_archive

        wires, held = read_archive(path)
    else:
        from .micro_batches import read_micro_batches

        wires = read_micro_batches(path)
    return _dump_of(wires, path, kind, model, start, held)


def _json(path: Path) -> Any:
    """A JSON document. Raises FormatError for what is none."""
    try:
        return from_json(read_bytes(path), str(path))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: not JSON, or cut short: {error}") from None


def _open_recording(doc: Any, path: Path, model: Model, start: int | None) -> Dump:
    """A dump of SGLang's recorder, with logical ids: by the map that is given, else by its own."""
    from ..experts.mapped import mapped
    from ..experts.maps import ExpertMap
    from .expert_recorder import read_recording

    counts = _counts_in(doc, path, model)
    if counts is not None:
        raise LoadsOnlyError(counts)
    found = read_recording(doc, path)
    given = model if isinstance(model, Physical) else Physical(model, found.experts)
    assert isinstance(given.experts, ExpertMap)
    dump = _dump_of(found.wires, path, "torch", given, start)
    dump.meta = replace(dump.meta, engine="sglang")
    return mapped(dump, given.experts, lambda index, _: found.steps[index])


def _counts_in(doc: Any, path: Path, model: Model) -> ExpertCounts | None:
    """The counts of a recorder's file that has no ids; None of one that has."""
    from ..experts.maps import ExpertMap
    from .expert_recorder import has_ids, own_map

    if has_ids(doc):
        return None
    given = model.experts if isinstance(model, Physical) else None
    try:
        facts = find_context(path, model.model if isinstance(model, Physical) else model).facts
    except UnknownModelError:
        facts = None
    if "logical_count" not in doc:
        experts = given if isinstance(given, ExpertMap) else own_map(doc, path)
        return counts_of_passes(doc, path, facts, experts)
    if given is not None:
        raise MismatchError(f"{path}: counts of logical experts, which no map is for")
    return counts_of_steps(doc, path, facts)


def _dump_of(
    wires: list[WireSample],
    path: Path,
    kind: str,
    model: Model,
    start: int | None,
    held: int | None = None,
) -> Dump:
    """The samples as a dump; ``held`` are the bytes of what they are in, where that is no file."""
    nothing = f"{path}: no routes in any sample, of {len(wires)}"
    with_routes = any(wire.has_routes for wire in wires)
    try:
        context = find_context(path, model, guess=lambda: guess_facts(wires))
    except UnknownModelError:
        if with_routes:
            raise
        raise NoRoutesError(nothing) from None
    dtype, engine = joined({_dtype(wire) for wire in wires}), joined({w.engine for w in wires})
    meta = context.meta(path, kind, wire_dtype=dtype, engine=engine)
    weighted = any(wire.weights is not None for wire in wires)
    meta = replace(meta, gates=weighted, trainer=joined({wire.trainer for wire in wires}))
    if held is not None:
        meta = replace(meta, file_bytes=held)
    keys = [wire.key for wire in wires]

    def load(index: int) -> Sample:
        wire = wires[index]
        if isinstance(wire.payload, np.ndarray):
            wire = replace(wire, payload=rows_of_flat(wire.payload, context.facts))
        return weighed(to_sample(wire, context.facts, start), wire, context.facts)

    dump = Dump(meta, keys, load)
    if not with_routes:
        raise NoRoutesError(nothing, dump=dump)
    return dump


def _dtype(wire: WireSample) -> str | None:
    return None if wire.payload is None else str(wire.payload.dtype)


def read_tokens(path: Path) -> Sequence[Sample] | None:
    """The samples of a file that holds tokens and no routes; None of any other, a dump may be.

    A JSON list of token ids is one prompt (miles' run_megatron has it so, its token_ids_file);
    slime's train data has its samples.
    """
    with open_regular(path) as stream:
        head = stream.read(64)
    if head.lstrip()[:1] == b"[" and path.stat().st_size <= _MAX_TOKEN_BYTES:
        prompt = _prompt(path)
        if prompt is not None:
            return (prompt,)
    if head.startswith(b"PK") and b"/data.pkl" in head:
        from ...pickled.torch_files import load_torch
        from .train_data import is_train_data, train_data_of

        doc = load_torch(path)
        if is_train_data(doc):
            return train_data_of(doc, path).samples
    return None


def _prompt(path: Path) -> Sample | None:
    """A JSON list of token ids as one sequence; None for any other JSON."""
    try:
        doc = from_json(read_bytes(path, _MAX_TOKEN_BYTES), str(path))
    except (ValueError, RecursionError):
        return None
    if not isinstance(doc, list) or not all(type(item) is int for item in doc):
        return None
    ids = token_ids(doc, str(path), "tokens")
    if ids is None or not len(ids):
        raise FormatError(f"{path}: an empty list, expected token ids")
    return Sample(
        routes=None,
        sample_id=path.stem,
        prompt_ids=ids,
        response_ids=ids[:0],
        prompt_length=len(ids),
        response_length=0,
    )
