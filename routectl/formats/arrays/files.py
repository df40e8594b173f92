"""The three array containers as one: names, shapes and dtypes at hand, arrays read on demand."""

import lzma
import struct
import weakref
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import FormatError, RoutectlError
from ...files.places import RemotePath
from ...files.reading import check_regular, open_regular, read_bytes, size_of
from ...limits import check_inflation
from ..documents.fields import one_line
from ..wire.payload import from_npy, npy_header

__all__ = ["ArrayFile", "open_array_file", "save_safetensors"]

_MAX_NAME = 255
_ZIP_ERRORS = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError),
    *(KeyError, RuntimeError, ValueError),  # absent or encrypted members, impossible fields
)


@dataclass(slots=True)
class ArrayFile:
    """Arrays by name. ``texts`` are its strings: safetensors metadata, or 0-d string arrays."""

    path: Path
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]
    read: Callable[[str], NDArray[Any]]
    texts: dict[str, str] = field(default_factory=dict)


def _open_npy(path: Path) -> ArrayFile:
    with open_regular(path) as stream:
        shape, dtype, _ = npy_header(stream, str(path))
    name = path.name.removesuffix(".npy")
    return ArrayFile(
        path, {name: shape}, {name: str(dtype)}, lambda _: from_npy(read_bytes(path), str(path))
    )


def _check_name(name: str, path: Path) -> None:
    """Array names become sample ids and stand in messages, so they are short and printable."""
    if len(name) > _MAX_NAME or not name.isprintable():
        raise FormatError(f"{path}: got an array named {name[:40]!a}, expected a short name")


@contextmanager
def _unzipping(where: str) -> Iterator[None]:
    try:
        yield
    except _ZIP_ERRORS as error:
        raise FormatError(f"{where}: damaged .npz: {one_line(error)}") from None


def _check_count(archive: zipfile.ZipFile) -> None:
    """Raise BadZipFile where there are not as many members as the end of the directory says.

    A flipped length of a comment in it swallows the entries that follow, and zipfile is content.
    """
    assert archive.fp is not None
    archive.fp.seek(-22 - len(archive.comment), 2)
    told, found = int.from_bytes(archive.fp.read(12)[10:], "little"), len(archive.infolist())
    if told not in (found, 0xFFFF):  # the latter in zip64
        raise zipfile.BadZipFile(f"got {found} members, expected {told}")


def _open_npz(path: Path) -> ArrayFile:
    stream = open_regular(path)
    stored, inflated = size_of(stream), 0
    try:
        with _unzipping(str(path)):
            if not zipfile.is_zipfile(stream):
                raise zipfile.BadZipFile("cut short? It ends without the list of its arrays")
            archive = zipfile.ZipFile(stream)
            _check_count(archive)
    except FormatError:
        stream.close()
        raise
    weakref.finalize(archive, stream.close)  # with the last array that can be read

    def read(name: str) -> NDArray[Any]:
        with _unzipping(f"{path}: {name}"):
            return from_npy(archive.read(f"{name}.npy"), f"{path}: {name}")

    result = ArrayFile(path, {}, {}, read)
    for info in archive.infolist():
        name = info.filename.removesuffix(".npy")
        _check_name(name, path)
        where = f"{path}: {name}"
        if not info.filename.endswith(".npy"):
            raise FormatError(f"{where}: not an array, expected a .npz")
        if name in result.shapes:
            raise FormatError(f"{where}: there twice")
        check_inflation(info.file_size, info.compress_size, where)
        inflated += info.file_size
        check_inflation(inflated, stored, str(path))
        with _unzipping(where), archive.open(info) as member:
            shape, dtype, _ = npy_header(member, where)
        result.shapes[name] = shape
        result.dtypes[name] = str(dtype)
        if shape == () and dtype.kind == "U":
            result.texts[name] = str(read(name))
    return result


def _dtype_name(name: str) -> str:
    """numpy's name of a safetensors dtype: U8 is uint8; names such as BF16 stay as they are."""
    kind = {"U": "uint", "I": "int", "F": "float"}.get(name[0])
    return kind + name[1:] if kind and name[1:].isdigit() else name.lower()


def _open_ranges(path: Path) -> ArrayFile:
    """A remote .safetensors: its header, and of each array that is read its bytes."""
    from ...checkpoints.headers import read_header, stored_texts

    header = read_header(path)
    shapes = {name: info.shape for name, info in header.items()}
    dtypes = {name: _dtype_name(info.dtype) for name, info in header.items()}

    def read(name: str) -> NDArray[Any]:
        piece = header[name].pieces[0]
        try:
            dtype = np.dtype(dtypes[name]).newbyteorder("<")
        except TypeError as error:  # numpy has no bfloat16
            raise FormatError(f"{path}: {name}: got {dtypes[name]}: {error}") from None
        data = bytearray(piece.num_bytes)
        with open_regular(path) as stream:
            stream.seek(piece.offset)
            if stream.readinto(data) != len(data):
                raise FormatError(f"{path}: {name}: cut short")
        return np.frombuffer(data, dtype).reshape(piece.shape)

    return ArrayFile(path, shapes, dtypes, read, stored_texts(path))


def _open_safetensors(path: Path) -> ArrayFile:
    if isinstance(path, RemotePath):
        return _open_ranges(path)
    from safetensors import SafetensorError, safe_open

    check_regular(path)
    try:
        source: Any = safe_open(path, framework="numpy")  # stays open, as the archive above
        slices = {name: source.get_slice(name) for name in source.keys()}  # noqa: SIM118
        shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
        dtypes = {name: _dtype_name(part.get_dtype()) for name, part in slices.items()}
        texts = dict(source.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise FormatError(f"{path}: damaged .safetensors: {one_line(error)}") from None

    def read(name: str) -> NDArray[Any]:
        try:
            array: NDArray[Any] = source.get_tensor(name)
        except (SafetensorError, TypeError, AttributeError) as error:  # numpy has no bfloat16
            raise FormatError(f"{path}: {name}: got {dtypes[name]}: {error}") from None
        return array

    return ArrayFile(path, shapes, dtypes, read, texts)


def open_array_file(path: Path, kind: str) -> ArrayFile:
    """Open a container by kind: npy, npz or safetensors. Raises FormatError when it is damaged."""
    opener = {"npy": _open_npy, "npz": _open_npz, "safetensors": _open_safetensors}[kind]
    file = opener(path)
    for name in file.shapes:
        _check_name(name, path)
    return file


def save_safetensors(path: Path, arrays: dict[str, NDArray[Any]], origin: str) -> None:
    """Write C-ordered arrays as a safetensors file, without a copy of them in memory.

    ``origin`` is the only metadata, since several would be written in an order that changes from
    call to call: equal arrays give equal bytes.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        save_file(arrays, path, {"origin": origin})
    except (SafetensorError, OSError) as error:
        raise RoutectlError(f"{path}: cannot be written: {one_line(error)}") from None
