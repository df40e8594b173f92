"""What the pages of a Parquet file become in memory, from their headers, before one is decoded.

A footer may claim what it likes, and a dictionary of one large cell stands for it as often as the
data says: the reader follows the headers of pages, and so does this. Source: apache/parquet-format
(parquet.thrift, Encodings.md) and Thrift's compact protocol; parquet-cpp's SerializedPageReader
reads the pages of a chunk until they have the values that the footer counts.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import IO, Any
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from ...files.reading import read_ahead
from ...limits import check_budget, check_inflation
from .thrift import ColumnChunk, Compact, read_chunks

__all__ = ["PageBudget", "longest_text"]

_HEAD, _LARGEST_HEAD = 256, 16 << 20  # bytes read for a header first, and at most (parquet-cpp)
_FIELDS = 1000  # of a page header: there are some 20
_DICTIONARY_PAGE, _DATA, _DICTIONARY, _DATA_V2 = 2, 5, 7, 8  # a page type; fields of a page header
_I32, _NO_CRC = (5,), 1 << 40  # the type of a page header's numbers; none is so large
_CRC, _RUNS, _ZSTD = 4, 3, 6  # a field of a page header; an encoding of levels; a compression
_CODECS = {1: "snappy", 2: "gzip", 4: "brotli", 5: "lz4_raw", 6: "zstd", 7: "lz4_raw"}
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8}
_BY_DICTIONARY, _BY_PREFIX = (2, 8), 7  # encodings: PLAIN_, RLE_DICTIONARY; DELTA_BYTE_ARRAY
_LEVELS, _OFFSET, _POINTER = 4, 4, 16  # bytes: two levels of a value; an offset; an entry
_DICTIONARY_BYTES = 16 << 20  # a larger one is not taken apart
_SIZE = Struct("<I")  # of a string, before it
_ROW = 256  # bytes that a row's keys take, at least


@dataclass(frozen=True, slots=True)
class _Page:
    """A page: the first byte of its data, its sizes, and what its header says of the values."""

    begin: int
    stored: int
    size: int
    values: int
    encoding: int
    is_dictionary: bool
    crc: int | None
    is_plain: bool  # values as they are behind levels in runs


def _page(data: bytes, at: int) -> _Page | None:
    """The page whose header the data begins with; None where the header goes on beyond it.

    Raises ValueError for what is no header.
    """
    head = Compact(data, _FIELDS)
    found = {1: -1, 2: -1, 3: -1, _CRC: _NO_CRC}
    inner = {name: {1: 0, 2: 0, 3: -1, 4: 0} for name in (_DATA, _DICTIONARY, _DATA_V2)}
    try:
        head.numbers(found, 0, inner, _I32)
    except IndexError:
        return None
    if head.at > len(data):
        return None
    kind, size, stored, crc = found.values()
    of = inner.get({0: _DATA, _DICTIONARY_PAGE: _DICTIONARY, 3: _DATA_V2}.get(kind, 0), {1: 0})
    values, encoding = of[1], of.get(4 if kind == 3 else 2, 0)
    if min(kind, size, stored, values) < 0 or max(kind, size, stored, *of.values()) >= 1 << 31:
        raise ValueError("a page header without sizes")
    is_plain = kind == 0 and encoding == 0 and of[3] == _RUNS
    is_dictionary = kind == _DICTIONARY_PAGE
    told = None if crc == _NO_CRC else crc
    return _Page(at + head.at, stored, size, values, encoding, is_dictionary, told, is_plain)


def _pages(stream: IO[bytes], chunk: ColumnChunk) -> Iterator[_Page]:
    """The pages of a column chunk that a reader would read. Raises ValueError on damage."""
    at, first = chunk.data_page, chunk.dictionary_page
    if 0 < first < at:
        at = first
    end, seen = at + chunk.stored, 0
    if at < 0 or chunk.stored < 0:
        raise ValueError("a column before the file")
    while at < end and seen < chunk.values:
        size, page = _HEAD, None
        while page is None:
            stream.seek(at)
            data = stream.read(min(size, end - at))
            page = _page(data, at)
            if page is None and (size >= _LARGEST_HEAD or len(data) < size):
                raise ValueError("a page header that is cut short")
            size *= 16
        yield page
        seen += 0 if page.is_dictionary else page.values
        at = page.begin + page.stored


def _longest(stream: IO[bytes], page: _Page, codec: int) -> int:
    """Bytes of the longest entry of a dictionary of strings, or a bound of it."""
    if page.size > _DICTIONARY_BYTES:
        return page.size
    stream.seek(page.begin)
    data: Any = stream.read(page.stored)
    if codec:
        name: Any = _CODECS.get(codec, "")
        try:
            data = pa.Codec(name).decompress(data, page.size, asbytes=True)
        except (pa.ArrowException, OSError, ValueError):
            return page.size
    found = longest_text(data, page.values)
    return page.size if found is None else found


def longest_text(data: bytes, count: int) -> int | None:
    """Bytes of the longest of so many strings, each behind its size; None where one is cut."""
    first = 4 + int.from_bytes(data[:4], "little")
    if count and len(data) == count * first:  # as ids with leading zeros are: looked at together
        sizes_E4 = np.frombuffer(data, np.uint8).reshape(count, first)[:, :4]
        if (sizes_E4 == sizes_E4[0]).all():
            return first - 4
    longest = at = 0
    for _ in range(count):
        if at + 4 > len(data):
            return None
        (size,) = _SIZE.unpack_from(data, at)
        at += 4 + size
        if size > longest:
            longest = size
    return longest if at <= len(data) else None


def _is_whole(page: _Page, body: memoryview, chunk: ColumnChunk) -> bool:
    """Whether a page of plain values is all of its chunk, and its bytes what they were.

    They become as many as the page's header says.
    """
    if chunk.codec != _ZSTD or page.values != chunk.values or page.stored != len(body):
        return False
    try:
        size = zstandard.frame_content_size(body)
    except zstandard.ZstdError:
        return False
    return size == page.size and page.is_plain and page.crc in (None, _signed(crc32(body)))


def _signed(crc: int) -> int:
    """As an i32, which a header has."""
    return crc - (crc >> 31 << 32)


def _span(chunk: ColumnChunk) -> tuple[int, int]:
    """The first byte of a column chunk, and its end."""
    first = chunk.dictionary_page
    begin = first if 0 < first < chunk.data_page else chunk.data_page
    return max(begin, 0), begin + max(chunk.stored, 0)


class PageBudget:
    """The budgets of one file: decoded bytes of all columns that were looked at so far."""

    def __init__(self, path: Path, stream: IO[bytes], footer: pq.FileMetaData, size: int) -> None:
        """``size`` is that of the file. Raises FormatError where it has too many rows for it."""
        self._path, self._footer, self._size = path, footer, size
        self._groups = read_chunks(stream, size, (footer.num_row_groups, footer.num_columns))
        self._columns = {footer.schema.column(i).path: i for i in range(footer.num_columns)}
        self._seen: dict[tuple[int, int], int] = {}
        self._total = 0
        rows = [footer.row_group(g).num_rows for g in range(footer.num_row_groups)]
        if min(rows, default=1) < 1:
            raise ValueError("a row group without rows")
        check_inflation(sum(rows) * _ROW, size, f"{path}: {sum(rows)} rows")

    def hold(self) -> None:
        """Raise FormatError where what was looked at is too large; no more of the file is read."""
        check_inflation(self._total, self._size, str(self._path))

    def check(self, stream: IO[bytes], groups: Iterable[int], names: Iterable[str]) -> None:
        """Look at columns of row groups, before they are read; once each.

        Raises FormatError where a cell, or all that was looked at, would be too large; ValueError
        on damage.
        """
        wanted = {*names}
        columns = [i for path, i in self._columns.items() if path.partition(".")[0] in wanted]
        for group in groups:
            chunks = self._groups[group]
            read_ahead(stream, (_span(chunks[i]) for i in columns))
            for column in columns:
                if (group, column) in self._seen:
                    continue
                self._take(group, column, self._decoded(stream, chunks[column], column))
            self.hold()

    def pages(
        self, stream: IO[bytes], group: int, names: Sequence[str]
    ) -> Iterator[memoryview | None]:
        """What the page of each of some columns of a row group holds: levels, then values.

        None, and no more, where a column has several pages, or is not as this writes them, or
        damaged: pyarrow is to read them, and to say what is wrong. Raises as ``check`` does.
        """
        of_group = self._groups[group]
        chunks = [of_group[self._columns[name]] for name in names]
        read_ahead(stream, map(_span, chunks))
        zstd, room = zstandard.ZstdDecompressor(), memoryview(bytearray())
        for name, chunk in zip(names, chunks, strict=True):
            begin, end = _span(chunk)
            if len(room) < end - begin:
                room = memoryview(bytearray(end - begin))
            stream.seek(begin)
            data = room[: stream.readinto(room[: end - begin])]  # type: ignore[attr-defined]
            page = _page(bytes(data[:_HEAD]), begin)
            if page is None or not _is_whole(page, data[page.begin - begin :], chunk):
                yield None
                return
            body = data[page.begin - begin :]
            where = f"{self._path}: {name}: a cell: bytes"
            check_budget("cell", page.size // max(page.values, 1), where)
            self._take(group, self._columns[name], page.size + (_OFFSET + _LEVELS) * page.values)
            self.hold()
            try:
                yield memoryview(zstd.decompress(body, page.size, allow_extra_data=False))
            except zstandard.ZstdError:
                yield None
                return

    def _take(self, group: int, column: int, size: int) -> None:
        """Count what a column chunk becomes, once."""
        if (group, column) not in self._seen:
            self._seen[group, column] = size
            self._total += size

    def _decoded(self, stream: IO[bytes], chunk: ColumnChunk, column: int) -> int:
        """At most so many bytes are made of a column chunk."""
        about = self._footer.schema.column(column)
        of_bytes = about.physical_type == "BYTE_ARRAY"
        width = _WIDTHS.get(about.physical_type, about.length or 0)
        levels = _LEVELS if about.max_definition_level or about.max_repetition_level else 0
        where = f"{self._path}: {about.path}: a cell: bytes"
        total, dictionary, longest = 0, None, None
        for page in _pages(stream, chunk):
            if page.is_dictionary:
                dictionary, longest = page, None
                total += page.size + _POINTER * page.values
                continue
            made = page.values * width
            if of_bytes and page.encoding in _BY_DICTIONARY and dictionary is not None:
                if longest is None and page.values * dictionary.size > 1 << 20:
                    longest = _longest(stream, dictionary, chunk.codec)
                    check_budget("cell", longest, where)
                made = page.values * ((dictionary.size if longest is None else longest) + _OFFSET)
            elif of_bytes:
                made = (page.values if page.encoding == _BY_PREFIX else 1) * page.size
                made += _OFFSET * page.values
                if page.encoding != _BY_PREFIX:
                    check_budget("cell", page.size // max(page.values, 1), where)
            total += max(page.size, made) + levels * page.values
        return total
