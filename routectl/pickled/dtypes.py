"""dtypes of stored tensors in safetensors' words: torch's and numpy's, and their bytes."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UnsupportedError

__all__ = ["TORCH_DTYPES", "bytes_of", "numpy_dtype"]

# dtypes by their name in safetensors 0.8, with the bits of an element
BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "U16": 16,
    "I16": 16,
    "F16": 16,
    "BF16": 16,
    "U32": 32,
    "I32": 32,
    "F32": 32,
    "U64": 64,
    "I64": 64,
    "F64": 64,
    "C64": 64,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
}
TORCH_DTYPES = {  # torch.uint8 is U8
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "uint32": "U32",
    "int32": "I32",
    "uint64": "U64",
    "int64": "I64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "complex64": "C64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "float8_e8m0fnu": "F8_E8M0",
}
_NUMPY = {
    "BOOL": "?",
    "U8": "u1",
    "I8": "i1",
    "U16": "u2",
    "I16": "i2",
    "U32": "u4",
    "I32": "i4",
    "U64": "u8",
    "I64": "i8",
    "F16": "f2",
    "F32": "f4",
    "F64": "f8",
}


def bytes_of(dtype: str, shape: tuple[int, ...], where: str | Path) -> int:
    """The bytes of a tensor; raises UnsupportedError for a dtype that is not listed here."""
    if dtype not in BITS:
        raise UnsupportedError(f"{where}: dtype {dtype[:40]!r} is not known: {', '.join(BITS)}")
    return (math.prod(shape) * BITS[dtype] + 7) // 8


def numpy_dtype(dtype: str, order: str = "<") -> np.dtype[Any] | None:
    """numpy's dtype of that byte order; None for one that numpy has not (BF16, float8)."""
    return np.dtype(order + _NUMPY[dtype]) if dtype in _NUMPY else None
