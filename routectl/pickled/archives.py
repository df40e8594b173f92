"""What torch.save writes: a zip of stored members, of which data.pkl says what lies where.

Source: torch 2.13 ``serialization._save`` (the zip form, torch 1.6 and later).
"""

import io
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ..errors import FormatError, UnsupportedError
from ..files.reading import open_regular
from .dtypes import bytes_of
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

_ZIP_ERRORS = (
    zipfile.BadZipFile,
    OSError,
    EOFError,
    ValueError,
    KeyError,
    IndexError,
    NotImplementedError,
)
Members = dict[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Archive:
    """``value`` is what was saved, tensors in it as StoredTensor; ``members`` give the storages.

    members   storage key -> first byte in the stream, and bytes
    """

    value: Any
    members: dict[str, tuple[int, int]]

    def place(self, tensor: StoredTensor) -> tuple[str, int, tuple[int, ...], tuple[int, ...]]:
        """dtype, first byte in the stream, shape and strides of a tensor; raises FormatError."""
        key, dtype, offset, shape, strides = tensor.layout
        if key not in self.members:
            raise FormatError(f"no storage {key[:40]!a}")
        begin, size = self.members[key]
        item = bytes_of(dtype, (1,), key)
        reach = 1 + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
        if 0 not in shape and (offset + reach) * item > size:
            raise FormatError(f"storage {key[:40]!a} has {size} bytes, a tensor of it more")
        return dtype, begin + offset * item, shape, strides


def _data_start(stream: IO[bytes], info: zipfile.ZipInfo, where: str) -> int:
    """The first byte of a stored member, behind its local header."""
    stream.seek(info.header_offset)
    head = stream.read(30)
    named, extra = (int.from_bytes(head[i : i + 2], "little") for i in (26, 28))
    name = stream.read(named).decode("utf-8" if info.flag_bits & 0x800 else "cp437", "replace")
    known = head[:4] == b"PK\x03\x04" and name == info.orig_filename
    if not known or info.compress_type != zipfile.ZIP_STORED:
        raise FormatError(f"{where}: member {info.filename[:80]!a} is damaged or compressed")
    return info.header_offset + 30 + named + extra


def _member(stream: IO[bytes], info: zipfile.ZipInfo, where: str) -> bytes:
    """The bytes of a member; raises FormatError where they are not what was written."""
    begin = _data_start(stream, info, where)
    if begin + info.file_size > stream.seek(0, 2):
        raise FormatError(f"{where}: {info.filename[:80]!a} of {info.file_size} bytes")
    stream.seek(begin)
    data = stream.read(info.file_size)
    if info.CRC not in (0, zlib.crc32(data)):  # 0: torch was told to compute none
        raise FormatError(f"{where}: {info.filename[:80]!a} is not what was written")
    return data


def read_directory(stream: IO[bytes], where: str) -> tuple[bytes, Members, str]:
    """data.pkl, the places of the storages, and the order of their bytes: little or big.

    Raises FormatError for what torch.save did not write, UnsupportedError for the form that torch
    wrote before 1.6.
    """
    try:
        if stream.read(2) == b"\x80\x02":
            raise UnsupportedError(f"{where}: written by torch before 1.6", hint="save it again")
        entries = zipfile.ZipFile(stream).infolist()
        members = [(info.filename.partition("/")[2], info) for info in entries]
        orders = [_member(stream, i, where)[:6] for name, i in members if name == "byteorder"]
        pickles = [info for name, info in members if name == "data.pkl"]
        if len(pickles) != 1:
            raise FormatError(f"{where}: got {len(pickles)} data.pkl in it, expected one")
        data = _member(stream, pickles[0], where)
        storages = ((name[5:], info) for name, info in members if name.startswith("data/"))
        places = {k: (_data_start(stream, i, where), i.file_size) for k, i in storages}
    except _ZIP_ERRORS as error:
        kind = type(error).__name__
        raise FormatError(f"{where}: damaged archive: {kind}: {str(error)[:120]}") from None
    if any(order not in (b"little", b"big") for order in orders):
        raise UnsupportedError(f"{where}: byte order {orders[0].decode('latin1')!a}")
    return data, places, (orders or [b"little"])[0].decode()


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
    """dtype, first byte and strides of the one tensor that torch.save wrote as ``data``."""
    archive = open_archive(io.BytesIO(data), where)
    if not isinstance(archive.value, StoredTensor):
        raise FormatError(f"{where}: got {type(archive.value).__name__}, expected a tensor")
    try:
        dtype, begin, _, strides = archive.place(archive.value)
    except FormatError as error:
        raise FormatError(f"{where}: {error}") from None
    return dtype, begin, strides
