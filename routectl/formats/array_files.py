"""The three array containers as one: names, shapes and dtypes at hand, arrays read on demand."""

import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ..errors import FormatError
from .limits import check_inflation
from .payload import from_npy, npy_header

__all__ = ["ArrayFile", "open_array_file"]


@dataclass(slots=True)
class ArrayFile:
    """Arrays by name. ``texts`` are its strings: safetensors metadata, or 0-d string arrays."""

    path: Path
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]
    read: Callable[[str], NDArray[Any]]
    texts: dict[str, str] = field(default_factory=dict)


def _open_npy(path: Path) -> ArrayFile:
    with path.open("rb") as stream:
        shape, dtype, _ = npy_header(stream, str(path))
    name = path.name.removesuffix(".npy")
    return ArrayFile(
        path, {name: shape}, {name: str(dtype)}, lambda _: from_npy(path.read_bytes(), str(path))
    )


def _open_npz(path: Path) -> ArrayFile:
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise FormatError(f"{path}: damaged .npz: {error}") from None

    def member(name: str) -> bytes:
        with zipfile.ZipFile(path) as source:
            info = source.getinfo(f"{name}.npy")
            check_inflation(info.file_size, info.compress_size, f"{path}: {name}")
            return source.read(info)

    def read(name: str) -> NDArray[Any]:
        try:
            return from_npy(member(name), f"{path}: {name}")
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
            raise FormatError(f"{path}: {name}: damaged .npz entry: {error}") from None

    result = ArrayFile(path, {}, {}, read)
    with archive:
        for info in archive.infolist():
            if not info.filename.endswith(".npy"):
                raise FormatError(f"{path}: {info.filename}: not an array, expected a .npz")
            name = info.filename.removesuffix(".npy")
            if name in result.shapes:
                raise FormatError(f"{path}: {name}: there twice")
            try:
                with archive.open(info) as stream:
                    shape, dtype, _ = npy_header(stream, f"{path}: {name}")
            except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
                raise FormatError(f"{path}: {name}: damaged .npz entry: {error}") from None
            result.shapes[name] = shape
            result.dtypes[name] = str(dtype)
            if shape == () and dtype.kind == "U":
                result.texts[name] = str(read(name))
    return result


def _open_safetensors(path: Path) -> ArrayFile:
    from safetensors import SafetensorError, safe_open

    def read(name: str) -> NDArray[Any]:
        with safe_open(path, framework="numpy") as source:
            array: NDArray[Any] = source.get_tensor(name)
            return array

    try:
        with safe_open(path, framework="numpy") as source:
            slices = {name: source.get_slice(name) for name in source.keys()}  # noqa: SIM118
            shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
            dtypes = {name: part.get_dtype().lower() for name, part in slices.items()}
            texts = dict(source.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise FormatError(f"{path}: damaged .safetensors: {error}") from None
    return ArrayFile(path, shapes, dtypes, read, texts)


def open_array_file(path: Path, kind: str) -> ArrayFile:
    """Open a container by kind: npy, npz or safetensors. Raises FormatError when it is damaged."""
    opener = {"npy": _open_npy, "npz": _open_npz, "safetensors": _open_safetensors}[kind]
    return opener(path)
