"""Files of torch.save, mapped: what a pickle says, and tensors over the bytes of their storages.

Neither torch nor tensordict is needed, and a trainer's own torch.load beside it is not disturbed.
Source: torch 2.13 (_utils, serialization).
"""

import mmap
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError
from ..files.reading import open_mappable, size_of
from .archives import Archive, read_directory
from .dtypes import bytes_of, numpy_dtype
from .members import Member
from .names import DUMPS
from .reading import load_pickle
from .records import PickledCall, Storage, StoredTensor

__all__ = ["MappedTensor", "load_torch"]


class _MappedStorage:
    """A storage of a mapped file, held against its CRC when it is first used."""

    def __init__(self, pages: mmap.mmap, member: Member) -> None:
        self._pages, self._member = pages, member
        self._sound = False
        self.size = member.size

    def checked(self) -> mmap.mmap:
        """The mapped file. Raises FormatError where the storage is not what was written."""
        if not self._sound:
            self._member.check_mapped(self._pages, "its archive")
            self._sound = True
        return self._pages


@dataclass(frozen=True, eq=False)
class MappedTensor:
    """A tensor over its storage; nothing of it is read before it is asked for.

    begin    the file's byte that is the first of the first element
    steps    elements from one to the next, along each axis
    order    < or >, of the bytes of an element
    plain    False where torch has yet to negate or conjugate the elements
    """

    storage: _MappedStorage
    dtype: str
    begin: int
    shape: tuple[int, ...]
    steps: tuple[int, ...]
    order: str
    plain: bool

    def __setstate__(self, state: Any) -> None:
        """No pickle changes it."""
        raise FormatError("a tensor with a state")

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def weight(self) -> int:
        """Elements; of an expanded one, which is refused when it is read, those that are there."""
        return min(prod(self.shape), self.storage.size)

    @property
    def array(self) -> NDArray[Any]:
        """The elements where they are, private to this process.

        Raises FormatError for a dtype that numpy has not, where shape and strides make more of the
        storage than it has, and where the storage is not what was written.
        """
        kind = numpy_dtype(self.dtype, self.order)
        if kind is None or not self.plain:
            raise FormatError(f"a tensor of {self.dtype}, expected numbers")
        if prod(self.shape) * kind.itemsize > self.storage.size:
            raise FormatError(f"a tensor {self.shape} larger than its bytes")
        strides = tuple(step * kind.itemsize for step in self.steps)
        try:
            if 0 in self.shape:
                return np.empty(self.shape, kind)
            return np.ndarray(self.shape, kind, self.storage.checked(), self.begin, strides)
        except (ValueError, OverflowError) as error:
            raise FormatError(f"a tensor {self.shape}: {error}") from None

    def narrow(self, axis: int, start: int, size: int) -> "MappedTensor":
        """``size`` of an axis from ``start`` on; raises FormatError where they are not there."""
        if not 0 <= axis < len(self.shape) or not 0 <= start <= start + size <= self.shape[axis]:
            raise FormatError(f"{size} from {start} on of axis {axis} of a tensor {self.shape}")
        shape = (*self.shape[:axis], size, *self.shape[axis + 1 :])
        begin = self.begin + start * self.steps[axis] * bytes_of(self.dtype, (1,), "")
        return replace(self, shape=shape, begin=begin)

    def rows(self) -> list["MappedTensor"]:
        """One a place of the first axis; raises FormatError where that leaves no rows."""
        if len(self.shape) < 2 or len(self) > self.storage.size:
            raise FormatError(f"a tensor {self.shape}, expected rows")
        parts = [self.narrow(0, i, 1) for i in range(len(self))]
        return [replace(part, shape=self.shape[1:], steps=self.steps[1:]) for part in parts]


@dataclass(frozen=True, slots=True)
class _Maker:
    """Makes the tensors that a pickle names, each within its storage."""

    pages: mmap.mmap
    archive: Archive
    order: str
    storages: dict[str, _MappedStorage] = field(default_factory=dict)

    def v2(self, storage: Any, offset: Any, shape: Any, strides: Any, *more: Any) -> MappedTensor:
        """``_rebuild_tensor_v2``; of ``more``, the third tells what is yet to be done to it."""
        stored = StoredTensor(storage, offset, shape, strides)
        dtype, begin, sizes, steps = self.archive.place(stored)
        member = self.archive.storage(stored)
        held = self.storages.get(member.name)
        if held is None:
            held = _MappedStorage(self.pages, member)
            self.storages[member.name] = held
        plain = not (len(more) > 2 and more[2])
        return MappedTensor(held, dtype, begin, sizes, steps, self.order, plain)

    def v3(self, storage: Any, offset: Any, shape: Any, strides: Any, *more: Any) -> MappedTensor:
        """``_rebuild_tensor_v3``, of a storage of bytes: the third of ``more`` is the dtype."""
        if not isinstance(storage, Storage) or len(more) < 3 or not isinstance(more[2], str):
            raise FormatError("a tensor without a storage or dtype")
        typed = Storage(storage.args[0], more[2])
        return self.v2(typed, offset, shape, strides, *more[:2], *more[3:])


def load_torch(path: Path) -> Any:
    """What a torch file holds: MappedTensors, plain data, numpy arrays as StoredArray.

    Raises FormatError on damage and where the pickle names anything but DUMPS (names.py),
    UnsupportedError where it names what a project's files are known by that are not readable.
    """
    try:
        with open_mappable(path) as stream:
            data, members, order = read_directory(stream, str(path))
            size = size_of(stream)
            pages = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror}") from None
    maker = _Maker(pages, Archive(None, members), "<" if order == "little" else ">")
    made = {
        "_rebuild_tensor_v2": PickledCall(maker.v2),
        "_rebuild_tensor_v3": PickledCall(maker.v3),
    }
    names = DUMPS | {("torch._utils", name): make for name, make in made.items()}
    return load_pickle(data, str(path), names, size)
