"""Row groups that were written as files of their own, put together as one Parquet file.

The bytes are those that one writer writes which is given all row groups: pages do not know where
they stand, the footer alone does (column chunks by their offsets, row groups by their ordinal).
Source: apache/parquet-format, parquet.thrift (FileMetaData, RowGroup, ColumnChunk, ColumnMetaData).
"""

from dataclasses import dataclass
from typing import IO

from .thrift import Compact

__all__ = ["RowGroup", "Splice", "row_group_of"]

_MAGIC = b"PAR1"
_STRUCT, _LIST = 12, 9
_ROWS, _GROUPS = 3, 4  # fields of FileMetaData
_COLUMNS, _FILE_OFFSET, _ORDINAL = 1, 5, 7  # of RowGroup
_OF_CHUNK, _META = 2, 3  # of ColumnChunk: its offset, the ColumnMetaData
_PAGES = (9, 10, 11)  # of ColumnMetaData: offsets of data, index and dictionary pages


@dataclass(frozen=True, slots=True)
class RowGroup:
    """The one row group of a file of its own, and its place in a footer, ready to be moved.

    The footer has each of ``numbers`` behind one of ``pieces``: offsets of the file, 0 for none,
    but for the ordinal, which is the number at the place ``ordinal``; the last piece ends it.
    """

    file: bytes
    rows: int
    end: int
    pieces: tuple[bytes, ...]
    numbers: tuple[int, ...]
    ordinal: int | None

    def moved(self, shift: int, ordinal: int) -> bytes:
        """Its place in the footer of a file that has it so many bytes further on."""
        told = [_zigzag(value + shift if value else 0) for value in self.numbers]
        if self.ordinal is not None:
            told[self.ordinal] = _zigzag(_short(ordinal))
        found = [part for both in zip(self.pieces[:-1], told, strict=True) for part in both]
        return b"".join([*found, self.pieces[-1]])


def row_group_of(file: bytes) -> RowGroup:
    """The row group of a file that has one: taken apart where it was made, by any process."""
    footer = _footer_of(file)
    read = _Read(footer)
    rows = read.file()
    end = len(file) - len(footer) - 8
    return RowGroup(file, rows, end, tuple(read.pieces), tuple(read.numbers), read.ordinal)


class Splice:
    """A Parquet file that is written, a row group at a time, to a stream that may be a pipe."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._groups: list[bytes] = []
        self._rows = 0
        self._at = stream.write(_MAGIC)

    def add(self, group: RowGroup) -> None:
        """Put a row group behind those that are there."""
        begin = len(_MAGIC)
        self._groups.append(group.moved(self._at - begin, len(self._groups)))
        self._rows += group.rows
        self._stream.write(memoryview(group.file)[begin : group.end])
        self._at += group.end - begin

    def end(self, empty: bytes) -> None:
        """Write the footer: that of a file without row groups, but for those that there are."""
        footer = _whole(_footer_of(empty), self._rows, self._groups)
        self._stream.write(footer + len(footer).to_bytes(4, "little") + _MAGIC)


def _footer_of(file: bytes) -> bytes:
    size = int.from_bytes(file[-8:-4], "little")
    return file[-8 - size : -8]


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _zigzag(value: int) -> bytes:
    return _varint(value << 1 if value >= 0 else (-value << 1) - 1)


def _short(value: int) -> int:
    """As an i16 holds it, which wraps."""
    return (value + 0x8000) % 0x10000 - 0x8000


class _Read:
    """A footer's row group, byte by byte, but for numbers that say where something is."""

    def __init__(self, footer: bytes) -> None:
        self._in = Compact(footer, len(footer))
        self._from = 0  # of what is in no piece yet
        self.pieces: list[bytes] = []
        self.numbers: list[int] = []
        self.ordinal: int | None = None

    def file(self) -> int:
        """Take the one row group of a file; returns how many rows it has."""
        rows = 0
        for number, kind in self._in.fields():
            if number == _ROWS:
                rows = self._in.whole()
            elif number == _GROUPS and kind == _LIST:
                for _ in self._in.items():
                    self._from = self._in.at
                    self._row_group()
                    self.pieces.append(self._in.data[self._from : self._in.at])
            else:
                self._in.skip(kind)
        return rows

    def _row_group(self) -> None:
        for number, kind in self._in.fields():
            if number == _COLUMNS and kind == _LIST:
                for _ in self._in.items():
                    self._chunk()
            elif number == _FILE_OFFSET:
                self._number(self._in.whole())
            elif number == _ORDINAL:
                self.ordinal = len(self.numbers)
                self._number(self._in.signed())
            else:
                self._in.skip(kind)

    def _chunk(self) -> None:
        for number, kind in self._in.fields():
            if number == _OF_CHUNK:
                self._number(self._in.whole())
            elif number == _META and kind == _STRUCT:
                for inner, of in self._in.fields():
                    if inner in _PAGES:
                        self._number(self._in.whole())
                    else:
                        self._in.skip(of)
            else:
                self._in.skip(kind)

    def _number(self, value: int) -> None:
        """A number that was read last, and what stands before it."""
        self.pieces.append(self._in.data[self._from : self._in.at - len(_zigzag(value))])
        self.numbers.append(value)
        self._from = self._in.at


def _whole(footer: bytes, rows: int, groups: list[bytes]) -> bytes:
    """The footer of a file without row groups, with so many rows, and with some."""
    read, out, begin = Compact(footer, len(footer)), bytearray(), 0
    for number, kind in read.fields():
        if number == _ROWS:
            value = read.whole()
            out += footer[begin : read.at - len(_zigzag(value))] + _zigzag(rows)
            begin = read.at
        elif number == _GROUPS and kind == _LIST:
            out += footer[begin : read.at]
            for _ in read.items():  # none
                raise ValueError("a footer that has row groups already")
            count = len(groups)
            out += bytes([min(count, 15) << 4 | _STRUCT])
            out += _varint(count) if count >= 15 else b""
            out += b"".join(groups)
            begin = read.at
        else:
            read.skip(kind)
    return bytes(out + footer[begin:])
