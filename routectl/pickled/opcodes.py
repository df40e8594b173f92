"""Pickles written by their opcodes, so that what they name need not be installed.

No memo is kept: what is written is a tree. Lists may be iterators, whose items are made as they
are written, and bytes may come in pieces. Sources: Python's pickletools (protocols 2 and 4), numpy
2.4 (_core.multiarray).
"""

import io
import pickle
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Chunks",
    "Made",
    "Name",
    "PersistentId",
    "Streamed",
    "chunks_of",
    "emit_pickle",
    "numbers_array",
    "objects_array",
]

_NUMBERS = (int, float, bool)


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
class PersistentId:
    """What the reader is asked for by this id."""

    pid: tuple[Any, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Chunks:
    """So many bytes, which come in pieces."""

    size: int
    pieces: Callable[[], Iterable[bytes | memoryview]]


@dataclass(frozen=True, slots=True, eq=False)
class Streamed:
    """An array that comes in pieces along its first axis, each made when it is written."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    pieces: Callable[[], Iterable[NDArray[Any]]]

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return prod(self.shape) * self.dtype.itemsize


def chunks_of(array: NDArray[Any] | Streamed) -> Chunks:
    """The bytes of an array, little-endian, in C order."""
    little = array.dtype.newbyteorder("<")

    def pieces() -> Iterator[memoryview]:
        for piece in array.pieces() if isinstance(array, Streamed) else (array,):
            yield np.ascontiguousarray(piece, little).reshape(-1).view(np.uint8).data

    return Chunks(array.nbytes, pieces)


def _sized(opcode: bytes, form: str, data: bytes | memoryview) -> tuple[bytes, bytes | memoryview]:
    return opcode + struct.pack(form, len(data)), data


def _items(stream: IO[bytes], opening: bytes, items: Iterable[Any], closing: bytes) -> None:
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
    elif isinstance(value, PersistentId):
        _emit(value.pid, stream)
        stream.write(b"Q")
    elif isinstance(value, str):
        stream.writelines(_sized(b"X", "<I", value.encode("utf-8", "surrogatepass")))
    elif isinstance(value, bytes | memoryview):
        stream.writelines(_sized(b"\x8e", "<Q", value))
    elif isinstance(value, Chunks):
        stream.write(b"\x8e" + struct.pack("<Q", value.size))
        written = sum(stream.write(piece) for piece in value.pieces())
        assert written == value.size
    elif isinstance(value, tuple):
        _items(stream, b"(", value, b"t")
    elif (
        isinstance(value, list) and not all(type(item) in _NUMBERS for item in value)
    ) or isinstance(value, Iterator):
        _items(stream, b"](", value, b"e")
    elif isinstance(value, dict):
        _items(stream, b"}(", [part for pair in value.items() for part in pair], b"u")
    else:
        assert value is None or isinstance(value, bool | int | float | list), type(value)
        stream.write(_plain(value))


def _plain(value: Any) -> bytes:
    """The opcodes of a number, None or a list of numbers."""
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, 2)
    pickler.fast = True  # without a memo
    pickler.dump(value)
    return buffer.getvalue()[2:-1]


def emit_pickle(value: Any, stream: IO[bytes], protocol: int = 4) -> None:
    """Write a pickle of Names, Made, plain values, iterators (as lists) and Chunks (as bytes).

    Protocol 2 has no opcode for bytes: it takes neither them nor Chunks.
    """
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


def _old_bytes(data: bytes) -> Made:
    """Bytes as protocol 2 has them."""
    return Made(Name("_codecs", "encode"), (data.decode("latin-1"), "latin1"))


def numbers_array(array: NDArray[Any]) -> Made:
    """A numpy array of numbers, as pickle writes it at protocol 2."""
    code = array.dtype.str[1:]
    dtype = Made(Name("numpy", "dtype"), (code, False, True), (3, "<", None, None, None, -1, -1, 0))
    empty = (Name("numpy", "ndarray"), (0,), _old_bytes(b"b"))
    data = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
    state = (1, array.shape, dtype, False, _old_bytes(data))
    return Made(Name("numpy._core.multiarray", "_reconstruct"), empty, state)
