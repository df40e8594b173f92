"""ART's routing replay bundles, read back: a folder with manifest.json and safetensors by step.

Sources: OpenPipe ART 17aa12b6 and 0.5.18 (art/megatron/routing_replay.py), which write
moe_routing_replay_v3 and v1. Shape suffixes: N tokens, L MoE layers, K top_k.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ...dump import Dump, DumpMeta, Sample, SampleKey
from ...errors import FormatError, UnsupportedError
from ...files.names import is_own_name
from ...files.reading import read_bytes
from ...model import ModelFacts
from ..arrays.files import ArrayFile, open_array_file
from ..documents.fields import from_json, one_line
from ..documents.masks import flags_in
from ..wire.sample import WireSample, to_sample, weighed

__all__ = ["BUNDLE_VERSION", "find_bundle", "open_bundle"]

BUNDLE_VERSION = "moe_routing_replay_v3"
_VERSIONS = (BUNDLE_VERSION, "moe_routing_replay_v1")
_ROUTER = re.compile(r"chunk_\d{2}\.layer_(\d{4})\.mlp\.router")
_MAX_BYTES = 256 << 20
Doc = Mapping[str, Any]


class _RouterCall(msgspec.Struct):
    """A call of a router; one of a dummy micro-batch has no sample."""

    num_experts: int
    sample_index: int | None = None


class _Step(msgspec.Struct):
    """A step: its file, and for each router its calls by their numbers."""

    file: str
    routers: dict[str, dict[str, _RouterCall]]


class _Manifest(msgspec.Struct):
    """What is read of manifest.json; steps are by their numbers."""

    router_keys: list[str]
    max_topk: int
    steps: dict[str, _Step]


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
                known = " and ".join(_VERSIONS)
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
    experts = {call.num_experts for call in calls}
    if len(layers) != len(keys) or layers != sorted(set(layers)) or len(experts) != 1:
        raise FormatError(f"{folder}: the manifest's routers are not one a layer, of one E")
    return ModelFacts(max(layers) + 1, tuple(layers), experts.pop(), manifest.max_topk, None)


def open_bundle(folder: Path, doc: Doc) -> Dump:
    """A bundle as a dump: a sample a step and sample index, with a row for every token.

    Rows of which ``expert_mask`` leaves a slot out are missing; ``expert_probs``, the weights that
    ART replays with the routes, are gates. There are no token ids. Raises FormatError when manifest
    and tensors do not fit together.
    """
    try:
        manifest = msgspec.convert(doc, _Manifest, strict=False)
        keys = sorted(manifest.router_keys, key=lambda key: key.split(".")[1:])
        facts = _facts(manifest, keys, folder)
        calls = list(_calls(manifest.steps, keys, folder))
        names = {step: about.file for step, about in manifest.steps.items()}
        if not all(is_own_name(name) for name in names.values()):
            raise FormatError(f"{folder}: the manifest names files outside of the bundle")
        files = {s: open_array_file(folder / n, "safetensors") for s, n in names.items()}
    except (KeyError, ValueError, IndexError):
        raise FormatError(f"{folder}: damaged: the manifest is not whole") from None
    ids = [f"{call.step}/{call.index}" for call in calls]
    meta = DumpMeta(
        str(folder),
        "art",
        facts.layers,
        facts.num_experts,
        facts.top_k,
        wire_dtype="int32",
        facts_source="the file itself",
        file_bytes=sum(file.stat().st_size for file in folder.iterdir() if file.is_file()),
        gates=any(
            name.endswith("/expert_probs") for file in files.values() for name in file.shapes
        ),
    )

    def load(place: int) -> Sample:
        call = calls[place]
        where = f"{folder}: sample {ids[place]}"
        rows = _rows(files[call.step], keys, call, where)
        weights = _weights(files[call.step], keys, call, where) if meta.gates else None
        if weights is not None and weights.shape != rows.shape:
            raise FormatError(f"{where}: expert_probs {weights.shape} for routes {rows.shape}")
        wire = WireSample(
            where, rows, start=0, sample_id=ids[place], any_rows=True, weights=weights
        )
        return weighed(to_sample(wire, facts, 0), wire, facts)

    return Dump(meta, [SampleKey(name, None, None) for name in ids], load)


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
