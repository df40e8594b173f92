"""A comparison as work that is cut into shards: runs of pairs of samples."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..held import HeldHereError
from ..shards.share import share_of
from ..shards.work import Opened, Shard, cut_runs, sample_bytes
from .counted import CountedPairs

if TYPE_CHECKING:
    import pyarrow as pa

    from ...dump import Dump
    from ...ops.diff.few import Few
    from ...ops.diff.options import DiffOptions
    from ...ops.diff.tally import OnCompared
    from ...ops.pairs.parts import JoinPart

__all__ = ["ComparedWork", "OpenSides", "TabledWork", "held"]


@dataclass(frozen=True, slots=True, eq=False)
class OpenSides:
    """OLD, NEW, and a rerun of OLD where there is one."""

    old: "Dump"
    new: "Dump"
    rerun: "Dump | None" = None


class _Here:
    """Dumps that only this process has."""

    def __reduce__(self) -> tuple[Any, ...]:
        raise HeldHereError

    def __call__(self) -> OpenSides:
        raise AssertionError("opened already")


def held(sides: OpenSides) -> Opened[OpenSides]:
    """Dumps that only this process has: a program made them, or they are computed as they come."""
    return Opened(_Here(), sides)


def _joined(sides: Opened[OpenSides], options: "DiffOptions", rerun: bool) -> "JoinPart":
    """All pairs of OLD and NEW, or of OLD and its rerun. Raises MismatchError for none."""
    from ...ops.pairs.align import common_layers
    from ...ops.pairs.join import join_keys
    from ...ops.pairs.parts import whole_join

    old, new = _dumps(sides(), rerun)
    common_layers(old.meta, new.meta, options.layers)  # what cannot be compared is not joined
    return whole_join(join_keys(old.keys, new.keys, options.match))


def _dumps(sides: OpenSides, rerun: bool) -> "tuple[Dump, Dump]":
    if not rerun:
        return sides.old, sides.new
    assert sides.rerun is not None
    return sides.old, sides.rerun


@dataclass(frozen=True, slots=True)
class _Run:
    """What a shard is of: pairs of OLD and NEW, or of OLD and its rerun."""

    part: "JoinPart"
    rerun: bool


class ComparedWork:
    """OLD compared with NEW, and with its rerun; a partial may have no row.

    place is the part of it that is done, from 1, and of how many.
    """

    doing = "comparing"

    def __init__(
        self, sides: Opened[OpenSides], options: "DiffOptions", place: tuple[int, int] = (1, 1)
    ) -> None:
        self._sides, self._options, self._place = sides, options, place
        self._few: Few | None = None
        self._join = {
            rerun: Opened(partial(_joined, sides, options, rerun)) for rerun in (False, True)
        }

    @property
    def identity(self) -> tuple[Any, ...]:
        """What says which samples are compared: see ``digest_of``."""
        whole, (old, new) = self._join[False](), _dumps(self._sides(), rerun=False)
        sizes = [(len(d), d.meta.file_bytes, d.meta.layers_L) for d in (old, new)]
        return whole.pairs.old_P, whole.pairs.new_P, *sizes

    def cut(self, most: int) -> Sequence[Shard]:
        """Runs of pairs in the order of OLD, and the samples without a partner beside them."""
        if self._sides().rerun is None:
            return self._shards(most, rerun=False)
        half = max(1, most // 2)
        return [*self._shards(half, rerun=False), *self._shards(half, rerun=True)]

    def _shards(self, most: int, *, rerun: bool) -> list[Shard]:
        dumps, part = _dumps(self._sides(), rerun), self._join[rerun]()
        weights_P = _weights(dumps, part)
        _, parts = self._place
        if parts > 1:
            whole = cut_runs(weights_P, parts, least=1, starts=_starts(dumps[0], part))
            runs, at = share_of(whole, self._place)
            part, weights_P = part.cut(runs)[at], weights_P[runs[at].start : runs[at].stop]
        name = dumps[1].meta.path if rerun else dumps[0].meta.path
        shards = []
        runs = cut_runs(weights_P // 2, most, starts=_starts(dumps[0], part))  # by that of a side
        for run, one in zip(runs, part.cut(runs), strict=True):
            pairs = one.pairs
            span = f" {pairs[0][0]} to {pairs[-1][0]}" if len(pairs) else ""
            samples, weight = (
                one.num_old + len(one.only_new),
                int(weights_P[run.start : run.stop].sum()),
            )
            shards.append(Shard(f"{name}: samples{span}", weight, samples, _Run(one, rerun)))
        return shards

    def partial(self, shard: Shard) -> CountedPairs:
        """What a run of pairs gives."""
        return self._counted(shard.of)

    def _counted(self, run: _Run, on_compared: "OnCompared | None" = None) -> CountedPairs:
        from ...ops.diff.few import Few
        from ...ops.diff.part import diff_part

        few = self._few = self._few or Few()
        old, new = _dumps(self._sides(), run.rerun)
        if run.rerun:
            return CountedPairs(
                noise=diff_part(old, new, replace(self._options, detail=False), run.part, few=few)
            )
        return CountedPairs(diff_part(old, new, self._options, run.part, on_compared, few))


class TabledWork:
    """A comparison whose compared samples are told too, as rows of a table."""

    doing = ComparedWork.doing

    def __init__(self, work: ComparedWork) -> None:
        self._work = work

    def cut(self, most: int) -> Sequence[Shard]:
        """As that of the comparison."""
        return self._work.cut(most)

    def partial(self, shard: Shard) -> "tuple[CountedPairs, tuple[pa.RecordBatch, ...]]":
        """What a run of pairs gives, and its rows of the table of samples."""
        from ...reports.tables.streamed import SampleRows

        rows = SampleRows()
        counted = self._work._counted(shard.of, rows.add)
        return counted, rows.batches


def _weights(dumps: "tuple[Dump, Dump]", part: "JoinPart") -> NDArray[np.int64]:
    """About how many bytes of ids each pair has, int64 [P]."""
    old_S, new_S = map(sample_bytes, dumps)
    return old_S[part.pairs.old_P] + new_S[part.pairs.new_P]


def _starts(old: "Dump", part: "JoinPart") -> NDArray[np.int64] | None:
    """The first pair of each row group of OLD; None where it is not read so."""
    if old.starts is None:
        return None
    group_P = np.searchsorted(old.starts, part.pairs.old_P, "right")
    return np.flatnonzero(np.diff(group_P, prepend=0))
