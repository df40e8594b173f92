"""The members of a torch.save archive: a zip read so strictly that no two readers can differ.

torch finds members by their names in any case, and takes the CRC of none (2.13, miniz 3); so names
are unique in any case here, what the directory says is what stands before each member, no two
members share bytes, and every byte that is used is held against its CRC.
"""

import mmap
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO

from ..errors import FormatError

__all__ = ["Member", "read_members"]

_ZIP_ERRORS = (
    zipfile.BadZipFile,
    OSError,
    EOFError,
    ValueError,
    KeyError,
    IndexError,
    OverflowError,
    NotImplementedError,
)
_END = 22  # bytes of the end record, behind which nothing comes
_LOCAL = 30  # bytes of a local header before the name
_LATER = 0x08  # CRC and sizes stand behind the bytes, and in the directory
_ALLOWED = _LATER | 0x800 | 0x06  # UTF-8 names; levels of compression: no encryption, no patches
_IN_ZIP64 = 0xFFFFFFFF
_WINDOW = 4 << 20


@dataclass(frozen=True, slots=True)
class Member:
    """Where the bytes of a member are; ``crc`` is None where torch was told to compute none."""

    name: str
    begin: int
    size: int
    crc: int | None

    def check(self, pieces: Iterable[bytes | memoryview], where: str) -> None:
        """Raise FormatError unless these are, one after the other, the bytes that were written."""
        crc = size = 0
        for piece in pieces:
            crc, size = zlib.crc32(piece, crc), size + len(piece)
        if size != self.size:
            raise FormatError(f"{where}: {self.name[:80]!a} of {self.size} bytes, got {size}")
        if self.crc not in (None, crc):
            raise FormatError(
                f"{where}: {self.name[:80]!a} is not what was written: CRC {crc:08x}, "
                f"expected {self.crc:08x}"
            )

    def check_mapped(self, pages: mmap.mmap, where: str) -> None:
        """The same of a mapped file, whose pages do not stay in memory for it."""
        self.check(self._windows(pages), where)

    def _windows(self, pages: mmap.mmap) -> Iterator[memoryview]:
        end, page = self.begin + self.size, mmap.PAGESIZE
        with memoryview(pages) as whole:
            for at in range(self.begin, end, _WINDOW):
                stop = min(at + _WINDOW, end)
                with whole[at:stop] as window:
                    yield window
                first, last = -(-at // page) * page, stop // page * page  # pages of its own
                if last > first and hasattr(pages, "madvise"):
                    pages.madvise(mmap.MADV_DONTNEED, first, last - first)

    def read(self, stream: IO[bytes], where: str) -> bytes:
        """The bytes. Raises FormatError where they are not what was written."""
        stream.seek(self.begin)
        data = stream.read(self.size)
        self.check((data,), where)
        return data


def _refuse_name(name: str, folder: str, where: str) -> None:
    first, _, rest = name.partition("/")
    parts = rest.split("/")
    plain = not any(part in ("", ".", "..") for part in parts) and "\\" not in name
    if first != folder or not plain or "\0" in name:
        raise FormatError(f"{where}: a member named {name[:80]!a}: not what torch.save writes")


def _entries(stream: IO[bytes], where: str) -> tuple[list[zipfile.ZipInfo], int]:
    """The directory's entries in the order of their bytes, and where the directory begins."""
    size = stream.seek(0, 2)
    stream.seek(max(size - _END, 0))
    last = stream.read(_END)
    if last[:4] != b"PK\x05\x06" or last[20:] != b"\0\0":
        raise FormatError(f"{where}: damaged archive: it does not end where its directory does")
    archive = zipfile.ZipFile(stream)
    entries = sorted(archive.infolist(), key=lambda info: info.header_offset)
    if not entries or entries[0].header_offset:
        raise FormatError(f"{where}: damaged archive: it does not begin with its first member")
    seen: dict[str, str] = {}
    for info in entries:
        name = info.orig_filename
        _refuse_name(name, entries[0].orig_filename.partition("/")[0], where)
        if info.flag_bits & ~_ALLOWED or info.compress_type or info.compress_size != info.file_size:
            raise FormatError(f"{where}: member {name[:80]!a} is damaged or compressed")
        other = seen.setdefault(name.casefold(), name)
        if other is not name:
            raise FormatError(f"{where}: got {other[:80]!a} and {name[:80]!a}, expected one")
    return entries, archive.start_dir


def _begin(stream: IO[bytes], info: zipfile.ZipInfo, where: str) -> int:
    """The first byte of a member, behind a local header that says what the directory says."""
    stream.seek(info.header_offset)
    head = stream.read(_LOCAL)
    numbers = [int.from_bytes(head[i : i + 4], "little") for i in (14, 18, 22)]
    flags, method, named, extra = (
        int.from_bytes(head[i : i + 2], "little") for i in (6, 8, 26, 28)
    )
    raw = stream.read(named)
    name = raw.decode("utf-8" if flags & 0x800 else "cp437", "replace")
    told = [info.CRC, info.compress_size, info.file_size]
    known = flags & _LATER or all(
        got in (want, _IN_ZIP64) for got, want in zip(numbers, told, strict=True)
    )
    same = head[:4] == b"PK\x03\x04" and (flags, method) == (info.flag_bits, info.compress_type)
    if not same or name != info.orig_filename or not known:
        raise FormatError(f"{where}: member {info.filename[:80]!a} is not what the directory says")
    return info.header_offset + _LOCAL + named + extra


def read_members(stream: IO[bytes], where: str) -> dict[str, Member]:
    """The members by their names within the archive's one folder.

    Raises FormatError for an archive that is damaged, compressed or encrypted, that has bytes
    before or behind it, names twice (in any case) or with .. in them, members that share bytes,
    or that says one thing in its directory and another before a member.
    """
    try:
        entries, end = _entries(stream, where)
        begins = [_begin(stream, info, where) for info in entries]
    except _ZIP_ERRORS as error:
        kind = type(error).__name__
        raise FormatError(f"{where}: damaged archive: {kind}: {str(error)[:120]}") from None
    ends = [begin + info.file_size for begin, info in zip(begins, entries, strict=True)]
    limits = [*(info.header_offset for info in entries[1:]), end]
    for info, stop, limit in zip(entries, ends, limits, strict=True):
        if stop > limit:
            raise FormatError(f"{where}: {info.filename[:80]!a} reaches beyond its place")
    summed = any(info.CRC for info in entries)
    return {
        (name := info.filename.partition("/")[2]): Member(
            name, begin, info.file_size, info.CRC if summed else None
        )
        for begin, info in zip(begins, entries, strict=True)
    }
