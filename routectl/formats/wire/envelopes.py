"""Payloads that say their shape: objects of data, shape, dtype and start, and rllm's pair.

Shape suffixes: T rows, W layers as written, K top_k.
"""

from typing import Any

import numpy as np

from ...damage import Fault
from ...errors import FormatError, UnsupportedError
from ..documents.fields import Doc, from_json, integer, one_line
from .payload import IntArray, from_base64, whole_rows

__all__ = ["DTYPES", "from_base85", "from_object", "from_pair", "is_pair"]

DTYPES = ("uint8", "int8", "uint16", "int16", "int32", "uint32", "int64")
_ALPHABET = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~"
_DIGITS = np.full(256, 85, np.uint8)
_DIGITS[np.frombuffer(_ALPHABET, np.uint8)] = np.arange(85, dtype=np.uint8)
_POWERS = np.array([85**4, 85**3, 85**2, 85, 1], np.uint64)


def from_base85(payload: str, where: str) -> bytes:
    """The bytes of ``base64.b85encode`` (RFC 1924's alphabet), as the standard library has it.

    Raises FormatError when a character or a group of five is none of base85.
    """
    try:
        digits = _DIGITS[np.frombuffer(payload.encode("ascii"), np.uint8)]
    except UnicodeEncodeError:
        digits = np.array([85], np.uint8)
    short = -len(digits) % 5
    groups = np.concatenate([digits, np.full(short, 84, np.uint8)]).reshape(-1, 5)
    words = groups @ _POWERS
    if (digits == 85).any() or (words >= 1 << 32).any():
        raise FormatError(f"{where}: routed_experts: invalid base85: got {payload[:24]!r}…")
    return words.astype(">u4").tobytes()[: 4 * len(words) - short]


def _check_dtype(dtype: Any, where: str) -> None:
    if dtype not in DTYPES:
        raise UnsupportedError(
            f"{where}: routed_experts: dtype {one_line(dtype)[:40]}, known are {', '.join(DTYPES)}"
        )


def _shape(value: Any, where: str) -> tuple[int, int, int]:
    whole = isinstance(value, list) and len(value) == 3
    if not whole or not all(type(n) is int and 0 <= n < 2**31 for n in value):
        raise FormatError(
            f"{where}: routed_experts: shape: got {repr(value)[:60]}, "
            "expected [rows, layers, top_k]"
        )
    return value[0], value[1], value[2]


def _decoded(data: Any, size: int, encoding: Any, where: str) -> bytes:
    """The bytes of base64 or base85, told apart by their length for ``size`` bytes.

    n bytes are ceil(5 n / 4) or 4 ceil(n / 3) characters: alike for n = 0, 3, 6 and 9 alone, which
    no int32 has.
    """
    if not isinstance(data, str):
        got = type(data).__name__
        raise FormatError(f"{where}: routed_experts: data: got {got}, expected a string")
    if encoding not in (None, "base64", "base85"):
        raise UnsupportedError(
            f"{where}: routed_experts: encoding {one_line(encoding)[:40]}, "
            "known are base64 and base85"
        )
    is_85 = len(data) == -(-5 * size // 4) and len(data) != 4 * -(-size // 3)
    if encoding == "base85" or (encoding is None and is_85):
        return from_base85(data, where)
    return from_base64(data, where)


def from_object(doc: Doc, where: str) -> tuple[IntArray, int | None, tuple[Fault, ...]]:
    """The array of ``{data, shape, start, dtype}``, the start that it says, what is wrong with it.

    C order, little-endian. Without a dtype the data is int32, as in the older base85 form.
    Sources: prime-rl 13e411d6 (inference/vllm/routed_experts.py) and Dynamo #10529: base64;
    verifiers #923 and Dynamo #9651: base85 of int32 with a shape alone; SkyRL a9564572
    (utils/routed_experts.py): without a start; with ``encoding`` in prime-rl #2408.
    """
    missing = sorted({"data", "shape"} - set(doc))
    if missing:
        keys = ", ".join(sorted(map(str, doc)))[:80]
        raise UnsupportedError(
            f"{where}: routed_experts is an object of {keys or 'nothing'}: no {missing[0]}; known "
            "are {data, shape, start, dtype}, base64 strings and nested lists"
        )
    dtype = doc.get("dtype") or "int32"
    _check_dtype(dtype, where)
    shape = _shape(doc["shape"], where)
    size = shape[0] * shape[1] * shape[2] * np.dtype(dtype).itemsize
    data = _decoded("" if doc["data"] is None else doc["data"], size, doc.get("encoding"), where)
    start = integer(doc.get("start"), where, "start of routed_experts")
    rows, faults = whole_rows(data, shape, dtype)
    return rows, start, faults


def is_pair(payload: Any) -> bool:
    """Whether a list is rllm's ``["<shape as JSON>", "<base64>"]``."""
    whole = isinstance(payload, list) and len(payload) == 2
    return whole and all(isinstance(part, str) for part in payload) and payload[0][:1] in "[{"


def from_pair(payload: list[str], where: str) -> tuple[IntArray, tuple[Fault, ...]]:
    """The rows of ``["<shape as JSON>", "<base64>"]``, and what is wrong with them.

    Source: rllm #543. The header is a list, or an object with ``shape`` and ``dtype``; without
    one the integer type follows from the bytes.
    """
    try:
        head = from_json(payload[0])
    except (ValueError, RecursionError):
        raise FormatError(
            f"{where}: routed_experts: the shape is not JSON: {payload[0][:40]!r}"
        ) from None
    doc = head if isinstance(head, dict) else {"shape": head}
    shape = _shape(doc.get("shape"), where)
    data = from_base64(payload[1], where)
    width = len(data) // max(1, shape[0] * shape[1] * shape[2])
    dtype = doc.get("dtype") or {1: "uint8", 2: "int16", 8: "int64"}.get(width, "int32")
    _check_dtype(dtype, where)
    return whole_rows(data, shape, dtype)
