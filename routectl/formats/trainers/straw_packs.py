"""Packs of straw, the store that slime and vime keep rollouts in: extents of checked records.

An extent of a pack is ``SLMSEG01`` and u32 1; frames of u32 and u64 lengths, an envelope (JSON) and
a payload; an index (JSON) with the envelope and the offset of each frame; and a footer: the u64
length of the index, its SHA-256, the SHA-256 of all before the footer, ``SLMEND01``. A manifest is
a record that lists others, in the same extent by number, elsewhere by whole references. Source:
straw-queue 0.1.6 (protocol.py, store.py, tensor.py, and what its own store writes).
"""

import hashlib
import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import FormatError, UnsupportedError
from ...files.names import is_own_name
from ...files.reading import open_mappable
from ...visible import quoted
from ..documents.fields import from_json

__all__ = ["Members", "PackPool", "Stored"]

Doc = Mapping[str, Any]
_HEAD, _TAIL = b"SLMSEG01\x01\x00\x00\x00", b"SLMEND01"
_FOOTER, _FRAME = struct.Struct("<Q32s32s8s"), struct.Struct("<IQ")
_DTYPES = ("uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64", "bool")


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """A record: its codec, what it says of its payload, and the payload, which was checked."""

    codec: str
    about: Doc
    payload: memoryview

    def tensor(self, where: str) -> NDArray[Any] | None:
        """A tensor.v1 record as an array over the pack; None of a dtype that numpy has not."""
        shape, dtype = self.about.get("shape"), self.about.get("dtype")
        if self.codec != "tensor.v1" or not isinstance(shape, list):
            raise FormatError(f"{where}: a record of {quoted(self.codec, 40)}, expected a tensor")
        if dtype == "bfloat16":
            return None
        whole = all(type(n) is int and n >= 0 for n in shape) and len(shape) <= 16
        if dtype not in _DTYPES or not whole:
            raise FormatError(f"{where}: a tensor {quoted(shape, 60)} of {quoted(dtype, 20)}")
        kind = np.dtype(dtype).newbyteorder("<")
        if math.prod(shape) * kind.itemsize != len(self.payload):
            raise FormatError(f"{where}: a tensor {shape} of {dtype} in {len(self.payload)} bytes")
        return np.frombuffer(self.payload, kind).reshape(shape)


@dataclass(frozen=True, slots=True)
class Members:
    """What a manifest lists: its records, and the record sets that these need."""

    records: tuple[tuple[Doc, int], ...]
    dependencies: tuple[Doc, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Extent:
    data: memoryview
    index: tuple[Any, ...]
    end: int


class PackPool:
    """The extents under a root folder, each opened once."""

    def __init__(self, root: Path, where: str) -> None:
        self._root, self._where = root, where
        self._extents: dict[tuple[str, int], _Extent] = {}

    @property
    def num_bytes(self) -> int:
        """Bytes of the extents that were opened."""
        return sum(extent.data.nbytes for extent in self._extents.values())

    def record(self, segment: Doc, ordinal: Any) -> Stored:
        """One record; raises FormatError on damage, and where its payload is another's."""
        extent, where = self._extent(segment), self._where
        if type(ordinal) is not int or not 0 <= ordinal < len(extent.index):
            raise FormatError(f"{where}: record {quoted(ordinal, 20)} of {len(extent.index)}")
        entry = extent.index[ordinal]
        at, envelope = entry["offset"], entry["envelope"]
        if type(at) is not int or not len(_HEAD) <= at <= extent.end - _FRAME.size:
            raise FormatError(f"{where}: record {ordinal} outside of its extent")
        head, size = _FRAME.unpack_from(extent.data, at)
        begin = at + _FRAME.size + head
        if begin + size > extent.end or size != envelope["length"]:
            raise FormatError(f"{where}: record {ordinal} outside of its extent")
        if from_json(bytes(extent.data[begin - head : begin]), where) != envelope:
            raise FormatError(f"{where}: record {ordinal}: frame and index do not say the same")
        payload = extent.data[begin : begin + size]
        if hashlib.sha256(payload).hexdigest() != envelope["checksum"]:
            raise FormatError(f"{where}: record {ordinal}: its SHA-256 is another")
        return Stored(envelope["codec"], envelope["metadata"], payload)

    def members(self, reference: Doc) -> Members:
        """The manifest that a record set is named by."""
        segment = reference["manifest"]["segment"]
        record = self.record(segment, reference["manifest"]["ordinal"])
        if record.codec not in ("record-set.v1", "record-set.v2"):
            raise UnsupportedError(f"{self._where}: a manifest of {quoted(record.codec, 40)}")
        doc = from_json(bytes(record.payload), self._where)
        records = [
            (segment, item) if type(item) is int else (item["segment"], item["ordinal"])
            for item in doc["records"]
        ]
        needed = [
            {"manifest": {"segment": segment, "ordinal": item["local"]}}
            if "local" in item
            else item
            for item in doc["dependencies"]
        ]
        return Members(tuple(records), tuple(needed))

    def _extent(self, segment: Doc) -> _Extent:
        path, at = segment["path"], segment["offset"]
        if (path, at) not in self._extents:
            self._extents[path, at] = self._opened(segment)
        return self._extents[path, at]

    def _opened(self, segment: Doc) -> _Extent:
        path, at, size = segment["path"], segment["offset"], segment["size"]
        parts = path.split("/") if isinstance(path, str) else []
        if not parts or not all(is_own_name(part) for part in parts):
            raise FormatError(f"{self._where}: a pack by the name of {quoted(path, 80)}")
        file = self._root.joinpath(*parts)
        if not file.is_file():
            raise FormatError(f"{self._where}: its records are in {file}, which is not there")
        with open_mappable(file) as stream:
            data = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
        least = len(_HEAD) + _FOOTER.size
        sizes = all(type(n) is int and n >= 0 for n in (at, size))
        if not sizes or size < least or at + size > len(data):
            raise FormatError(f"{file}: an extent of {quoted(size, 20)} of {len(data)} bytes")
        data = data[at : at + size]
        length, own, whole, tail = _FOOTER.unpack_from(data, size - _FOOTER.size)
        end = size - _FOOTER.size - length
        if data[: len(_HEAD)] != _HEAD or tail != _TAIL or end < len(_HEAD):
            raise FormatError(f"{file}: damaged: no extent of straw at byte {at}")
        index = bytes(data[end : end + length])
        if hashlib.sha256(index).digest() != own or whole.hex() != segment["checksum"]:
            raise FormatError(f"{file}: damaged: the SHA-256 of its index is another")
        return _Extent(data, tuple(from_json(index, str(file))["records"]), end)
