"""What torch.save writes: a zip of stored members, of which data.pkl says what lies where.

Source: torch 2.13 ``serialization._save`` (the zip form, torch 1.6 and later).
"""

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ..errors import FormatError, UnsupportedError
from .dtypes import bytes_of
from .names import CHECKPOINTS, Names
from .reading import load_pickle
from .records import StoredTensor

__all__ = ["Archive", "load_values", "open_archive", "single_tensor"]

_ZIP_ERRORS = (
    zipfile.BadZipFile,
    OSError,
    EOFError,
    ValueError,
    KeyError,
    IndexError,
    NotImplementedError,
)
_MAX_PICKLE = 1 << 30


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


def _data_start(stream: IO[bytes], info: zipfile.ZipInfo) -> int:
    """The first byte of a stored member, behind its local header."""
    stream.seek(info.header_offset)
    head = stream.read(30)
    if len(head) != 30 or head[:4] != b"PK\x03\x04" or info.compress_type != zipfile.ZIP_STORED:
        raise FormatError(f"member {info.filename[:80]!a} is damaged or compressed")
    return (
        info.header_offset + 30 + sum(int.from_bytes(head[i : i + 2], "little") for i in (26, 28))
    )


def open_archive(stream: IO[bytes], where: str, names: Names = CHECKPOINTS) -> Archive:
    """A torch.save archive, of which the directory and data.pkl are read and no storage.

    Raises FormatError when it is damaged, or its pickle refused; UnsupportedError for the form
    that torch wrote before 1.6, and for big-endian bytes.
    """
    try:
        if stream.read(2) == b"\x80\x02":
            raise UnsupportedError(f"{where}: written by torch before 1.6", hint="save it again")
        members = zipfile.ZipFile(stream).infolist()
        at = {info.filename.partition("/")[2]: info for info in members}
        pickled = at["data.pkl"]
        if pickled.file_size > _MAX_PICKLE:
            raise FormatError(f"{where}: data.pkl of {pickled.file_size} bytes")
        stream.seek(_data_start(stream, pickled))
        value = load_pickle(stream.read(pickled.file_size), where, names)
        if "byteorder" in at:
            stream.seek(_data_start(stream, at["byteorder"]))
            if stream.read(6) != b"little":
                raise UnsupportedError(f"{where}: big-endian")
        storages = {name[5:]: info for name, info in at.items() if name.startswith("data/")}
        return Archive(
            value, {k: (_data_start(stream, i), i.file_size) for k, i in storages.items()}
        )
    except _ZIP_ERRORS as error:
        kind = type(error).__name__
        raise FormatError(f"{where}: damaged archive: {kind}: {str(error)[:120]}") from None


def load_values(path: Path) -> Any:
    """What torch.save wrote to a file, tensors left where they are."""
    with path.open("rb") as stream:
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
