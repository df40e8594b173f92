"""Work that is cut into shards: each gives a partial, and partials add up in any order."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from ...dump import Dump
from ...errors import FormatError

__all__ = [
    "LEAST_BYTES",
    "Opened",
    "Partial",
    "Shard",
    "Work",
    "cut_runs",
    "sample_bytes",
    "starts_in",
]

LEAST_BYTES = 8 << 20  # of a shard: two row groups of a native file
_SAMPLE_BYTES = 1 << 14  # of a sample, where nobody says
_T = TypeVar("_T")


class Partial(Protocol):
    """What a shard gives: frozen, picklable, of bounded size.

    ``a + b`` is associative and commutative in effect: whatever the cut, the order and the tree,
    the sum tells the same, to the byte.
    """

    def __add__(self, other: Self, /) -> Self:
        """Both together."""


P_co = TypeVar("P_co", covariant=True)


@dataclass(frozen=True, slots=True, eq=False)
class Shard:
    """A part of some work, picklable.

    name     what a message calls it: a file, or samples a to b of one
    weight   about how many bytes of ids are read for it
    samples  how many samples it has, for progress
    of       what the work needs to know of it: runs of indices (int64 arrays), paths
    """

    name: str
    weight: int
    samples: int
    of: Any


class Work(Protocol[P_co]):
    """What a command counts or writes, cut into shards. Picklable.

    Each process has one copy and calls ``partial`` many times: what it opens is kept in it, in an
    ``Opened``, which is pickled as the function that opens, so that a worker opens once. A work
    whose shards count something else than samples says so as ``unit``.
    """

    @property
    def doing(self) -> str:
        """What progress calls it, such as "comparing"."""

    def cut(self, most: int) -> Sequence[Shard]:
        """At least one shard and at most so many, about equal in bytes; cheap. Places are global.

        Only the process that leads calls this, once; what it has opened or joined for it goes to
        workers in the shards alone.
        """

    def partial(self, shard: Shard) -> P_co:
        """What a shard gives, which depends on nothing but the shard."""


class Opened(Generic[_T]):
    """What a process opens once, when it is first asked for; another process opens it anew.

    ``opening`` must be picklable: a function of a module, or a partial of one. ``value`` is what
    this process has opened already.
    """

    def __init__(self, opening: Callable[[], _T], value: _T | None = None) -> None:
        self._opening = opening
        self._value = value

    def __call__(self) -> _T:
        """The thing itself."""
        if self._value is None:
            self._value = self._opening()
        return self._value

    def __reduce__(self) -> tuple[Any, ...]:
        return Opened, (self._opening,)


def sample_bytes(dump: Dump) -> NDArray[np.int64]:
    """The bytes of each sample's ids, int64 [S]: by its rows, or its share of the file."""
    meta = dump.meta
    try:
        rows_S = dump.rows()
    except FormatError:
        rows_S = None  # the samples that are damaged are told when they are read
    if rows_S is not None:
        row_bytes = len(meta.layers_L) * meta.top_k * (1 + (meta.num_experts > 256))
        return rows_S.astype(np.int64) * row_bytes
    size = (meta.file_bytes or _SAMPLE_BYTES * len(dump)) // max(len(dump), 1)
    return np.full(len(dump), size, np.int64)


def starts_in(dump: Dump, part: range) -> NDArray[np.int64] | None:
    """Which of some samples of a dump begin what is read at once, from the first of them on.

    int64, for ``cut_runs`` of the part; None where samples are read one by one.
    """
    if dump.starts is None:
        return None
    starts = dump.starts - part.start
    return np.union1d(
        np.zeros(min(len(part), 1), np.int64), starts[(starts > 0) & (starts < len(part))]
    )


def cut_runs(
    weights_S: NDArray[np.int64] | Sequence[int],
    most: int,
    least: int | None = None,
    *,
    starts: NDArray[np.int64] | None = None,
) -> list[range]:
    """Items in order cut into at most so many runs of about equal weight, none empty but the only.

    ``weights_S`` are the bytes of each item. A run has ``least`` bytes or more (LEAST_BYTES, when
    not told), where there are as many; an item goes where its middle falls. ``starts`` are items,
    the first among them, that are read together with those behind them: runs begin there, as long
    as there are as many of them as runs.
    """
    least = LEAST_BYTES if least is None else least
    weights = np.maximum(np.asarray(weights_S, np.int64), 1)
    count = len(weights)
    total = int(weights.sum())
    number = max(1, min(most, count, total // max(1, least)))
    if number == 1:
        return [range(count)]
    if starts is not None and number <= len(starts) < count:
        bounds = [*starts.tolist(), count]
        runs = cut_runs(np.add.reduceat(weights, starts), number, 1)
        return [range(bounds[run.start], bounds[run.stop]) for run in runs]
    middles = np.cumsum(weights) - weights / 2
    run_of = np.minimum((middles * (number / total)).astype(np.int64), number - 1)
    ends = np.flatnonzero(np.diff(run_of)) + 1
    bounds = [0, *ends.tolist(), count]
    return [range(a, b) for a, b in pairwise(bounds)]
