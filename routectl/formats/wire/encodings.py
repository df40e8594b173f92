"""A payload in, rows out: which encoding is it?

Shape suffixes: T rows, W layers as written, K top_k.
"""

import io
import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...damage import Fault
from ...errors import UnsupportedError
from ...model import ModelFacts
from .envelopes import from_object, from_pair, is_pair
from .fireworks import R3_BASE64, from_matrices, from_r3, is_matrices
from .payload import (
    NEMO_RL,
    NPY_BASE64,
    IntArray,
    from_base64,
    from_lists,
    from_nemo_rl,
    from_npy,
    npy_header,
    whole_rows,
)
from .shapes import TokenExtent, raw_rows

__all__ = ["Decoded", "decode_payload", "payload_engine"]

_STORE_KEY = re.compile(r"[0-9a-f]{32,64}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|ObjectRef\(.*")
_PICKLES = ("gAJ", "gAN", "gAS", "gAW")  # base64 of a pickle's first bytes, protocols 2 to 5


def payload_engine(payload: Any) -> str | None:
    """The engine whose form the payload has: base64 .npy is vLLM's, other base64 SGLang's."""
    if not isinstance(payload, str) or payload.startswith((NEMO_RL, R3_BASE64)):
        return None
    return "vllm" if payload.startswith(NPY_BASE64) else "sglang"


def _refuse_references(payload: str, where: str) -> None:
    """Raise UnsupportedError for what stands for routes elsewhere: store keys and pickled refs.

    No base64 of int32 ids is all lower-case hexadecimal: every id below 2^16 has two zero bytes,
    and those are A's. Source: LMDeploy #4090 (engine_instance.py, enable_transfer_obj_ref).
    """
    if _STORE_KEY.fullmatch(payload):
        raise UnsupportedError(
            f"{where}: routed_experts: got {payload[:40]!r}, a key of LMDeploy's Ray store, not "
            "routes: they were in the memory of that run",
            hint="record with enable_transfer_obj_ref off",
        )
    if payload.startswith(_PICKLES):
        raise UnsupportedError(
            f"{where}: routed_experts: a pickled reference of LMDeploy, which is never loaded"
        )


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a payload holds: an array, [T, W, K] where it is well, and the start that it says.

    declared tells that the payload is an object that says its own shape; faults are of its bytes.
    """

    ids: IntArray
    start: int | None = None
    declared: bool = False
    faults: tuple[Fault, ...] = ()


def _from_npy(data: bytes, where: str) -> Decoded:
    stream = io.BytesIO(data)
    shape, dtype, fortran = npy_header(stream, where)
    held = data[stream.tell() :]
    size = math.prod(shape) * dtype.itemsize
    if len(shape) == 3 and dtype.kind in "iu" and not fortran and len(held) != size:
        rows, faults = whole_rows(held, shape, dtype)
        return Decoded(rows, faults=faults)
    return Decoded(from_npy(data, where))


def _from_text(payload: str, facts: ModelFacts, extent: TokenExtent, where: str) -> Decoded:
    if payload.startswith(NEMO_RL):
        rows, faults = from_nemo_rl(payload, where)
        return Decoded(rows, faults=faults)
    _refuse_references(payload, where)
    data = from_base64(payload, where)
    if payload.startswith(NPY_BASE64):
        return _from_npy(data, where)
    rows, faults = raw_rows(data, facts, extent, where)
    return Decoded(rows, faults=faults)


def decode_payload(payload: Any, facts: ModelFacts, extent: TokenExtent, where: str) -> Decoded:
    """The array of a payload, whatever its encoding; ``extent`` helps where bytes have no header.

    Raises FormatError on damage, UnsupportedError on what holds no routes.
    """
    if isinstance(payload, np.ndarray):
        return Decoded(payload)
    if isinstance(payload, dict):
        rows, start, faults = from_object(payload, where)
        return Decoded(rows, start, True, faults)
    if isinstance(payload, list) and all(part in (None, "") for part in payload):
        return Decoded(np.zeros((0, 0, 0), np.int64))
    if is_pair(payload):
        rows, faults = from_pair(payload, where)
        return Decoded(rows, faults=faults)
    if is_matrices(payload):
        return Decoded(from_matrices(payload, facts, where))
    if isinstance(payload, str) and payload.startswith(R3_BASE64):
        return Decoded(*from_r3(payload, facts, where))
    if isinstance(payload, str):
        return _from_text(payload, facts, extent, where)
    return Decoded(from_lists(payload, where))
