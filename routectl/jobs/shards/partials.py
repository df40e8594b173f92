"""routectl.partial/1: what was counted of a part of some work, as a file that merges.

A map in MessagePack; its keys are those of ``PartialFile``. ``body`` is what was counted, in
MessagePack too and compressed by zstd: a map a value, its keys the names of its fields, an array
the extension 1 of dtype, shape and bytes. Nothing in it is run. docs/json.md is the contract.
"""

import hashlib
import math
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from ...errors import FormatError
from ...files.reading import read_bytes
from ...files.writing import replacing

__all__ = [
    "PARTIAL",
    "PartialFile",
    "counted_in",
    "digest_of",
    "packed_body",
    "read_partial",
    "save",
    "sealed",
]

PARTIAL = "routectl.partial/1"
_MOST_BYTES = 1 << 30  # of a file, and of what is counted in it
_ARRAY = 1
_DTYPES = ("<i8", "<i4", "<f8", "<f2", "|b1", "|u1", "<u2", "<u4", "<u8")
_T = TypeVar("_T")


class PartialFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A partial as it is stored.

    schema    PARTIAL
    verb      the command that counted
    request   what it was asked, by the names of its request's fields
    digest    of that, and of which samples there are: partials of one digest belong together
    part, of  it is the part-th, from 1, of so many
    failed    what could not be counted, a line each; empty where all was
    size      bytes of what was counted before it was compressed
    body      what was counted
    check     BLAKE2b-128 of the map with an empty check, as hex: a bit that was turned is seen
    """

    schema: str
    verb: str
    request: dict[str, Any]
    digest: str
    part: int
    of: int
    failed: list[str]
    size: int
    body: bytes
    check: str = ""


def digest_of(request: dict[str, Any], *more: Any) -> str:
    """The digest of a request, and of arrays, numbers and text that say what it is about."""
    found = hashlib.blake2b(msgspec.json.encode(request, order="deterministic"), digest_size=16)
    for one in more:
        data = np.ascontiguousarray(one).tobytes() if isinstance(one, np.ndarray) else f"{one}\0"
        found.update(data if isinstance(data, bytes) else data.encode())
    return found.hexdigest()


def _stored(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        array = np.ascontiguousarray(value, value.dtype.newbyteorder("<"))
        about = (array.dtype.str, value.shape, array.tobytes())
        return msgspec.msgpack.Ext(_ARRAY, msgspec.msgpack.encode(about))
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"got {type(value).__name__}, expected what a partial holds")


def packed_body(counted: Any) -> tuple[int, bytes]:
    """What was counted, as ``size`` and ``body``."""
    import pyarrow as pa

    data = msgspec.msgpack.encode(counted, enc_hook=_stored)
    return len(data), pa.compress(data, codec="zstd", asbytes=True)


def sealed(partial: PartialFile) -> bytes:
    """A partial as it is stored, with its check."""
    return msgspec.msgpack.encode(msgspec.structs.replace(partial, check=_check_of(partial)))


def _check_of(partial: PartialFile) -> str:
    bare = msgspec.msgpack.encode(msgspec.structs.replace(partial, check=""))
    return hashlib.blake2b(bare, digest_size=16).hexdigest()


def save(path: Path, partial: PartialFile, *, force: bool) -> None:
    """Write a partial, whole or not at all."""
    with replacing(path, force=force) as stream:
        stream.write(sealed(partial))


def read_partial(path: Path) -> PartialFile:
    """A partial that was written with --partial. Raises FormatError where it is none."""
    data = read_bytes(path, _MOST_BYTES, f"more than {_MOST_BYTES} bytes")
    try:
        found = msgspec.msgpack.decode(data, type=PartialFile)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        what = "an empty file" if not data else f"no partial, or a damaged one: {error}"
        raise FormatError(f"{path}: {what}", hint="--partial writes one") from None
    if found.schema != PARTIAL:
        raise FormatError(f"{path}: got schema {found.schema!a:.60}, expected {PARTIAL}")
    if not (1 <= found.part <= found.of and 0 <= found.size <= _MOST_BYTES):
        raise FormatError(f"{path}: part {found.part} of {found.of}, {found.size} bytes: damaged")
    if found.check != _check_of(found):
        raise FormatError(f"{path}: damaged: its check is not that of its bytes")
    return found


def counted_in(partial: PartialFile, kind: type[_T], path: Path) -> _T:
    """What was counted, of its type. Raises FormatError where it is damaged."""
    import pyarrow as pa

    try:
        data = pa.decompress(
            partial.body, decompressed_size=partial.size, codec="zstd", asbytes=True
        )
        return msgspec.msgpack.decode(data, type=kind, ext_hook=_array, dec_hook=_as_array)
    except (msgspec.DecodeError, ValueError, TypeError, OSError, RecursionError) as error:
        raise FormatError(f"{path}: damaged: {error}") from None


def _array(code: int, data: memoryview) -> "np.ndarray[Any, Any]":
    dtype, shape, raw = msgspec.msgpack.decode(data, type=tuple[str, tuple[int, ...], bytes])
    if code != _ARRAY or dtype not in _DTYPES or min(shape, default=0) < 0:
        raise ValueError("an array of another kind than partials have")
    if math.prod(shape) * np.dtype(dtype).itemsize != len(raw):
        raise ValueError(f"an array of {shape} in {len(raw)} bytes")
    return np.frombuffer(raw, dtype).reshape(shape)


def _as_array(kind: Any, value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value
    raise TypeError(f"expected an array, got {type(value).__name__}")
