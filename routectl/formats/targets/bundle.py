"""ART's routing replay bundle: a folder with manifest.json and one step's safetensors.

Source: OpenPipe ART 17aa12b6 and 0.5.23 (src/art/megatron/routing_replay.py), which read
moe_routing_replay_v3 and v4.
Shape suffixes: N tokens, L MoE layers, K top_k.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...files.reading import read_bytes
from .arrays import stream_safetensors
from .rows import Feed

__all__ = ["MANIFEST", "foreign_bundle", "write_bundle"]

_VERSIONS = {"art": "moe_routing_replay_v3", "art-v4": "moe_routing_replay_v4"}
_STEP = "step_000000.safetensors"
MANIFEST = "manifest.json"


def foreign_bundle(folder: Path) -> str | None:
    """Why a folder is not a bundle of one step, and nothing else in it; None when it is."""
    if not folder.is_dir():
        return "is not a folder"
    manifest = folder / MANIFEST
    if manifest.is_file() and not any(
        v.encode() in read_bytes(manifest) for v in _VERSIONS.values()
    ):
        return f"its {MANIFEST} is not of {' or '.join(_VERSIONS.values())}"
    others = {entry.name for entry in folder.iterdir()} - {MANIFEST, _STEP}
    return f"holds {min(others)}, which is no part of a bundle" if others else None


def write_bundle(feed: Feed, folder: Path) -> int:
    """Write a bundle of one step: call i of every router is sample i. Returns how many.

    Token uids are positions, 0 up to the longest sample; the topology is that of one rank.
    """
    meta, version = feed.shape.meta, _VERSIONS[feed.shape.target.name]
    keys = [f"chunk_00.layer_{layer:04d}.mlp.router" for layer in meta.layers_L]
    calls: dict[str, Any] = {}

    def arrays() -> Iterator[tuple[str, NDArray[Any]]]:
        longest = 0
        for placed in feed:
            ids_NLK = placed.ids_RWK
            assert ids_NLK is not None
            call = str(len(calls))
            calls[call] = {"num_experts": meta.num_experts, "sample_index": placed.index}
            longest = max(longest, len(ids_NLK))
            for i, key in enumerate(keys):
                yield f"{key}/call_{call}/expert_indices", np.ascontiguousarray(ids_NLK[:, i])
        yield "global_token_uids", np.arange(longest)

    with (folder / _STEP).open("wb") as stream:
        stream_safetensors(arrays(), lambda: {"origin": version}, stream)
    sizes = ("tp", "ep", "etp", "dp", "cp", "pp", "vpp")
    manifest = {
        "format_version": version,
        **({"storage": "calls"} if version.endswith("v4") else {}),
        "topology": {**dict.fromkeys(sizes, 1), "sp": False},
        "num_steps": 1,
        "max_topk": meta.top_k,
        "router_keys": keys,
        "steps": {"0": {"file": _STEP, "routers": dict.fromkeys(keys, calls)}},
    }
    text = json.dumps(manifest, indent=2, sort_keys=True)
    (folder / MANIFEST).write_text(text + "\n", "utf-8")
    return len(calls)
