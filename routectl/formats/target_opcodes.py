"""Pickles written by their opcodes, so that what they name need not be installed; and zips of them.

No memo is kept: what is written is a tree. Sources: Python's pickletools (protocol 4), numpy 2.4
(_core.multiarray), torch 2.13 (serialization._save), tensordict 0.15 (_reductions).
"""

import io
import pickle
import struct
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Made", "Name", "emit_pickle", "objects_array", "tensordict_archive"]


@dataclass(frozen=True, slots=True)
class Name:
    """A class or a function, by its module and name."""

    module: str
    name: str


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """What ``maker(*args)`` makes, given ``state`` unless that is None.

    new  made by the class's __new__ alone, as pickle makes an object.
    """

    maker: Name
    args: tuple[Any, ...] = ()
    state: Any = None
    new: bool = False


@dataclass(frozen=True, slots=True)
class _Persistent:
    """What the reader is asked for by this id."""

    pid: tuple[Any, ...]


def _sized(opcode: bytes, form: str, data: bytes | memoryview) -> tuple[bytes, bytes | memoryview]:
    return opcode + struct.pack(form, len(data)), data


def _items(stream: IO[bytes], opening: bytes, items: Sequence[Any], closing: bytes) -> None:
    stream.write(opening)
    for item in items:
        _emit(item, stream)
    stream.write(closing)


def _emit(value: Any, stream: IO[bytes]) -> None:
    """Write the opcodes that leave ``value`` on the stack."""
    if isinstance(value, Name):
        stream.write(f"c{value.module}\n{value.name}\n".encode())
    elif isinstance(value, Made):
        _emit(value.maker, stream)
        _items(stream, b"(", value.args, b"t\x81" if value.new else b"tR")
        if value.state is not None:
            _emit(value.state, stream)
            stream.write(b"b")
    elif isinstance(value, _Persistent):
        _emit(value.pid, stream)
        stream.write(b"Q")
    elif isinstance(value, str):
        stream.writelines(_sized(b"X", "<I", value.encode("utf-8", "surrogatepass")))
    elif isinstance(value, bytes | memoryview):
        stream.writelines(_sized(b"\x8e", "<Q", value))
    elif isinstance(value, tuple):
        _items(stream, b"(", value, b"t")
    elif isinstance(value, list):
        _items(stream, b"](", value, b"e")
    elif isinstance(value, dict):
        _items(stream, b"}(", [part for pair in value.items() for part in pair], b"u")
    else:
        assert value is None or isinstance(value, bool | int | float), type(value)
        stream.write(pickle.dumps(value, 2)[2:-1])


def emit_pickle(value: Any, stream: IO[bytes], protocol: int = 4) -> None:
    """Write a pickle of Names, Made, and plain values; bytes are copied straight to the stream."""
    stream.write(b"\x80" + bytes([protocol]))
    _emit(value, stream)
    stream.write(b".")


def objects_array(values: Sequence[Any]) -> Made:
    """A numpy array of objects, one axis, as pickle writes it."""
    dtype = Made(
        Name("numpy", "dtype"), ("O8", False, True), (3, "|", None, None, None, -1, -1, 63)
    )
    empty = (Name("numpy", "ndarray"), (0,), b"b")
    state = (1, (len(values),), dtype, False, list(values))
    return Made(Name("numpy._core.multiarray", "_reconstruct"), empty, state)


def tensordict_archive(arrays: Mapping[str, NDArray[Any]], samples: int) -> memoryview:
    """What torch.save writes of a consolidated TensorDict [samples] with these leaves.

    A consolidated one is a storage of bytes in which each leaf has its range, padded to 8 bytes.
    """
    leaves: dict[str, Any] = {}
    storage, end = io.BytesIO(), 0
    for name, array in arrays.items():
        pad = -array.nbytes % 8
        leaves[name] = (f"torch.{array.dtype.name}", list(array.shape), end,
                        end + array.nbytes + pad, pad)  # fmt: skip
        storage.write(np.ascontiguousarray(array).data)
        storage.write(bytes(pad))
        end += array.nbytes + pad
    about = {"device": None, "names": [None], "batch_size": [samples], "is_locked": False}
    metadata = {"cls": "TensorDict", "non_tensors": {}, "leaves": leaves, "cls_metadata": about}
    held = _Persistent(("storage", Name("torch", "ByteStorage"), "0", "cpu", end))
    tensor = (held, 0, (end,), (1,), False, Made(Name("collections", "OrderedDict")))
    args = (metadata, Made(Name("torch._utils", "_rebuild_tensor_v2"), tensor))
    maker = Name("tensordict._reductions", "_rebuild_tensordict_files_consolidated")
    return _archive(Made(maker, args), storage.getbuffer())


def _archive(value: Any, storage: memoryview) -> memoryview:
    """A zip of stored members, data.pkl first."""
    pickled = io.BytesIO()
    emit_pickle(value, pickled, 2)
    members: dict[str, bytes | memoryview] = {
        "data.pkl": pickled.getbuffer(),
        "byteorder": b"little",
        "data/0": storage,
        "version": b"3\n",
    }
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo(f"archive/{name}")  # of 1980: the same dump, the same bytes
            info.file_size = len(data)
            with archive.open(info, "w") as member:
                member.write(data)
    return whole.getbuffer()
