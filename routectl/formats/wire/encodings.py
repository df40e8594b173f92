"""A payload in, rows out: which encoding is it?

Shape suffixes: T rows, W layers as written, K top_k.
"""

import re
from typing import Any

import numpy as np

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
    raw_rows,
)

__all__ = ["decode_payload", "payload_engine"]

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


def _width(data: bytes, facts: ModelFacts, rows: int | None) -> int:
    """W of raw int32: all layers, unless the expected rows fit the MoE layers alone."""
    widths = (facts.num_layers, len(facts.layers))
    for off in () if rows is None else (0, 1, -1):
        for width in widths:
            if len(data) == 4 * (rows + off) * width * facts.top_k and data:  # type: ignore[operator]
                return width
    return widths[0]


def _from_text(payload: str, facts: ModelFacts, rows: int | None, where: str) -> IntArray:
    if payload.startswith(NEMO_RL):
        return from_nemo_rl(payload, where)
    _refuse_references(payload, where)
    data = from_base64(payload, where)
    if payload.startswith(NPY_BASE64):
        return from_npy(data, where)
    return raw_rows(data, _width(data, facts, rows), facts.top_k, where)


def decode_payload(
    payload: Any, facts: ModelFacts, rows: int | None, where: str
) -> tuple[IntArray, int | None]:
    """The rows [T, W, K] of a payload, and the start that it says itself.

    ``rows`` is how many an engine would give, None where it is not known: raw bytes have no
    header. Raises FormatError on damage, UnsupportedError on what holds no routes.
    """
    if isinstance(payload, np.ndarray):
        return payload, None
    if isinstance(payload, dict):
        return from_object(payload, where)
    if is_pair(payload):
        return from_pair(payload, where), None
    if is_matrices(payload):
        return from_matrices(payload, facts, where), None
    if isinstance(payload, str) and payload.startswith(R3_BASE64):
        return from_r3(payload, facts, where)
    if isinstance(payload, str):
        return _from_text(payload, facts, rows, where), None
    return from_lists(payload, where), None
