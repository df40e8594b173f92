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
from ..shards.work import Opened, Shard, cut_runs, sample_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ...codecs.dictionary import TokenDictionary
    from ...dump import Dump, Sample
    from ...formats.native.encoder import Coding
    from ...formats.native.row_groups import Encoded, NativeForm

__all__ = ["NativeOutput", "Source", "opened_source", "write_native_on"]

_SHARD_BYTES = 16 << 20  # ids of row groups that one process writes at a time
_GROUPS = 2  # at least, of a shard whose rows are not known


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
    """The row groups of a file, in shards: each process opens the dump once, where it must.

    A shard is of row groups; of samples, where their rows are not known; or of what reads these
    elsewhere, to be written in the form that is ``sent`` along.
    """

    opened: "Opened[tuple[Dump, NativeForm]]"
    sent: "NativeForm | None"
    doing: str = "converting"

    def cut(self, most: int) -> list[Shard]:
        """Some row groups each; few enough that several shards are in memory, whatever ``most``."""
        from ...formats.native.row_groups import group_runs

        dump, form = self.opened()
        rows_B = dump.rows()
        if rows_B is None:
            return self._unknown(dump, form)
        runs = group_runs(rows_B, form)
        weights = [int(rows_B[run.start : run.stop].sum()) * form.row_bytes for run in runs]
        shards = []
        for part in cut_runs(weights, max(1, len(weights)), _SHARD_BYTES):
            groups = runs[part.start : part.stop]
            samples = range(groups[0].start, groups[-1].stop) if groups else range(0)
            weight = sum(weights[part.start : part.stop])
            shards.append(Shard(_told(dump, samples), weight, len(samples), groups))
        return shards

    def _unknown(self, dump: "Dump", form: "NativeForm") -> list[Shard]:
        """Samples whose rows are known when they are read: so many bytes of the dump's own."""
        weights_S = sample_bytes(dump)
        shards = []
        for run in cut_runs(weights_S, len(dump), self._least(form)):
            of = run if self.sent is None or dump.elsewhere is None else dump.elsewhere(run)
            weight = int(weights_S[run.start : run.stop].sum())
            shards.append(Shard(_told(dump, run), weight, len(run), of))
        return shards

    def _least(self, form: "NativeForm") -> int:
        """Bytes of a shard whose rows are not known, where there are as many."""
        return max(_SHARD_BYTES, _GROUPS * form.group_bytes)

    def partial(self, shard: Shard) -> "list[Encoded]":
        """The row groups of a shard, each as a file of its own."""
        from ...formats.native.row_groups import grouped

        if callable(shard.of):
            assert self.sent is not None
            samples, form = shard.of(), self.sent
        else:
            dump, form = self.opened()
            if isinstance(shard.of, list):
                return [form.encoded([dump[i] for i in group]) for group in shard.of]
            samples = map(dump.__getitem__, shard.of)
        parts = grouped(samples, 2 * self._least(form))  # held at a time, whatever gzip had them in
        return [form.encoded(one) for part in parts for one in _even_groups(part, form.group_bytes)]


def _even_groups(samples: "list[Sample]", group_bytes: int) -> "Iterator[list[Sample]]":
    """Samples in row groups of about as many bytes each, as near to ``group_bytes`` as can be."""
    from ...formats.native.row_groups import grouped

    sizes = [0 if one.routes is None else one.routes.ids_TLK.nbytes for one in samples]
    for run in cut_runs(sizes, max(1, round(sum(sizes) / group_bytes)), 1):
        yield from grouped(samples[run.start : run.stop], sum(sizes) + 1)


def _told(dump: "Dump", samples: range) -> str:
    """What a shard is called."""
    return f"{dump.meta.path}: samples {samples.start} to {samples.stop - 1}"


def write_native_on(
    crew: Crew, opened: "Opened[tuple[Dump, NativeForm]]", stream: IO[bytes], progress: Progress
) -> int:
    """Write a native file to a stream, by all processes of a crew; returns how many samples.

    The bytes are those of one process. A row group ends where a shard does, and shards do not
    depend on who does them.
    """
    from ...formats.native.row_groups import write_encoded

    dump, form = opened()
    goes = dump.elsewhere is not None and (form.coding is None or form.coding.base is None)
    work = _Writing(opened, form if goes else None)
    with closing(in_order(work, crew, progress)) as shards:
        return write_encoded((group for shard in shards for group in shard), form, stream)
