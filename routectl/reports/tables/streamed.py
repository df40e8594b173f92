"""The table of compared samples, made as they come: record batches, in memory or in a Parquet file.

No Python object a sample is kept.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from ...ops.diff.result import ComparedSample
from .diff import SAMPLE_COLUMNS, cells_of_sample
from .frame import arrow_batch, arrow_schema

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["ParquetSamples", "SampleRows", "parquet_samples", "table_of_samples"]

_TOGETHER = 4096  # rows of a batch
_GROUP = 1 << 16  # rows of a row group


class SampleRows:
    """Compared samples as record batches: about 100 bytes each, beside the name."""

    def __init__(self) -> None:
        self._rows: list[tuple[Any, ...]] = []
        self._batches: list[pa.RecordBatch] = []

    def add(self, one: ComparedSample) -> None:
        """Put a sample at the end."""
        self._rows.append(cells_of_sample(one))
        if len(self._rows) >= _TOGETHER:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._batches.append(arrow_batch(SAMPLE_COLUMNS, self._rows))
            self._rows = []

    @property
    def batches(self) -> "tuple[pa.RecordBatch, ...]":
        """All samples so far."""
        self._flush()
        return tuple(self._batches)


def table_of_samples(batches: "Iterable[pa.RecordBatch]") -> "pa.Table":
    """The table of compared samples, as ``to_arrow("samples")`` gives it."""
    import pyarrow as pa

    return pa.Table.from_batches(batches, arrow_schema(SAMPLE_COLUMNS))


class ParquetSamples:
    """A Parquet file of compared samples that is being written; see ``parquet_samples``."""

    def __init__(self, stream: IO[bytes]) -> None:
        import pyarrow.parquet as pq

        self._writer = pq.ParquetWriter(stream, arrow_schema(SAMPLE_COLUMNS), compression="zstd")
        self._waiting: list[pa.RecordBatch] = []
        self._count = 0

    def write(self, batches: "Iterable[pa.RecordBatch]") -> None:
        """Put batches at the end; at most a row group of them stays in memory."""
        for batch in batches:
            self._waiting.append(batch)
            self._count += batch.num_rows
            if self._count >= _GROUP:
                self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(table_of_samples(self._waiting))
            self._waiting, self._count = [], 0

    def close(self, *, whole: bool = True) -> None:
        """Write what waits, unless the file is given up, and its end."""
        if whole:
            self._flush()
        self._writer.close()


@contextmanager
def parquet_samples(stream: IO[bytes]) -> Iterator[ParquetSamples]:
    """Write the table of compared samples to a stream as they come, in row groups of about 65,536.

    Columns, their units and what they say are those of ``to_arrow("samples")``.
    """
    table = ParquetSamples(stream)
    try:
        yield table
    except BaseException:
        table.close(whole=False)  # while the stream is open: a writer that is dropped closes later
        raise
    table.close()
