"""ART's routing replay bundles, read back: a folder with manifest.json and safetensors by step.

Sources: OpenPipe ART 17aa12b6, 0.5.18 and 0.5.23 (art/megatron/routing_replay.py), which write
moe_routing_replay_v3, v1 and v4. Version 4 has calls of routers as the others, or one tensor of
packed rows. Shape suffixes: S packed rows, N tokens, L MoE layers, K top_k.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ...dump import Dump, DumpMeta, Sample, SampleKey
from ...errors import FormatError, UnsupportedError
from ...files.names import is_own_name
from ...files.reading import read_bytes
from ...model import ModelFacts
from ..arrays.files import ArrayFile, open_array_file
from ..documents.fields import from_json, one_line
from ..documents.masks import flags_in
from ..wire.sample import WireSample, to_sample, weighed

__all__ = ["find_bundle", "open_bundle"]

_VERSIONS = ("moe_routing_replay_v4", "moe_routing_replay_v3", "moe_routing_replay_v1")
_ROUTER = re.compile(r"chunk_\d{2}\.layer_(\d{4})\.mlp\.router")
_MAX_BYTES = 256 << 20
_LAYER_STEP = 97_003
_SURE = 20  # nats: rows of an engine are not like its filler by chance
Doc = Mapping[str, Any]
_Opened = tuple[list[str], Callable[[int], WireSample], dict[str, Any]]


class _RouterCall(msgspec.Struct):
    """A call of a router; one of a dummy micro-batch has no sample."""

    num_experts: int
    sample_index: int | None = None


class _Step(msgspec.Struct):
    """A step: its file, and for each router its calls by their numbers."""

    file: str
    routers: dict[str, dict[str, _RouterCall]]


class _Manifest(msgspec.Struct):
    """What is read of manifest.json; steps are by their numbers, a packed one has ``file``."""

    router_keys: list[str]
    max_topk: int
    steps: dict[str, _Step] = {}
    storage: str = "calls"
    file: str = ""
    num_experts: int = 0
    global_grad_accumulation_sequences: int = 0


def find_bundle(files: Sequence[Path]) -> Doc | None:
    """The manifest among the files of a folder; None when they are no bundle.

    Raises UnsupportedError when it is one of another version.
    """
    for file in files:
        if file.name != "manifest.json" or file.stat().st_size > _MAX_BYTES:
            continue
        try:
            doc = from_json(read_bytes(file, _MAX_BYTES), str(file))
        except (ValueError, RecursionError):
            return None
        version = doc.get("format_version") if isinstance(doc, dict) else None
        if isinstance(version, str) and version.startswith("moe_routing_replay_"):
            if version not in _VERSIONS:
                known = ", ".join(_VERSIONS)
                raise UnsupportedError(f"{file}: {one_line(version)}, this routectl reads {known}")
            return dict(doc)
    return None


@dataclass(frozen=True, slots=True)
class _Call:
    """One sample of a step: for each layer, in order, the call of its router."""

    step: str
    index: int
    calls: tuple[str, ...]


def _calls(steps: Mapping[str, _Step], keys: Sequence[str], folder: Path) -> Iterator[_Call]:
    """The samples of all steps; calls of dummy micro-batches, which have no sample, are none."""
    for step, about in sorted(steps.items(), key=lambda item: int(item[0])):
        by_sample: dict[int, dict[str, str]] = {}
        for key in keys:
            for call, entry in about.routers[key].items():
                if entry.sample_index is None:
                    continue
                found = by_sample.setdefault(entry.sample_index, {})
                if found.setdefault(key, call) != call:
                    raise UnsupportedError(
                        f"{folder}: step {step}: {key} has two calls of sample {entry.sample_index}"
                    )
        for index, found in sorted(by_sample.items()):
            yield _Call(step, index, tuple(found[key] for key in keys))


def _facts(manifest: _Manifest, keys: Sequence[str], folder: Path) -> ModelFacts:
    """Layers, E and K, all of which a manifest has."""
    layers = [int(match[1]) for key in keys if (match := _ROUTER.fullmatch(key))]
    calls = [c for s in manifest.steps.values() for k in keys for c in s.routers[k].values()]
    experts = {call.num_experts for call in calls} or {manifest.num_experts}
    if len(layers) != len(keys) or layers != sorted(set(layers)) or len(experts) != 1:
        raise FormatError(f"{folder}: the manifest's routers are not one a layer, of one E")
    return ModelFacts(max(layers) + 1, tuple(layers), experts.pop(), manifest.max_topk, None)


def open_bundle(folder: Path, doc: Doc) -> Dump:
    """A bundle as a dump: a sample a step and sample index, with a row for every token.

    Rows of which ``expert_mask`` leaves a slot out are missing; ``expert_probs``, the weights that
    ART replays with the routes, are gates. Of a packed bundle (version 4, ``layer_major``) a
    sample is a packed row up to its padding, and rows with ART's filler before are missing. There
    are no token ids. Raises FormatError when manifest and tensors do not fit together.
    """
    try:
        manifest = msgspec.convert(doc, _Manifest, strict=False)
        keys = sorted(manifest.router_keys, key=lambda key: key.split(".")[1:])
        facts = _facts(manifest, keys, folder)
        opened = _STORAGES.get(manifest.storage)
        if opened is None:
            known = " and ".join(_STORAGES)
            raise UnsupportedError(
                f"{folder}: storage {one_line(manifest.storage)}, this routectl reads {known}"
            )
        ids, wire_of, told = opened(folder, manifest, facts, keys)
    except (KeyError, ValueError, IndexError):
        raise FormatError(f"{folder}: damaged: the manifest is not whole") from None
    meta = DumpMeta(
        str(folder),
        "art",
        facts.layers,
        facts.num_experts,
        facts.top_k,
        facts_source="the file itself",
        file_bytes=sum(file.stat().st_size for file in folder.iterdir() if file.is_file()),
        **told,
    )

    def load(place: int) -> Sample:
        wire = wire_of(place)
        return weighed(to_sample(wire, facts, 0), wire, facts)

    return Dump(meta, [SampleKey(name, None, None) for name in ids], load)


def _own_file(folder: Path, name: str) -> ArrayFile:
    if not is_own_name(name):
        raise FormatError(f"{folder}: the manifest names files outside of the bundle")
    return open_array_file(folder / name, "safetensors")


def _of_calls(folder: Path, manifest: _Manifest, facts: ModelFacts, keys: Sequence[str]) -> _Opened:
    """A sample a step and sample index: what its calls of the routers have."""
    calls = list(_calls(manifest.steps, keys, folder))
    files = {step: _own_file(folder, about.file) for step, about in manifest.steps.items()}
    ids = [f"{call.step}/{call.index}" for call in calls]
    weighted = any(
        name.endswith("/expert_probs") for file in files.values() for name in file.shapes
    )

    def wire_of(place: int) -> WireSample:
        call, where = calls[place], f"{folder}: sample {ids[place]}"
        rows = _rows(files[call.step], keys, call, where)
        weights = _weights(files[call.step], keys, call, where) if weighted else None
        if weights is not None and weights.shape != rows.shape:
            raise FormatError(f"{where}: expert_probs {weights.shape} for routes {rows.shape}")
        return WireSample(
            where, rows, start=0, sample_id=ids[place], any_rows=True, weights=weights
        )

    return ids, wire_of, {"wire_dtype": "int32", "gates": weighted}


def _packed(folder: Path, manifest: _Manifest, facts: ModelFacts, keys: Sequence[str]) -> _Opened:
    """A sample a packed row of the one tensor, [L, S, N, K]: several trajectories, end to end."""
    file, together = _own_file(folder, manifest.file), manifest.global_grad_accumulation_sequences
    ids_LSNK = file.read("expert_indices")
    wanted = len(keys), facts.top_k
    if ids_LSNK.ndim != 4 or (ids_LSNK.shape[0], ids_LSNK.shape[3]) != wanted:
        raise FormatError(
            f"{folder}: expert_indices {ids_LSNK.shape}, expected [{len(keys)} layers, packed "
            f"rows, tokens, {facts.top_k}]"
        )
    if ids_LSNK.dtype.kind not in "iu" or together < 1:
        raise FormatError(f"{folder}: damaged: the manifest is not whole")
    ids = [f"{row // together}/{row}" for row in range(ids_LSNK.shape[1])]

    def wire_of(place: int) -> WireSample:
        rows_NLK = ids_LSNK[:, place].astype(np.int64).transpose(1, 0, 2)
        filler_N = _filler(rows_NLK, facts.num_experts)
        rows_NLK[filler_N] = -1
        real = np.flatnonzero(~filler_N)
        rows_NLK = rows_NLK[: real[-1] + 1 if len(real) else None]  # what is behind is padding
        where = f"{folder}: sample {ids[place]}"
        return WireSample(where, rows_NLK, start=0, sample_id=ids[place], any_rows=True)

    return ids, wire_of, {"wire_dtype": ids_LSNK.dtype.name}


def _filler(rows_NLK: NDArray[np.int64], experts: int) -> NDArray[np.bool_]:
    """Which rows no engine made, bool [N]: ids in sequence, one step from each layer to the next.

    ART 0.5.23, preprocessing/moe_routing.py: deterministic_moe_routes, of any position.
    """
    _, layers, k = rows_NLK.shape
    if (layers * k - 1) * np.log(experts) < _SURE:
        return np.zeros(len(rows_NLK), np.bool_)
    place_LK = _LAYER_STEP * np.arange(layers)[:, None] + np.arange(k)
    told_NLK = (rows_NLK[:, :1, :1] + place_LK) % experts == rows_NLK
    return np.asarray(told_NLK.all(axis=(1, 2)), np.bool_)


_STORAGES: Mapping[str, Callable[..., _Opened]] = {"calls": _of_calls, "layer_major": _packed}


def _rows(file: ArrayFile, keys: Sequence[str], call: _Call, where: str) -> Any:
    """[N, L, K] of one sample, -1 in rows that are masked."""
    layers = []
    for key, number in zip(keys, call.calls, strict=True):
        name = f"{key}/call_{number}"
        if f"{name}/expert_indices" not in file.shapes:
            raise FormatError(f"{where}: no tensor {name}/expert_indices")
        ids_NK = file.read(f"{name}/expert_indices").astype(np.int64)
        if f"{name}/expert_mask" in file.shapes:
            mask_NK = file.read(f"{name}/expert_mask")
            if mask_NK.shape != ids_NK.shape:
                raise FormatError(f"{where}: {name}: expert_mask {mask_NK.shape}")
            ids_NK[~flags_in(mask_NK, f"{where}: {name}", "expert_mask").all(axis=1)] = -1
        layers.append(ids_NK)
    if len({ids_NK.shape for ids_NK in layers}) != 1 or layers[0].ndim != 2:
        raise FormatError(f"{where}: the routers have not one shape [tokens, k]")
    return np.stack(layers, axis=1)


def _weights(file: ArrayFile, keys: Sequence[str], call: _Call, where: str) -> Any:
    """[N, L, K] of one sample, 0 where a slot is masked; None where a router has none."""
    names = [
        f"{key}/call_{number}/expert_probs" for key, number in zip(keys, call.calls, strict=True)
    ]
    if not all(name in file.shapes for name in names):
        return None
    layers = [file.read(name) for name in names]
    if len({probs_NK.shape for probs_NK in layers}) != 1 or layers[0].ndim != 2:
        raise FormatError(f"{where}: expert_probs have not one shape [tokens, k]")
    if any(probs_NK.dtype.kind != "f" for probs_NK in layers):
        raise FormatError(f"{where}: expert_probs: got {layers[0].dtype}, expected float32")
    return np.stack(layers, axis=1).astype(np.float32)
