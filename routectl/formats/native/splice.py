"""Row groups that were written as files of their own, put together as one Parquet file.

The bytes are those that one writer writes which is given all row groups: pages do not know where
they stand, the footer alone does (column chunks by their offsets, row groups by their ordinal).
Source: apache/parquet-format, parquet.thrift (FileMetaData, RowGroup, ColumnChunk, ColumnMetaData).
"""

from typing import IO

from .thrift import Compact

__all__ = ["Splice"]

_MAGIC = b"PAR1"
_STRUCT, _LIST = 12, 9
_ROWS, _GROUPS = 3, 4  # fields of FileMetaData
_COLUMNS, _FILE_OFFSET, _ORDINAL = 1, 5, 7  # of RowGroup
_OF_CHUNK, _META = 2, 3  # of ColumnChunk: its offset, the ColumnMetaData
_PAGES = (9, 10, 11)  # of ColumnMetaData: offsets of data, index and dictionary pages


class Splice:
    """A Parquet file that is written, a row group at a time, to a stream that may be a pipe."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._groups: list[bytes] = []
        self._rows = 0
        self._at = stream.write(_MAGIC)

    def add(self, file: bytes) -> None:
        """Put the one row group of a file behind those that are there."""
        footer = _footer_of(file)
        moved = _Copied(footer, self._at - len(_MAGIC), len(self._groups))
        self._rows += moved.file()
        self._groups.append(bytes(moved.group))
        begin, end = len(_MAGIC), len(file) - len(footer) - 8
        self._stream.write(memoryview(file)[begin:end])
        self._at += end - begin

    def end(self, empty: bytes) -> None:
        """Write the footer: that of a file without row groups, but for those that there are."""
        copied = _Copied(_footer_of(empty), 0, 0)
        footer = copied.whole(self._rows, self._groups)
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


class _Copied:
    """A footer copied byte by byte, but for numbers that say where something is."""

    def __init__(self, footer: bytes, shift: int, ordinal: int) -> None:
        self._in = Compact(footer, len(footer))
        self._shift, self._ordinal = shift, ordinal
        self._from = 0  # of what is not copied yet
        self.group = bytearray()

    def _copy(self, out: bytearray) -> None:
        """What was read since the last call."""
        out += self._in.data[self._from : self._in.at]
        self._from = self._in.at

    def _replace(self, out: bytearray, value: int, number: bytes) -> None:
        """Write another number in place of ``value``, which was read last."""
        out += self._in.data[self._from : self._in.at - len(_zigzag(value))] + number
        self._from = self._in.at

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
                    self._copy(self.group)
            else:
                self._in.skip(kind)
        return rows

    def _row_group(self) -> None:
        for number, kind in self._in.fields():
            if number == _COLUMNS and kind == _LIST:
                for _ in self._in.items():
                    self._chunk()
            elif number == _FILE_OFFSET:
                self._moved()
            elif number == _ORDINAL:
                value = self._in.signed()
                self._replace(self.group, value, _zigzag(_short(self._ordinal)))
            else:
                self._in.skip(kind)

    def _chunk(self) -> None:
        for number, kind in self._in.fields():
            if number == _OF_CHUNK:
                self._moved()
            elif number == _META and kind == _STRUCT:
                for inner, of in self._in.fields():
                    if inner in _PAGES:
                        self._moved()
                    else:
                        self._in.skip(of)
            else:
                self._in.skip(kind)

    def _moved(self) -> None:
        """An offset of the file; 0 is none."""
        value = self._in.whole()
        self._replace(self.group, value, _zigzag(value + self._shift if value else 0))

    def whole(self, rows: int, groups: list[bytes]) -> bytes:
        """The footer with so many rows, and other row groups."""
        out = bytearray()
        for number, kind in self._in.fields():
            if number == _ROWS:
                self._replace(out, self._in.whole(), _zigzag(rows))
            elif number == _GROUPS and kind == _LIST:
                self._copy(out)
                for _ in self._in.items():  # none
                    raise ValueError("a footer that has row groups already")
                count = len(groups)
                out += bytes([min(count, 15) << 4 | _STRUCT])
                out += _varint(count) if count >= 15 else b""
                for group in groups:
                    out += group
                self._from = self._in.at
            else:
                self._in.skip(kind)
        self._copy(out)
        return bytes(out)
