"""The routed_experts payload as it travels: base64 .npy, base64 raw int32, nested lists.

Every size is checked against the bytes at hand before an array of that size exists.
"""

import ast
import binascii
import io
import math
import re
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...damage import Fault
from ...errors import FormatError
from ...limits import check_budget

__all__ = [
    "NEMO_RL",
    "NPY_BASE64",
    "IntArray",
    "from_base64",
    "from_lists",
    "from_nemo_rl",
    "from_npy",
    "npy_header",
    "whole_rows",
    "wire_dtype",
]

IntArray = NDArray[np.integer[Any]]

_MAX_HEADER = 10_000
_PLAIN_DTYPE = re.compile(r"[<>|=]?[biufcmMOSUV?]\d{0,9}")
_QUOTED, _WARNED = re.compile(rb"'[^']*'|\"[^\"]*\""), re.compile(rb"\d[A-Za-z_]")  # 1or 2
NPY_BASE64 = "k05VTVBZ"  # base64 of b"\x93NUMPY": how vLLM's payload is told from SGLang's

NEMO_RL = "nrlre1:"
_NEMO_RL_HEAD = re.compile(r"nrlre1:(int8|int16|int32):(\d{1,9})x(\d{1,9})x(\d{1,9}):")


@lru_cache(64)  # samples of one length have one header, and each is asked for thrice
def _header_fields(header: bytes) -> tuple[tuple[int, ...], Any, bool] | None:
    """Shape, dtype and Fortran order of a .npy header; None where it is none."""
    if _WARNED.search(_QUOTED.sub(b"", header)) or b"\\" in header:
        return None
    try:
        fields = ast.literal_eval(header.decode("latin1").strip())
        shape, fortran, kind = (fields[name] for name in ("shape", "fortran_order", "descr"))
        sizes = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
        if sizes and _PLAIN_DTYPE.fullmatch(kind):
            return shape, np.dtype(kind), bool(fortran)
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError):
        pass
    return None


def npy_header(stream: io.BufferedIOBase | Any, where: str) -> tuple[tuple[int, ...], Any, bool]:
    """Shape, dtype and Fortran order from the head of a .npy stream, left at the first data byte.

    Source: the NPY format 1.0, 2.0 and 3.0 (numpy.lib.format). The header is read here, so that
    its length is bounded before it is read and nothing but a plain dtype passes.
    """
    magic = stream.read(8)
    if magic[:6] != b"\x93NUMPY" or magic[6:7] not in (b"\x01", b"\x02", b"\x03"):
        raise FormatError(f"{where}: not a .npy array: got {magic!r}, expected NUMPY 1.0 to 3.0")
    length = int.from_bytes(stream.read(2 if magic[6] == 1 else 4), "little")
    header = stream.read(min(length, _MAX_HEADER))
    found = _header_fields(header) if len(header) == length else None
    if found is not None:
        return found
    raise FormatError(
        f"{where}: not a .npy array: the header ({length} bytes) is cut short or damaged: "
        f"got {header[:60]!r}"
    )


def from_npy(data: bytes, where: str) -> NDArray[Any]:
    """The array of a .npy file held in memory, without a copy where it is in C order."""
    stream = io.BytesIO(data)
    shape, dtype, fortran = npy_header(stream, where)
    if dtype.hasobject:
        raise FormatError(f"{where}: the .npy array holds Python objects, which are never loaded")
    count = 1
    for size in shape:
        count *= size
    got, expected = len(data) - stream.tell(), count * dtype.itemsize
    if got != expected:
        raise FormatError(
            f"{where}: truncated or overlong .npy: got {got} bytes of data, "
            f"expected {expected} for shape {shape} of {dtype}"
        )
    try:
        flat = np.frombuffer(data, dtype, count, offset=stream.tell())
        return flat.reshape(shape[::-1]).T.copy() if fortran else flat.reshape(shape)
    except ValueError as error:
        raise FormatError(f"{where}: no array is of shape {shape}, {dtype}: {error}") from None


def from_base64(payload: str, where: str) -> bytes:
    """The bytes of a base64 string; FormatError says when it is cut short or is no base64.

    It is held against the budget ``cell`` before.
    """
    check_budget("cell", len(payload) * 3 // 4, f"{where}: routed_experts: bytes")
    try:
        return binascii.a2b_base64(payload, strict_mode=True)
    except (binascii.Error, ValueError):
        cut = len(payload) % 4 != 0
        what = f"truncated base64 ({len(payload)} characters)" if cut else "invalid base64"
        raise FormatError(
            f"{where}: routed_experts: {what}: got {payload[:24]!r}…, expected the base64 of"
            " a .npy file (vLLM) or of raw int32 (SGLang)"
        ) from None


def whole_rows(
    data: bytes, shape: tuple[int, ...], dtype: str | np.dtype[Any]
) -> tuple[IntArray, tuple[Fault, ...]]:
    """Bytes as an array of a declared shape, its axis 0 cut to the rows that are there whole.

    A fault tells of bytes that are more or fewer.
    """
    kind = np.dtype(dtype)
    if kind.byteorder == "=":
        kind = kind.newbyteorder("<")
    row_bytes = math.prod(shape[1:]) * kind.itemsize
    expected = shape[0] * row_bytes
    if len(data) == expected:
        return np.frombuffer(data, kind).reshape(shape), ()
    rows = min(len(data) // row_bytes, shape[0]) if row_bytes else 0
    text = f"got {len(data)} bytes, expected {expected} for {list(shape)} of {kind.name}"
    held = f"{len(data) / row_bytes:.2f}" if row_bytes else "no"
    fault = Fault("bytes", f"routed_experts: {text}", f"{held} rows of {shape[0]}")
    if not rows:
        return np.zeros((0, 0, 0), np.int32), (fault,)
    cut: IntArray = np.frombuffer(data[: rows * row_bytes], kind)
    return cut.reshape(rows, *shape[1:]), (fault,)


def from_nemo_rl(payload: str, where: str) -> tuple[IntArray, tuple[Fault, ...]]:
    """The rows of ``nrlre1:<dtype>:<rows>x<layers>x<k>:<base64>``, and what is wrong with them.

    Source: NeMo-RL 7ea279ab (utils/routed_experts_codec.py): C order, little-endian.
    """
    head = _NEMO_RL_HEAD.match(payload)
    if head is None:
        raise FormatError(
            f"{where}: routed_experts: got {payload[:40]!r}, expected "
            "nrlre1:<int8|int16|int32>:<rows>x<layers>x<k>:<base64>"
        )
    data = from_base64(payload[head.end() :], where)
    return whole_rows(data, tuple(int(n) for n in head.groups()[1:]), head[1])


def from_lists(value: Any, where: str) -> IntArray:
    """Nested JSON lists [rows][layers][k] as int64."""
    try:
        array = np.array(value)
    except ValueError:
        raise FormatError(f"{where}: routed_experts: rows are not all of one shape") from None
    if array.size == 0:
        return np.zeros((0, 0, 0), np.int64)
    if array.ndim != 3 or array.dtype.kind not in "iu":
        raise FormatError(
            f"{where}: routed_experts: got {array.dtype} {array.shape}, "
            "expected integers [rows, layers, top_k]"
        )
    return array


def wire_dtype(payload: Any) -> str | None:
    """The integer type that a payload is written in; "json" for lists, None when unreadable."""
    if isinstance(payload, dict):
        return str(payload.get("dtype") or "int32")[:6]
    if not isinstance(payload, str):
        return "json" if isinstance(payload, list) else None
    if payload.startswith("KLUv/"):
        return None
    if payload.startswith(NEMO_RL):
        return payload.split(":", 2)[1][:5]
    if not payload.startswith(NPY_BASE64):
        return "int32"
    try:
        head = binascii.a2b_base64(payload[:1024])
        return str(npy_header(io.BytesIO(head), "payload")[1])
    except (ValueError, FormatError):
        return None
