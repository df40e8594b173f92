"""The routers of a router trace as a checkpoint: ``router_state_rank<r>.pt``, weights alone.

A dict {(block, MTP's number or None, layer): {weight, expert_bias, score_function, topk}}, tensors
float32. It does not say all of how routers select (groups, a softmax before the selection), so a
config.json in the folder does, or ``--model``. Source: megatron-core 0.19.2
(transformer/moe/router_trace.py, RouterTracer._record and flush).
"""

import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError
from ..files.reading import open_mappable, open_regular
from ..pickled.archives import Archive, open_archive
from ..pickled.records import StoredTensor
from .checkpoint import Checkpoint
from .hf import read_config
from .infos import TensorInfo
from .legacy import stored_info
from .router_trace import trace_files

__all__ = ["TracedRouter", "open_traced", "traced_routers"]

_SCORES = ("softmax", "sigmoid", "sqrtsoftplus")


@dataclass(frozen=True, slots=True)
class TracedRouter:
    """A layer's router: its weight [E, D], expert bias [E] or None, and score function."""

    weight: TensorInfo
    expert_bias: TensorInfo | None
    score: str

    def arrays(self) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Weight and expert bias, float32. Raises FormatError where they are not what was saved."""
        return _array(self.weight), None if self.expert_bias is None else _array(self.expert_bias)


def _array(info: TensorInfo) -> NDArray[np.float32]:
    """A stored float32 tensor, held against its CRC."""
    if info.dtype != "F32" or len(info.pieces) != 1:
        raise FormatError(f"{info.files}: {info.name}: {info.dtype}, expected float32 in C order")
    piece = info.pieces[0]
    with (
        open_mappable(piece.file) as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as pages,
    ):
        assert piece.member is not None
        piece.member.check_mapped(pages, str(piece.file))
        data = pages[piece.offset : piece.offset + piece.num_bytes]
    return np.frombuffer(data, "<f4").astype(np.float32).reshape(info.shape)


def _states(path: Path) -> list[Path]:
    """The router states beside the traces of a folder, or of one trace."""
    sides = [one.with_name(f"router_state_{one.stem[13:]}.pt") for one in trace_files(path)]
    return [side for side in sides if side.is_file()]


def _entries(archive: Archive, file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The decoder's layers, 0-based, and what is held of each."""
    for key, held in archive.value.items():
        whole = isinstance(key, tuple) and len(key) == 3 and isinstance(held, dict)
        if not whole or type(key[2]) is not int or not isinstance(held.get("weight"), StoredTensor):
            raise FormatError(f"{file}: an entry that is no router's")
        if key[0] == "decoder":
            yield key[2], held


def traced_routers(path: Path) -> dict[int, TracedRouter]:
    """The routers of a trace by 0-based layer, ascending; empty where it has no state.

    Raises FormatError when the file is damaged or another one.
    """
    found: dict[int, TracedRouter] = {}
    for file in _states(path):
        with open_regular(file) as stream:
            archive = open_archive(stream, str(file))
        if not isinstance(archive.value, dict):
            raise FormatError(f"{file}: got {type(archive.value).__name__}, expected routers")
        for layer, held in _entries(archive, file):
            name = f"decoder.layers.{layer}.mlp.router"
            bias, score = held.get("expert_bias"), held.get("score_function")
            if score not in _SCORES:
                raise FormatError(f"{file}: layer {layer}: score function {str(score)[:40]!a}")
            weight = stored_info(archive, file, f"{name}.weight", held["weight"])
            if len(weight.shape) != 2:
                raise FormatError(f"{file}: {name}.weight: {list(weight.shape)}, expected [E, D]")
            more = None
            if isinstance(bias, StoredTensor):
                more = stored_info(archive, file, f"{name}.expert_bias", bias)
            found.setdefault(layer, TracedRouter(weight, more, str(score)))
    return dict(sorted(found.items()))


def open_traced(folder: Path) -> Checkpoint | None:
    """The routers of a trace as a checkpoint; None where the folder has none."""
    files = _states(folder)
    if not files:
        return None
    tensors = {}
    for router in traced_routers(folder).values():
        for info in filter(None, (router.weight, router.expert_bias)):
            tensors[info.name] = info
    config = read_config(folder) if (folder / "config.json").is_file() else None
    return Checkpoint("router_trace", folder, tensors, tuple(files), config)
