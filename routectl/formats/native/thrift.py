"""Thrift's compact protocol, as far as Parquet's footers and page headers use it.

pyarrow ends the process where a footer's column chunk is damaged (its ``RowGroupMetaData.column``
lets a C++ exception through), so that chunks are found here. Source: apache/thrift
(thrift-compact-protocol.md), apache/parquet-format (parquet.thrift).
"""

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import IO, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

__all__ = ["ColumnChunk", "ColumnChunks", "Compact", "read_chunks"]

_TAIL = 8  # bytes: the length of the footer, PAR1
_ROW_GROUPS, _COLUMNS, _META = 4, 1, 3  # fields of a file, of a row group, of a column chunk
_DEEP = 8  # structs and lists within each other
_LARGE = 1 << 19  # bytes of a footer that are worth a compiled loop; most commands load some anyhow
_NUMBERS = (4, 5, 6)  # types of i16, i32, i64: varints
_I32_I64 = (5, 6)
_NOTHING: dict[int, dict[int, int]] = {}
_OTHERS = "row groups without a place for each column"
_FIELDS = (4, 5, 7, 9, 11)  # of its meta data, those that a ColumnChunk has


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """An unsigned varint, and where it ends."""
    byte = data[at]
    if byte < 128:
        return byte, at + 1
    value, shift = byte & 127, 7
    while shift < 70:
        at += 1
        byte = data[at]
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at + 1
        shift += 7
    raise ValueError("a varint that does not end")


def _behind(data: bytes, at: int) -> int:
    """Where a varint ends."""
    end = at + 10
    while data[at] > 127:
        at += 1
        if at == end:
            raise ValueError("a varint that does not end")
    return at + 1


class Compact:
    """Thrift's compact protocol over bytes. Raises IndexError at their end, ValueError on damage.

    ``most`` are the fields that all structs may have together.
    """

    def __init__(self, data: bytes, most: int) -> None:
        self.data, self.at, self._left = data, 0, most

    def varint(self) -> int:
        """An unsigned varint."""
        value, self.at = _varint(self.data, self.at)
        return value

    def signed(self) -> int:
        """An i32, zigzag."""
        value = self.varint() & 0xFFFFFFFF
        return (value >> 1) ^ -(value & 1)

    def whole(self) -> int:
        """An i64, zigzag."""
        value = self.varint()
        return (value >> 1) ^ -(value & 1)

    def fields(self) -> Iterator[tuple[int, int]]:
        """Number and type of each field of a struct; whoever asks reads or skips its value."""
        number = 0
        while True:
            byte = self.data[self.at]
            self.at += 1
            if byte == 0:
                return
            number = number + (byte >> 4) if byte >> 4 else self.signed()
            self._left -= 1
            if self._left < 0:
                raise ValueError("too many fields")
            yield number, byte & 15

    def items(self) -> Iterator[int]:
        """The type of each item of a list; whoever asks reads or skips it."""
        head = self.data[self.at]
        self.at += 1
        for _ in range(head >> 4 if head >> 4 < 15 else self.varint()):
            if self.at >= len(self.data):
                raise IndexError
            yield head & 15

    def structs(self, wanted: int, depth: int = 0) -> Iterator[None]:
        """Stand before each struct of a list, a field of the struct at hand; whoever asks reads it.

        Raises ValueError where the field is there twice, of which readers may take either.
        """
        seen = False
        for number, kind in self.fields():
            if (number, kind) != (wanted, 9):
                self.skip(kind, depth)
                continue
            if seen:
                raise ValueError(f"field {wanted} twice")
            seen = True
            for item in self.items():
                if item != 12:
                    raise ValueError(f"an item of field {wanted} that is no struct")
                yield

    def skip(self, kind: int, depth: int = 0) -> None:
        """Pass over a value."""
        if kind in (9, 12):
            if depth >= _DEEP:
                raise ValueError("structs and lists within each other")
            if kind == 9:
                self._skip_list(depth + 1)
            else:
                self.numbers({}, depth + 1)
        elif kind in _NUMBERS:
            self.at = _behind(self.data, self.at)
        elif kind == 8:
            size, self.at = _varint(self.data, self.at)
            self.at += size
        elif kind == 3:
            self.at += 1
        elif kind == 7:
            self.at += 8
        elif kind not in (1, 2):
            raise ValueError(f"a value of type {kind}")

    def _skip_list(self, depth: int) -> None:
        data, at = self.data, self.at + 1
        kind, count = data[at - 1] & 15, data[at - 1] >> 4
        if count == 15:
            count, at = _varint(data, at)
        if kind in _NUMBERS:
            for _ in range(count):
                at = at + 1 if data[at] < 128 else _behind(data, at)
            self.at = at
            return
        self.at = at
        for _ in range(count):
            if self.at >= len(data):
                raise IndexError
            if kind in (1, 2):
                self.at += 1
            else:
                self.skip(kind, depth)

    def numbers(
        self,
        found: dict[int, int],
        depth: int,
        inner: Mapping[int, dict[int, int]] = _NOTHING,
        kinds: tuple[int, ...] = _I32_I64,
    ) -> None:
        """Put the fields of a struct that are of ``kinds`` where ``found`` has their numbers.

        ``inner`` are those of structs in it, by their number.
        Without a call a number, as ``fields`` would have it: most of a footer is this.
        """
        data, at, left, number = self.data, self.at, self._left, 0
        while head := data[at]:
            at, kind = at + 1, head & 15
            if head < 16:
                self.at = at
                number, at = self.signed(), self.at
            else:
                number += head >> 4
            left -= 1
            if left < 0:
                raise ValueError("too many fields")
            if kind not in _NUMBERS:
                self.at, self._left = at, left
                if kind == 12 and number in inner:
                    self.numbers(inner[number], depth + 1, _NOTHING, kinds)
                else:
                    self.skip(kind, depth)
                at, left = self.at, self._left
            elif number in found and kind in kinds:
                value, at = _varint(data, at)
                found[number] = (value >> 1) ^ -(value & 1)
            elif data[at] < 128:
                at += 1
            else:
                at = _behind(data, at)
        self.at, self._left = at + 1, left


class ColumnChunk(NamedTuple):
    """Where the pages of a column are in a row group.

    codec is the number of its compression, values counts those of all pages, stored their bytes;
    data_page and dictionary_page are offsets into the file, 0 for none.
    """

    codec: int
    values: int
    stored: int
    data_page: int
    dictionary_page: int


class ColumnChunks(Sequence[list[ColumnChunk]]):
    """The column chunks of each row group, made when they are asked for: int64 [G, C, fields]."""

    def __init__(self, found_GCF: NDArray[np.int64]) -> None:
        self._found = found_GCF

    def __len__(self) -> int:
        return len(self._found)

    @overload
    def __getitem__(self, index: int) -> list[ColumnChunk]: ...
    @overload
    def __getitem__(self, index: slice) -> "ColumnChunks": ...
    def __getitem__(self, index: int | slice) -> "list[ColumnChunk] | ColumnChunks":
        if isinstance(index, slice):
            return ColumnChunks(self._found[index])
        return [ColumnChunk(*told) for told in self._found[index].tolist()]


def read_chunks(
    stream: IO[bytes], size: int, shape: tuple[int, int]
) -> Sequence[list[ColumnChunk]]:
    """The column chunks of each row group, by the footer of a file of ``size`` bytes.

    ``shape`` is how many row groups there are, and columns. Raises ValueError where it is no
    footer, or has others.
    """
    stream.seek(max(size - _TAIL, 0))
    length = int.from_bytes(stream.read(4), "little")
    if not 0 < length <= size - _TAIL:
        raise ValueError("a footer that is not there")
    stream.seek(size - _TAIL - length)
    data = stream.read(length)
    if length >= _LARGE and prod(shape) <= length:
        return _found_in(data, shape)
    footer = Compact(data, len(data))
    try:
        found = [
            [_chunk(footer) for _ in footer.structs(_COLUMNS, 1)]
            for _ in footer.structs(_ROW_GROUPS)
        ]
    except IndexError:
        raise ValueError("a footer that is cut short") from None
    if [len(chunks) for chunks in found] != [shape[1]] * shape[0]:
        raise ValueError(_OTHERS)
    return found


def _found_in(data: bytes, shape: tuple[int, int]) -> ColumnChunks:
    """The chunks of a large footer, by a compiled loop."""
    from ...kernels.footers import CUT, FIELDS, TWICE, WRONG, find_chunks

    found_GCF = np.zeros((*shape, len(FIELDS)), np.int64)
    wrong = find_chunks(np.frombuffer(data, np.uint8), found_GCF)
    said = {CUT: "a footer that is cut short", TWICE: "row groups or columns twice", WRONG: _OTHERS}
    if wrong:
        raise ValueError(said[wrong])
    return ColumnChunks(found_GCF)


def _chunk(footer: Compact) -> ColumnChunk:
    told = dict.fromkeys(_FIELDS, 0)
    footer.numbers({}, 2, {_META: told})
    return ColumnChunk(*told.values())
