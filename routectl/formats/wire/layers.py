"""From an engine's array to Routes: the layer axis, fillers and id range, settled at the door.

Shape suffixes: T rows, W layers as written, L MoE layers, K top_k.
"""

import numpy as np

from ...errors import FormatError
from ...kernels.rows import scan_rows
from ...model import ModelFacts
from ...routes import Routes, ids_dtype
from .payload import IntArray

__all__ = ["check_rows", "routes_from_wire"]

_MODEL_HINT = "is --model the config.json of the model that ran?"


def _moe_columns(ids_TWK: IntArray, facts: ModelFacts, where: str) -> IntArray:
    """The MoE layers' columns; a dense layer's column is dropped once it is seen to be constant."""
    width = ids_TWK.shape[1]
    if width == len(facts.layers):
        return ids_TWK
    if width != facts.num_layers:
        raise FormatError(
            f"{where}: got {width} layers, expected {facts.num_layers} (all layers) or "
            f"{len(facts.layers)} (MoE layers)",
            hint=_MODEL_HINT,
        )
    for layer in sorted(set(range(width)) - set(facts.layers)):
        column = ids_TWK[:, layer]
        column = column[(column != -1).any(axis=1)]  # -1 of a row that is missing in all layers
        if column.size and (column != column.flat[0]).any():
            raise FormatError(
                f"{where}: layer {layer} is dense in the model, but its column holds "
                f"{np.unique(column).size} different ids, expected one constant",
                hint=_MODEL_HINT,
            )
    return ids_TWK[:, list(facts.layers)]


def check_rows(ids_TWK: IntArray, where: str) -> None:
    """Raise FormatError when an array is not integers of three axes."""
    if ids_TWK.ndim != 3 or ids_TWK.dtype.kind not in "iu":
        raise FormatError(
            f"{where}: got {ids_TWK.dtype} {ids_TWK.shape}, expected integers [rows, layers, top_k]"
        )


def routes_from_wire(ids_TWK: IntArray, facts: ModelFacts, start: int, where: str) -> Routes:
    """Check an integer array [T, W, K] against the model and make it Routes.

    W is num_layers or the number of MoE layers. Filler rows (see ``kernels.scan_rows``) become
    missing rows. No copy is made when the array already is what Routes holds. Raises FormatError
    with sample, row and layer when the shape or an id does not fit.
    """
    check_rows(ids_TWK, where)
    ids_TWK = ids_TWK.astype(ids_TWK.dtype.newbyteorder("="), copy=False)  # all that numba reads
    if ids_TWK.shape[0] == 0:
        ids_TWK = np.zeros((0, len(facts.layers), facts.top_k), np.uint8)
    if ids_TWK.shape[2] != facts.top_k:
        raise FormatError(
            f"{where}: got rows of {ids_TWK.shape[2]} ids, expected top_k = {facts.top_k}",
            hint=_MODEL_HINT,
        )
    ids = _moe_columns(ids_TWK, facts, where)
    missing, token, layer = scan_rows(ids, facts.num_experts)
    if token >= 0:
        row = ids[token, layer]
        bad = int(row[(row < 0) | (row >= facts.num_experts)][0])
        raise FormatError(
            f"{where}: row {token} (position {start + token}), layer {facts.layers[layer]}: "
            f"got id {bad}, expected 0..{facts.num_experts - 1}",
            hint=_MODEL_HINT,
        )
    dtype = ids_dtype(facts.num_experts)
    if missing is not None:
        ids = np.where(missing[:, :, None], 0, ids)
    checked = np.ascontiguousarray(ids, dtype)
    return Routes(checked, facts.layers, facts.num_experts, start, missing)
