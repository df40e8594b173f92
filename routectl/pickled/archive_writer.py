"""Archives as torch.save writes them, without torch: tensors go to the file as they come.

Sources: torch 2.13 (serialization._save), tensordict 0.15 (_reductions).
"""

import struct
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from typing import IO, Any

from numpy.typing import NDArray

from ..files.scratch import scratch_file
from .opcodes import Chunks, Made, Name, PersistentId, Streamed, chunks_of, emit_pickle

__all__ = ["TorchArchive", "spooled", "tensordict_archive", "torch_archive"]

_ALIGNED = 64  # bytes, as torch aligns the storages that it maps
_ZIP64 = 20  # bytes that zipfile adds to the header of a great member
_STORAGES = {
    "bool": "BoolStorage",
    "uint8": "ByteStorage",
    "int8": "CharStorage",
    "int16": "ShortStorage",
    "int32": "IntStorage",
    "int64": "LongStorage",
    "float32": "FloatStorage",
    "float64": "DoubleStorage",
}


def spooled(file: IO[bytes]) -> Chunks:
    """All that was written to a temporary file."""
    size = file.seek(0, 2)

    def pieces() -> Iterator[bytes]:
        file.seek(0)
        while piece := file.read(1 << 20):
            yield piece

    return Chunks(size, pieces)


class TorchArchive:
    """A zip of stored members: storages first, and data.pkl when all are there."""

    def __init__(self, archive: zipfile.ZipFile, stream: IO[bytes]) -> None:
        self._archive, self._stream, self._storages = archive, stream, 0
        self._add("byteorder", Chunks(6, lambda: (b"little",)))

    def _add(self, name: str, chunks: Chunks) -> None:
        info = zipfile.ZipInfo(f"archive/{name}")  # of 1980: the same dump, the same bytes
        info.file_size = chunks.size
        great = _ZIP64 if chunks.size * 1.05 > zipfile.ZIP64_LIMIT else 0
        begin = self._stream.tell() + 30 + len(info.filename) + 4 + great
        info.extra = struct.pack("<2sH", b"FB", -begin % _ALIGNED) + b"Z" * (-begin % _ALIGNED)
        with self._archive.open(info, "w") as member:
            for piece in chunks.pieces():
                member.write(piece)

    def storage(self, chunks: Chunks, kind: str, count: int) -> PersistentId:
        """Write a storage of ``count`` elements, and give what a pickle names it by."""
        number, self._storages = str(self._storages), self._storages + 1
        self._add(f"data/{number}", chunks)
        return PersistentId(("storage", Name("torch", kind), number, "cpu", count))

    def tensor(self, array: NDArray[Any] | Streamed) -> Made:
        """Write a tensor's elements, and give what a pickle makes it of."""
        shape, strides = array.shape, [1]
        for size in reversed(shape[1:]):
            strides.insert(0, strides[0] * max(size, 1))
        kind = _STORAGES[array.dtype.name]
        held = self.storage(chunks_of(array), kind, prod(shape))
        strides = strides if shape else []
        ordered = Made(Name("collections", "OrderedDict"))
        args = (held, 0, tuple(shape), tuple(strides), False, ordered)
        return Made(Name("torch._utils", "_rebuild_tensor_v2"), args)

    def finish(self, value: Any) -> None:
        """Write the pickle of ``value``, whose iterators may write tensors as they go."""
        with scratch_file() as file:
            emit_pickle(value, file, 2)
            self._add("data.pkl", spooled(file))
        self._add("version", Chunks(2, lambda: (b"3\n",)))


@contextmanager
def torch_archive(stream: IO[bytes]) -> Iterator[TorchArchive]:
    """An archive that is being written to a seekable stream."""
    with zipfile.ZipFile(stream, "w") as archive:
        yield TorchArchive(archive, stream)


def tensordict_archive(
    arrays: Mapping[str, NDArray[Any] | Streamed], samples: int, stream: IO[bytes]
) -> None:
    """Write what torch.save writes of a consolidated TensorDict [samples] with these leaves.

    A consolidated one is a storage of bytes in which each leaf has its range, padded to 8 bytes.
    """
    leaves: dict[str, Any] = {}
    end = 0
    for name, array in arrays.items():
        pad = -array.nbytes % 8
        leaves[name] = (
            f"torch.{array.dtype.name}",
            list(array.shape),
            end,
            end + array.nbytes + pad,
            pad,
        )
        end += array.nbytes + pad

    def pieces() -> Iterator[bytes | memoryview]:
        for array in arrays.values():
            yield from chunks_of(array).pieces()
            yield bytes(-array.nbytes % 8)

    about = {"device": None, "names": [None], "batch_size": [samples], "is_locked": False}
    metadata = {"cls": "TensorDict", "non_tensors": {}, "leaves": leaves, "cls_metadata": about}
    with torch_archive(stream) as archive:
        held = archive.storage(Chunks(end, pieces), "ByteStorage", end)
        tensor = (held, 0, (end,), (1,), False, Made(Name("collections", "OrderedDict")))
        args = (metadata, Made(Name("torch._utils", "_rebuild_tensor_v2"), tensor))
        maker = Name("tensordict._reductions", "_rebuild_tensordict_files_consolidated")
        archive.finish(Made(maker, args))
