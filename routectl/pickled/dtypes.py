"""dtypes of stored tensors in safetensors' words, and how many bytes their elements take."""

import math
from pathlib import Path

from ..errors import UnsupportedError

__all__ = ["bytes_of"]

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


def bytes_of(dtype: str, shape: tuple[int, ...], where: str | Path) -> int:
    """The bytes of a tensor; raises UnsupportedError for a dtype that is not listed here."""
    if dtype not in BITS:
        raise UnsupportedError(f"{where}: dtype {dtype[:40]!r} is not known: {', '.join(BITS)}")
    return (math.prod(shape) * BITS[dtype] + 7) // 8
