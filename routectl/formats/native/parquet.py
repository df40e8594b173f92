"""A native file as Parquet: its footer, its keys, and columns whose pages are looked at first."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, islice
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ...columns.samples import SampleColumns
from ...columns.stored_keys import StoredKeys
from ...dump import Keys, Sample, SampleBatch
from ...errors import FormatError
from ...files.reading import open_regular, size_of
from ...keys import Hashing, Texts, hash_spans
from ...limits import check_inflation
from ..documents.fields import one_line
from .groups import LARGE, Group, GroupAbout
from .pages import PageBudget
from .schema import NativeAbout, read_schema
from .table import Rows, numbers_of, valid_of

__all__ = ["GroupReader", "ParquetSource", "open_parquet", "stored_metadata"]

_BATCH = 4096  # rows whose keys are read at a time
_FEW = 8  # row groups whose keys are read at a time: there may be few in each
_KEPT_BYTES = 256 << 20  # of row groups, where samples are read out of their order
_OF_KEYS = {  # the columns that a field of a key is made of
    "sample_id": ("sample_id",),
    "tokens": ("prompt_ids", "response_ids"),
    "prompt": ("prompt_ids",),
}


@dataclass(frozen=True, slots=True)
class ParquetSource:
    """What is read once: the footer, and what it says of the dump. Keys are read as asked for."""

    path: Path
    footer: pq.FileMetaData
    about: NativeAbout
    budget: PageBudget
    sizes: tuple[int, ...]  # samples of each row group

    @property
    def keys(self) -> StoredKeys:
        """The keys of all samples."""
        return StoredKeys([self])

    def read_keys(
        self, runs: Iterable[int], fields: Sequence[str], hashing: Hashing = hash_spans
    ) -> Iterator[Keys]:
        """The keys of some row groups, a few at a time. Raises FormatError."""
        wanted = [column for field in fields for column in _OF_KEYS[field]]
        names = list(dict.fromkeys(wanted))
        with self._opened("keys") as (stream, file), _told(self.path, "keys"):
            for numbers in _few_of(runs):
                self.budget.check(stream, numbers, names)
                table = file.read_row_groups(numbers, names, use_threads=False)
                yield Rows(table, names).keys(tuple(fields), hashing)

    def group(self, number: int, about: GroupAbout) -> Group:
        """A row group. Raises FormatError where it cannot be read, ValueError for bad rows."""
        where = f"row group {number}"
        self.budget.hold()
        with self._opened(where) as (stream, file):

            def read(names: Sequence[str]) -> pa.Table:
                with _told(self.path, where):
                    self.budget.check(stream, [number], names)
                    return file.read_row_group(number, list(names), use_threads=False)

            def pages(names: Sequence[str]) -> Iterator[memoryview | None]:
                with _told(self.path, where):
                    yield from self.budget.pages(stream, number, names)

            return Group(read, pages, about, where)

    def digests(self) -> Texts:
        """The column routes_digest. Raises FormatError."""
        found = Texts()
        for batch in self._column("routes_digest"):
            for digest in batch.to_pylist():
                found.append(digest)
        return found

    def row_counts(self) -> NDArray[np.int64]:
        """The rows of each sample, 0 of one without routes. Raises FormatError."""
        batches = self._column("num_rows")
        parts = [np.where(valid_of(one), numbers_of(one), 0) for one in batches]
        rows_S: NDArray[np.int64] = np.concatenate([np.empty(0, np.int64), *parts])
        return rows_S.clip(0)

    def _column(self, name: str) -> Iterator[Any]:
        """A small column, some rows at a time."""
        with self._opened(name) as (stream, file), _told(self.path, name):
            for batch in _batches(stream, file, self.budget, [name]):
                yield batch.column(0)

    @contextmanager
    def _opened(self, what: str) -> Iterator[tuple[IO[bytes], pq.ParquetFile]]:
        with open_regular(self.path) as stream:
            with _told(self.path, what):
                file = _parquet(stream, self.footer)
            yield stream, file


class GroupReader:
    """Samples of a file, and batches of them, out of the row groups that are in memory.

    That is one, while samples are asked for in their order. Once they are not, row groups are kept
    as long as they have room, so that each is decoded once and not once a sample.
    """

    def __init__(self, source: ParquetSource, about: GroupAbout) -> None:
        self._source, self._about = source, about
        self._ends = list(accumulate(source.sizes))
        self._starts = [0, *self._ends]
        self._held: dict[int, Group] = {}  # the latest last
        self._last, self._scattered = 0, False

    @property
    def starts(self) -> NDArray[np.int64]:
        """The first sample of each row group that has some, int64."""
        sizes = np.asarray(self._source.sizes, np.int64)
        return (np.cumsum(sizes) - sizes)[sizes > 0]

    def _group(self, index: int) -> tuple[int, Group]:
        """The row group of a sample, and its number."""
        number = bisect_right(self._ends, index)
        group = self._held.pop(number, None)
        if group is None:
            self._scattered |= index > 0 and number < self._last  # 0: read anew from the start
            self._make_room()  # before the next is read
            group = self._source.group(number, self._about)
        self._held[number], self._last = group, number
        return number, group

    def _make_room(self) -> None:
        """Let go of the row groups that were not asked for longest."""
        room = _KEPT_BYTES if self._scattered else 0
        taken = sum(group.size for group in self._held.values())
        for number in list(self._held):
            if taken <= room and room:
                return
            taken -= self._held.pop(number).size

    def sample(self, index: int) -> Sample:
        """One sample. Raises FormatError."""
        where = f"{self._source.path}: sample {index}"
        try:
            number, group = self._group(index)
            sample = group.sample(index - self._starts[number], where)
        except ValueError as error:
            raise FormatError(f"{where}: damaged: {error}") from None
        if sample.routes is not None and sample.routes.ids_TLK.nbytes >= LARGE:
            del self._held[number]  # what is handed over is not kept
        return sample

    def columns_at(self, index: int) -> SampleColumns | None:
        """The row group of a sample as columns; None where its samples are to be read alone.

        So it is where they are large: one is let go before the next is read.
        """
        try:
            number, group = self._group(index)
            return group.columns(self._starts[number]) if group.size < LARGE else None
        except (FormatError, ValueError):
            return None

    def batch(self, index: int) -> SampleBatch | None:
        """The row group that begins at a sample; None where none does, or it is not whole."""
        if self._starts[bisect_right(self._ends, index)] != index:
            return None
        try:
            number, group = self._group(index)
            found = group.batch()
        except (FormatError, ValueError):
            return None
        del self._held[number]
        return found


def open_parquet(path: Path) -> ParquetSource:
    """The file at a path. Raises FormatError on damage, UnsupportedError as read_schema does."""
    try:
        with open_regular(path) as stream:
            file = _parquet(stream)
            footer, size = file.metadata, size_of(stream)
            about = read_schema(path, file.schema_arrow)
            groups = range(footer.num_row_groups)
            check_inflation(
                sum(footer.row_group(g).total_byte_size for g in groups), size, str(path)
            )
            budget = PageBudget(path, stream, footer, size)
            sizes = tuple(footer.row_group(g).num_rows for g in groups)
            return ParquetSource(path, footer, about, budget, sizes)
    except (pa.ArrowException, OSError, ValueError) as error:
        said = one_line(error)
        if "magic bytes not found in footer" in said:  # what pyarrow says of no end
            said = "cut short? It ends without a footer"
        raise FormatError(f"{path}: damaged Parquet: {said}") from None


def stored_metadata(path: Path, name: str) -> bytes | None:
    """A value of the footer's key-value metadata; None where it has none of the name."""
    with open_regular(path) as stream:
        found: bytes | None = (_parquet(stream).metadata.metadata or {}).get(name.encode())
        return found


def _few_of(numbers: Iterable[int]) -> Iterator[list[int]]:
    """So many row groups at a time."""
    left = iter(numbers)
    while few := list(islice(left, _FEW)):
        yield few


def _parquet(stream: IO[bytes], footer: pq.FileMetaData | None = None) -> pq.ParquetFile:
    return pq.ParquetFile(
        stream, metadata=footer, page_checksum_verification=True, pre_buffer=False
    )


@contextmanager
def _told(path: Path, what: str) -> Iterator[None]:
    """What Parquet says of damage, as a FormatError."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        raise FormatError(f"{path}: {what}: damaged: {one_line(error)}") from None


def _batches(
    stream: IO[bytes], file: pq.ParquetFile, budget: PageBudget, names: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """Columns of all rows, each row group's looked at before it is read."""
    for group in range(file.num_row_groups):
        budget.check(stream, [group], names)
        yield from file.iter_batches(
            _BATCH, row_groups=[group], columns=list(names), use_threads=False
        )
