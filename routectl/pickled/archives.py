"""What torch.save writes: a zip of stored members, of which data.pkl says what lies where.

Source: torch 2.13 ``serialization._save`` (the zip form, torch 1.6 and later).
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ..errors import FormatError, UnsupportedError
from ..files.reading import open_regular
from .dtypes import bytes_of
from .members import Member, read_members
from .names import CHECKPOINTS, Names
from .reading import load_pickle
from .records import StoredTensor

__all__ = [
    "Archive",
    "load_values",
    "open_archive",
    "read_directory",
    "single_tensor",
]


@dataclass(frozen=True, slots=True)
class Archive:
    """``value`` is what was saved, tensors in it as StoredTensor; ``members`` give the storages."""

    value: Any
    members: Mapping[str, Member]
    _sound: set[str] = field(default_factory=set)

    def place(self, tensor: StoredTensor) -> tuple[str, int, tuple[int, ...], tuple[int, ...]]:
        """dtype, first byte in the stream, shape and strides of a tensor; raises FormatError."""
        key, dtype, offset, shape, strides = tensor.layout
        if key not in self.members:
            raise FormatError(f"no storage {key[:40]!a}")
        begin, size = self.members[key].begin, self.members[key].size
        item = bytes_of(dtype, (1,), key)
        reach = 1 + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
        if 0 not in shape and (offset + reach) * item > size:
            raise FormatError(f"storage {key[:40]!a} has {size} bytes, a tensor of it more")
        return dtype, begin + offset * item, shape, strides

    def storage(self, tensor: StoredTensor) -> Member:
        """The member that holds a tensor which ``place`` found."""
        return self.members[tensor.layout[0]]

    def check(self, tensor: StoredTensor, data: bytes, where: str) -> None:
        """Raise FormatError unless a tensor's storage is as it was written to ``data``."""
        held = self.storage(tensor)
        if held.name not in self._sound:
            held.check((memoryview(data)[held.begin : held.begin + held.size],), where)
            self._sound.add(held.name)


def read_directory(stream: IO[bytes], where: str) -> tuple[bytes, dict[str, Member], str]:
    """data.pkl, the storages by their keys, and the order of their bytes: little or big.

    Raises FormatError for what torch.save did not write, UnsupportedError for the form that torch
    wrote before 1.6.
    """
    try:
        stream.seek(0)
        if stream.read(2) == b"\x80\x02":
            raise UnsupportedError(f"{where}: written by torch before 1.6", hint="save it again")
        members = read_members(stream, where)
        if "data.pkl" not in members:
            raise FormatError(f"{where}: got no data.pkl in it: not what torch.save wrote")
        order = members["byteorder"].read(stream, where) if "byteorder" in members else b"little"
        data = members["data.pkl"].read(stream, where)
    except OSError as error:
        raise FormatError(f"{where}: cannot be read: {error.strerror}") from None
    if order not in (b"little", b"big"):
        raise UnsupportedError(f"{where}: byte order {order[:20].decode('latin1')!a}")
    storages = {name[5:]: held for name, held in members.items() if name.startswith("data/")}
    return data, storages, order.decode()


def open_archive(stream: IO[bytes], where: str, names: Names = CHECKPOINTS) -> Archive:
    """A torch.save archive, of which the directory and data.pkl are read and no storage.

    Raises FormatError when it is damaged, or its pickle refused; UnsupportedError for the form
    that torch wrote before 1.6, and for big-endian bytes.
    """
    data, members, order = read_directory(stream, where)
    if order != "little":
        raise UnsupportedError(f"{where}: big-endian")
    return Archive(load_pickle(data, where, names), members)


def load_values(path: Path) -> Any:
    """What torch.save wrote to a file, tensors left where they are."""
    with open_regular(path) as stream:
        return open_archive(stream, str(path)).value


def single_tensor(data: bytes, where: str) -> tuple[str, int, tuple[int, ...]]:
    """dtype, first byte and strides of the one tensor that torch.save wrote as ``data``.

    Raises FormatError where its storage is not as it was written.
    """
    archive = open_archive(io.BytesIO(data), where)
    if not isinstance(archive.value, StoredTensor):
        raise FormatError(f"{where}: got {type(archive.value).__name__}, expected a tensor")
    try:
        dtype, begin, _, strides = archive.place(archive.value)
        archive.check(archive.value, data, where)
    except FormatError as error:
        known = str(error).startswith(where)
        raise error if known else FormatError(f"{where}: {error}") from None
    return dtype, begin, strides
