"""FastDeploy's routing store: an array a request, or one a layer, pickled by paddle.save.

Source: FastDeploy 14471be0 (layers/moe/routing_indices_cache.py RoutingStoreLocal.put,
StoreProcess.pad_routing_indices, RoutingReplayManager.get_routing_dtype): ``<rollout
id>/<rollout id>.pdtensor`` [L, S, K], or ``<rollout id>/layer_<n>.pdtensor`` [S, K] of the n-th MoE
layer; uint8, uint16 or uint32, the narrowest that leaves its greatest value free. That value is -1
wrapped: a row that was not captured, and all rows up to the model's longest sequence. Shape
suffixes: L MoE layers, S places, T rows, K top_k.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import FormatError
from ...pickled.names import BATCHES
from ...pickled.reading import load_pickle_file
from ...pickled.records import StoredArray
from ..wire.sample import WireSample

__all__ = ["SUFFIX", "is_layer_store", "read_store"]

SUFFIX = ".pdtensor"
_LAYER = re.compile(r"layer_(\d{1,4})\.pdtensor")


def is_layer_store(files: Sequence[Path]) -> bool:
    """Whether a folder holds the layers of one request, a file each, and nothing else."""
    return bool(files) and all(_LAYER.fullmatch(file.name) for file in files)


def read_store(path: Path) -> list[WireSample]:
    """The one request of a file of all layers, or of a folder with a file a layer.

    Raises FormatError on what is no such array, and where a layer's file is not there.
    """
    ids_LSK = _of_layers(path) if path.is_dir() else _array(path, 3)
    greatest = np.iinfo(ids_LSK.dtype).max
    ids_TLK = ids_LSK.transpose(1, 0, 2).astype(np.int64)
    ids_TLK[ids_TLK == greatest] = -1
    captured = np.flatnonzero((ids_TLK != -1).any(axis=(1, 2)))
    rows = int(captured[-1]) + 1 if len(captured) else 0
    wire = WireSample(
        where=str(path),
        payload=ids_TLK[:rows],
        start=0,
        sample_id=path.name.removesuffix(SUFFIX),
        any_rows=True,
        engine="fastdeploy",
    )
    return [wire]


def _of_layers(folder: Path) -> NDArray[Any]:
    """The files of all layers as one array [L, S, K]."""
    found = {int(file.stem.removeprefix("layer_")): file for file in folder.iterdir()}
    if sorted(found) != list(range(len(found))):
        raise FormatError(f"{folder}: layers {sorted(found)}, expected all from 0 on")
    arrays = [_array(found[n], 2) for n in range(len(found))]
    kinds = {(array.shape, array.dtype.str) for array in arrays}
    if len(kinds) > 1:
        raise FormatError(f"{folder}: layers of {len(kinds)} shapes or dtypes, expected one")
    return np.stack(arrays)


def _array(path: Path, axes: int) -> NDArray[Any]:
    value = load_pickle_file(path, BATCHES)
    if not isinstance(value, StoredArray):
        raise FormatError(f"{path}: a pickle of {type(value).__name__}, expected an array")
    try:
        array = value.array
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from None
    if array.ndim != axes or array.dtype.kind != "u" or 0 in array.shape:
        form = "[layers, rows, top_k]" if axes == 3 else "[rows, top_k]"
        raise FormatError(
            f"{path}: got {array.dtype} {array.shape}, expected FastDeploy's unsigned {form}"
        )
    return array.astype(array.dtype.newbyteorder("="), copy=False)
