"""A dump written as a native file: its row groups by all processes, put together in their order."""

from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING

from ..progress import SILENT, Progress
from ..reading import Reading, reachable
from ..shards.crew import Crew
from ..shards.run import in_order
from ..shards.work import Opened, Shard, cut_runs

if TYPE_CHECKING:
    from ...codecs.dictionary import TokenDictionary
    from ...dump import Dump
    from ...formats.native.encoder import Coding
    from ...formats.native.row_groups import Encoded, NativeForm

__all__ = ["NativeOutput", "Source", "opened_source", "write_native_on"]

_SHARD_BYTES = 16 << 20  # ids of row groups that one process writes at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The dump that is converted, by name, and what it is coded against, in any process."""

    src: str
    base: str | None
    reading: Reading
    no_tokens: bool = False

    def open(self, progress: Progress = SILENT) -> "tuple[Dump, Dump | None]":
        """Both."""
        reading, base = self.reading, None
        if self.base is None:
            dump = reading.open(self.src, progress=progress)
        else:
            sides = reading.open_sides({"SRC": self.src, "the base": self.base}, progress)
            dump, base = sides.values()
        return dump.without_tokens() if self.no_tokens else dump, base

    def reachable(self) -> "Source":
        """The same, for other processes."""
        base = None if self.base is None else reachable(self.base)
        return Source(
            src=reachable(self.src), base=base, reading=self.reading, no_tokens=self.no_tokens
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeOutput:
    """How ids are coded, and in which folder the file will be; None for a pipe.

    ``stores``: the dictionary goes into the file.
    """

    codec: str
    keep_order: bool
    folder: Path | None
    dictionary: "TokenDictionary | None" = None
    stores: bool = False

    def coding(self, base: "Dump | None") -> "Coding | None":
        """None for plain. Raises UnsupportedError, MismatchError."""
        if self.codec == "plain":
            return None
        from ...codecs import codec_named
        from ...formats.native.encoder import Coding

        base = base if "base" in codec_named(self.codec).needs else None
        return Coding(self.codec, self.keep_order, base, self.dictionary, self.stores)

    def form(self, dump: "Dump", base: "Dump | None") -> "NativeForm":
        """What is written of a dump."""
        from ...formats.native.row_groups import native_form

        return native_form(dump.meta, self.coding(base), self.folder)


def opened_source(
    source: Source, output: NativeOutput, found: "tuple[Dump, Dump | None]"
) -> "Opened[tuple[Dump, NativeForm]]":
    """What is converted, which this process has opened, and how: for any process."""
    value = found[0], output.form(*found)
    return Opened(partial(_open, source.reachable(), output), value)


def _open(source: Source, output: NativeOutput) -> "tuple[Dump, NativeForm]":
    found = source.open()
    return found[0], output.form(*found)


@dataclass(frozen=True, slots=True, eq=False)
class _Writing:
    """The row groups of a file, in shards: each process opens the dump once."""

    opened: "Opened[tuple[Dump, NativeForm]]"
    doing: str = "converting"

    def cut(self, most: int) -> list[Shard]:
        """Some row groups each; few enough that several shards are in memory, whatever ``most``."""
        from ...formats.native.row_groups import group_runs

        dump, form = self.opened()
        rows_B = dump.rows()
        assert rows_B is not None
        runs = group_runs(rows_B, form)
        weights = [int(rows_B[run.start : run.stop].sum()) * form.row_bytes for run in runs]
        shards = []
        for part in cut_runs(weights, max(1, len(weights)), _SHARD_BYTES):
            groups = runs[part.start : part.stop]
            samples = range(groups[0].start, groups[-1].stop) if groups else range(0)
            name = f"{dump.meta.path}: samples {samples.start} to {samples.stop - 1}"
            weight = sum(weights[part.start : part.stop])
            shards.append(Shard(name, weight, len(samples), groups))
        return shards

    def partial(self, shard: Shard) -> "list[Encoded]":
        """The row groups of a shard, each as a file of its own."""
        dump, form = self.opened()
        return [form.encoded([dump[i] for i in run]) for run in shard.of]


def write_native_on(
    crew: Crew, opened: "Opened[tuple[Dump, NativeForm]]", stream: IO[bytes], progress: Progress
) -> int | None:
    """Write a native file to a stream, by all processes of a crew; returns how many samples.

    None, and nothing is written, for a dump that does not know the rows of its samples before they
    are read: which of them make a row group is not known, then.
    """
    from ...formats.native.row_groups import write_encoded

    dump, form = opened()
    if dump.rows() is None:
        return None
    with closing(in_order(_Writing(opened), crew, progress)) as shards:
        return write_encoded((group for shard in shards for group in shard), form, stream)
