"""Samples as the row groups of a native file: which go together, and how they are written.

A row group does not depend on those before it: several may be written at once, each as a file of
its own, and be put together (``splice.py``) to the same bytes as one after the other.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ...codecs import codec_named
from ...dump import DumpMeta, Sample
from ...files.places import place_of
from ...gate_logprobs import digest_routes
from ...routes import ids_dtype
from .bases import base_path, check_base
from .columns import arrow_columns
from .rows import row_of
from .schema import COLUMNS, DIGEST, CodedAbout, schema_of
from .splice import RowGroup, Splice, row_group_of

if TYPE_CHECKING:
    from .encoder import Coding  # late elsewhere: plain files need no compiled loops

__all__ = [
    "Encoded",
    "NativeForm",
    "group_runs",
    "grouped",
    "native_form",
    "write_encoded",
]

_GROUP_BYTES = 4 << 20  # ids in a row group: what reading one sample at random costs at most
_GROUP_ROWS = 4096


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """A row group as a file of its own, and the digests of its samples' routes, as text."""

    group: RowGroup
    digests: tuple[bytes, ...]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class NativeForm:
    """How samples of a dump become a native file: the schema, what is said of it, the coding."""

    meta: DumpMeta
    coding: "Coding | None"
    schema: pa.Schema
    group_bytes: int

    @property
    def row_bytes(self) -> int:
        """Bytes of ids of a token in all layers."""
        width = ids_dtype(self.meta.num_experts).itemsize
        return len(self.meta.layers_L) * self.meta.top_k * width

    @property
    def stored(self) -> dict[str, str]:
        """What the footer holds beside the digest: a dictionary of the file's own."""
        coding = self.coding
        if coding is None or coding.dictionary is None or not coding.stores:
            return {}
        from .dictionaries import stored_dictionary

        return stored_dictionary(coding.dictionary)

    def writer(self, stream: IO[bytes]) -> pq.ParquetWriter:
        """What writes row groups to a stream."""
        small = [name for name, _ in COLUMNS if name not in ("logprobs", "missing")]
        options: dict[str, Any] = {
            "compression": "zstd",
            "use_dictionary": small,
            "write_statistics": ["sample_id"],
            "write_page_checksum": True,
            "data_page_size": _GROUP_BYTES,
        }
        return pq.ParquetWriter(stream, self.schema, **options)

    def table(self, group: list[Sample]) -> tuple[pa.Table, list[bytes]]:
        """The samples of a row group as a table, and the digest of each one's routes."""
        group, more = _coded(group, self.meta, self.coding)
        rows = [row_of(sample) | coded for sample, coded in zip(group, more, strict=True)]
        for row, sample in zip(rows, group, strict=True):
            row["routes_digest"] = None if sample.routes is None else digest_routes(sample.routes)
        cells = arrow_columns(group, self.meta, coded=self.coding is not None)
        columns = [
            cells[f.name] if f.name in cells else pa.array([r.get(f.name) for r in rows], f.type)
            for f in self.schema
        ]
        digests = [(row["routes_digest"] or "-").encode() for row in rows]
        return pa.Table.from_arrays(columns, schema=self.schema), digests

    def encoded(self, group: list[Sample]) -> Encoded:
        """A row group as a file of its own."""
        table, digests = self.table(group)
        stream = BytesIO()
        with self.writer(stream) as writer:
            writer.write_table(table, len(group))
        return Encoded(row_group_of(stream.getvalue()), tuple(digests))


def _coded(
    group: list[Sample], meta: DumpMeta, coding: "Coding | None"
) -> tuple[list[Sample], list[dict[str, Any]]]:
    """Samples as they are coded, and what their rows have for it."""
    if coding is None:
        return group, [{}] * len(group)
    from .encoder import code_group, coded_sample

    group = [coded_sample(sample, sorts=coding.sorts) for sample in group]
    return group, code_group(group, meta, coding)


def native_form(meta: DumpMeta, coding: "Coding | None", folder: Path | None = None) -> NativeForm:
    """The form of samples of ``meta``; the base's path is kept relative to ``folder``.

    Raises MismatchError for a base or a dictionary of another model.
    """
    coded, group_bytes = None, _GROUP_BYTES
    if coding is not None:
        base = coding.base
        path = None
        if base is not None:
            check_base(base, meta)
            at = place_of(base.meta.path) if base.meta.path else None  # a program's own has none
            path = base_path(at, folder or Path()) if at is not None and at.is_file() else None
        named = None
        if coding.dictionary is not None:
            from .dictionaries import check_dictionary

            check_dictionary(coding.dictionary, meta)
            named = coding.dictionary.digest.hex()
        coded = CodedAbout(coding.codec, coding.sorts, path, named)
        group_bytes = codec_named(coding.codec).group_bytes
        meta = dataclasses.replace(meta, order="unknown") if coding.sorts else meta
    return NativeForm(meta, coding, schema_of(meta, coded), group_bytes)


def grouped(samples: Iterable[Sample], group_bytes: int) -> Iterator[list[Sample]]:
    """Samples, a row group at a time."""
    group: list[Sample] = []
    size = 0
    for sample in samples:
        group.append(sample)
        size += 0 if sample.routes is None else sample.routes.ids_TLK.nbytes
        if size >= group_bytes or len(group) >= _GROUP_ROWS:
            yield group
            group, size = [], 0
    if group:
        yield group


def group_runs(rows_S: NDArray[np.int64], form: NativeForm) -> list[range]:
    """Which samples ``grouped`` puts together, of so many rows each."""
    runs, begin, size = [], 0, 0
    for i, rows in enumerate(rows_S.tolist(), 1):
        size += rows * form.row_bytes
        if size >= form.group_bytes or i - begin >= _GROUP_ROWS:
            runs.append(range(begin, i))
            begin, size = i, 0
    return [*runs, range(begin, len(rows_S))] if begin < len(rows_S) else runs


def write_encoded(groups: Iterable[Encoded], form: NativeForm, stream: IO[bytes]) -> int:
    """Write row groups in their order, as ``stream_native`` would; returns how many samples."""
    splice, count, digest = Splice(stream), 0, hashlib.blake2b(digest_size=16)
    for group in groups:
        splice.add(group.group)
        count += len(group.digests)
        digest.update(b"".join(group.digests))
    empty = BytesIO()
    with form.writer(empty) as writer:
        writer.add_key_value_metadata({DIGEST: digest.hexdigest(), **form.stored})
    splice.end(empty.getvalue())
    return count
