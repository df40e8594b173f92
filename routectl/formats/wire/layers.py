"""From an engine's array to Routes: the layer axis, fillers and id range, settled at the door.

Shape suffixes: T rows, W layers as written, L MoE layers, K top_k.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ...damage import DamagedSampleError, Fault
from ...dump import Sample
from ...kernels.rows import scan_rows
from ...model import ModelFacts
from ...routes import Routes, ids_dtype
from .payload import IntArray
from .shapes import ids_hint, is_constant, model_hint

__all__ = ["with_rows"]


def _dense_fault(ids_TWK: IntArray, facts: ModelFacts) -> Fault | None:
    """A dense layer's column that holds more than one constant."""
    width = ids_TWK.shape[1]
    if width == len(facts.layers):
        return None
    for layer in sorted(set(range(width)) - set(facts.layers)):
        column = ids_TWK[:, layer]
        if not is_constant(column):
            return Fault(
                "dense",
                f"layer {layer} is dense in the model, but its column holds "
                f"{np.unique(column[(column != -1).any(axis=1)]).size} different ids, expected "
                "one constant",
            )
    return None


def with_rows(
    sample: Sample,
    ids_TWK: IntArray,
    facts: ModelFacts,
    start: int,
    where: str,
    faults: Sequence[Fault] = (),
) -> Sample:
    """``sample`` with the routes of an integer array [T, W, K], checked against the model.

    W is num_layers or the number of MoE layers, K is top_k: ``shapes.as_rows`` sees to that.
    Filler rows (see ``kernels.scan_rows``) become missing rows. No copy is made when the array
    already is what Routes holds. Raises DamagedSampleError, with sample, row and layer, for the
    ``faults`` that were found before, for ids out of range and for routes in a dense layer.
    """
    ids_TWK = ids_TWK.astype(ids_TWK.dtype.newbyteorder("="), copy=False)  # all that numba reads
    if faults:
        raise DamagedSampleError(where, faults, sample, ids_TWK, start, _hint(faults))
    dense = _dense_fault(ids_TWK, facts)
    if dense is not None:
        raise DamagedSampleError(where, [dense], sample, ids_TWK, start, model_hint(facts))
    moe = ids_TWK.shape[1] != len(facts.layers)
    ids = ids_TWK[:, list(facts.layers)] if moe else ids_TWK
    missing, token, layer = scan_rows(ids, facts.num_experts)
    if token >= 0:
        row = ids[token, layer]
        bad = int(row[(row < 0) | (row >= facts.num_experts)][0])
        fault = Fault(
            "ids",
            f"row {token} (position {start + token}), layer {facts.layers[layer]}: "
            f"got id {bad}, expected 0..{facts.num_experts - 1}",
        )
        raise DamagedSampleError(where, [fault], sample, ids_TWK, start, ids_hint(facts, bad))
    dtype = ids_dtype(facts.num_experts)
    if missing is not None:
        ids = np.where(missing[:, :, None], 0, ids)
    checked = np.ascontiguousarray(ids, dtype)
    return replace(sample, routes=Routes(checked, facts.layers, facts.num_experts, start, missing))


def _hint(faults: Sequence[Fault]) -> str:
    """What to do about the first fault that reading cannot pass over."""
    return {
        "axes": "transpose the array to [rows, layers, top_k] before it is written",
        "layers": "drop the columns that are no layer of the model",
        "slots": "drop the shared experts' slots: they are in every row",
        "bytes": "the payload was cut: fetch it again",
        "rows": "routectl check says which rows are there",
    }[faults[0].kind]
