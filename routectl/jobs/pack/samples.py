"""The samples of a dump that are packed: how long each is, which are damaged, where rows stand."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...columns.stored_keys import in_columns
from ...damage import DamagedSampleError
from ...errors import FormatError, MismatchError, RoutectlError
from ..progress import Progress
from ..shards.crew import ALONE, Crew
from ..shards.run import added
from ..shards.work import Opened, Shard, cut_runs, sample_bytes, starts_in
from .layout import Layout

if TYPE_CHECKING:
    from ...dump import Dump, Sample
    from ...layouts.packing import Packing
    from ...ops.pack.coverage import Starts

__all__ = ["Allowed", "Skipped", "Taken", "early_rows", "held_if_small", "take_samples"]

_HELD_BYTES = 64 << 20  # of a micro-batch's routes that are kept for all its ranks
_MEASURED_BYTES = 1 << 20  # of one layer, say, that one process measures at a time
_NAMED = 20  # skipped samples that a note names
_EARLY = (
    "DUMP::start=S when that is how the engine counts, --allow-missing when the trainer routes the "
    "rest itself, or --skip-damaged"
)
_DAMAGED = "--skip-damaged leaves out samples that are damaged"


@dataclass(frozen=True, slots=True)
class Allowed:
    """What the user lets pass: missing rows, samples left out, a start given; guessed starts."""

    missing: bool = False
    skipping: bool = False
    start: int | None = None
    guesses: bool = False


@dataclass(frozen=True, slots=True)
class Skipped:
    """A damaged sample that is left out, by its place in the dump, and why."""

    sample: int
    sample_id: str | None
    why: str

    @property
    def name(self) -> str:
        """Its id, or its place where it has none."""
        return str(self.sample) if self.sample_id is None else self.sample_id


@dataclass(frozen=True, slots=True)
class Taken:
    """The samples that are packed, and those left out.

    dump has the packed ones alone, lens their tokens; ids and all_lens are of all samples of the
    dump as it was, with 0 for one that was left out: plans name samples by their place there.
    """

    dump: "Dump"
    lens: list[int]
    skipped: tuple[Skipped, ...]
    ids: list[str | None]
    all_lens: list[int]


def _length(sample: "Sample", where: str, layout: Layout) -> int:
    """N. Raises MismatchError when it is not known, or beyond the context."""
    tokens = sample.num_tokens
    if tokens is None and sample.routes is not None and layout.rows is not None:
        tokens = sample.routes.stop + (layout.rows == "n-1")
    if tokens is None:
        raise MismatchError(
            f"{where}: the dump does not say how many tokens it has",
            hint="--layout rows=n-1 when its rows are all tokens but the last, rows=n when all",
        )
    if layout.context is not None and tokens > layout.context:
        raise MismatchError(f"{where} has {tokens} tokens, context is {layout.context}")
    return tokens


def take_samples(
    dump: "Dump",
    layout: Layout,
    allowed: Allowed,
    progress: Progress,
    crew: Crew = ALONE,
    origin: "Opened[Dump] | None" = None,
) -> Taken:
    """Measure the samples. Reads one layer of a native file, all of any other.

    ``origin`` is how the processes of a crew open the dump; None where this one alone has it.

    A damaged sample is one that its reader refuses, or whose rows do not fit its tokens; it is left
    out where that is allowed, and all of every sample is read then. Raises MismatchError when a
    length is not known or beyond the context, and where it was guessed in different ways where rows
    begin; FormatError, MismatchError on a damaged sample.
    """
    work = _Measuring(Opened(lambda: dump, dump) if origin is None else origin, layout, allowed)
    found = added(work, crew, progress)
    lens = [found.lens[i] for i in range(len(dump))]
    starts, faults = found.starts, found.faults
    if not allowed.guesses:
        starts.check(dump.meta.path)
    early = early_rows(starts, dump.meta.path, allowed)
    if early and not allowed.skipping:
        raise next(iter(early.values()))
    faults |= early
    kept = [i for i in range(len(dump)) if i not in faults]
    if not kept:
        left = f": all {len(faults)} are damaged" if faults else ""
        raise MismatchError(f"{dump.meta.path}: no samples{left}: nothing to pack")
    ids = list(in_columns(dump.keys).ids)
    left_out = tuple(Skipped(i, ids[i], str(faults[i])) for i in sorted(faults))
    _note(left_out, progress)
    all_lens = [0 if i in faults else n for i, n in enumerate(lens)]
    part = dump.select(samples=kept) if faults else dump
    return Taken(part, [lens[i] for i in kept], left_out, ids, all_lens)


@dataclass(frozen=True, slots=True, eq=False)
class _Measured:
    """Samples by their place: how many tokens each has, where rows begin, what is wrong."""

    lens: dict[int, int]
    starts: "Starts"
    faults: dict[int, RoutectlError]

    def __add__(self, other: "_Measured") -> "_Measured":
        return _Measured(
            self.lens | other.lens, self.starts + other.starts, self.faults | other.faults
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Measuring:
    """The samples of a dump measured, some in each shard."""

    dump: "Opened[Dump]"
    layout: Layout
    allowed: Allowed
    doing: str = "measuring"

    def cut(self, most: int) -> list[Shard]:
        """Runs of samples; the bytes of what is read of them."""
        dump = self.dump()
        sizes_S = sample_bytes(dump)
        if not self.allowed.skipping:
            sizes_S //= len(dump.meta.layers_L)
        starts, shards = starts_in(dump, range(len(dump))), []
        for run in cut_runs(sizes_S, most, _MEASURED_BYTES, starts=starts):
            weight = int(sizes_S[run.start : run.stop].sum())
            name = f"{dump.meta.path}: samples {run.start} to {run.stop - 1}"
            shards.append(Shard(name, weight, len(run), run))
        return shards

    def partial(self, shard: Shard) -> _Measured:
        """What the samples of a shard are like. Raises FormatError, MismatchError."""
        from ...ops.pack.coverage import Starts, counts_one_less

        dump, allowed = self.dump(), self.allowed
        declared = allowed.start is not None or counts_one_less(dump.meta.engine)
        found = _Measured({}, Starts(declared), {})
        part = dump.select(layers=None if allowed.skipping else dump.meta.layers_L[:1])
        for i in shard.of:
            fault = _measure(part, i, self.layout, found.lens, found.starts)
            if fault is not None and not allowed.skipping:
                raise fault
            if fault is not None:
                found.faults[i] = fault
        return found


def _measure(
    dump: "Dump", i: int, layout: Layout, lens: dict[int, int], starts: "Starts"
) -> RoutectlError | None:
    """Note a sample's length and start; what is wrong with the sample itself is returned."""
    where = f"{dump.meta.path}: sample {i}"
    lens[i] = 0
    try:
        sample = dump[i]
    except (FormatError, MismatchError) as error:
        damaged = isinstance(error, DamagedSampleError)
        error.hint = _DAMAGED if damaged or error.hint is None else error.hint
        return error
    lens[i] = _length(sample, where, layout)
    last = -1 if sample.routes is None else sample.routes.stop - 1
    if last >= lens[i]:
        return MismatchError(
            f"{where}: has a route at position {last}, but {lens[i]} tokens", hint=_DAMAGED
        )
    starts.add(i, sample)
    return None


def early_rows(starts: "Starts", path: str, allowed: Allowed) -> dict[int, RoutectlError]:
    """What is wrong with samples whose rows end early; nothing where rows may be missing."""
    early = [] if allowed.missing else starts.early()
    rows = "a row" if {starts.short[i] for i in early} == {1} else "rows"
    told = (
        f"{path}: {len(early)} of {len(starts.at)} samples lack {rows} at the end that never came: "
        f"{starts.listed(early)}"
    )
    return {i: MismatchError(told, hint=_EARLY) for i in early}


def held_if_small(part: "Dump", packing: "Packing") -> "Dump":
    """A micro-batch's samples: in memory for its ranks where they are few, else read one by one.

    So memory is bounded by one sample, at the price of reading the samples again for each rank.
    """
    from ...routes import ids_dtype

    meta = part.meta
    row_bytes = len(meta.layers_L) * meta.top_k * ids_dtype(meta.num_experts).itemsize
    return part.held() if sum(packing.lens) * row_bytes <= _HELD_BYTES else part


def _note(skipped: Sequence[Skipped], progress: Progress) -> None:
    """Say how many samples are left out, which, and why the first is."""
    if not skipped:
        return
    names = ", ".join(one.name for one in skipped[:_NAMED])
    more = f" and {len(skipped) - _NAMED:,} more" if len(skipped) > _NAMED else ""
    count = "1 damaged sample" if len(skipped) == 1 else f"{len(skipped):,} damaged samples"
    progress.note(f"skipped {count}: {names}{more}; the first: {skipped[0].why}")
