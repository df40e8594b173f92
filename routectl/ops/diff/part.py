"""A part of a join compared: samples of stored columns together, the others one by one.

Shape suffixes: P pairs, S samples.
"""

import numpy as np
from numpy.typing import NDArray

from ...columns.samples import SampleColumns
from ...dump import Dump, Sample
from ..batches import is_in_columns, runs_in_columns
from ..pairs.parts import JoinPart
from .few import Few
from .options import DiffOptions
from .result import DiffResult
from .tally import DiffTally, OnCompared

__all__ = ["diff_part"]

Ints = NDArray[np.int64]


def diff_part(
    old: Dump,
    new: Dump,
    options: DiffOptions,
    part: JoinPart,
    on_compared: OnCompared | None = None,
    few: Few | None = None,
) -> DiffResult:
    """The result of a part of a join, which may have no row; the others as in DiffTally."""
    tally = DiffTally(old.meta, new.meta, options, on_compared, few)
    old, new = old.layered(), new.layered()
    together = tally.together and is_in_columns(old) and is_in_columns(new)
    run = _Part(old, new, part, tally)
    run.compare(together=together)
    if not options.part:
        run.leave_new(together=together)
    return tally.result(part)


class _Part:
    """The pairs of a part, and its samples without a partner, as they come in the files."""

    def __init__(self, old: Dump, new: Dump, part: JoinPart, tally: DiffTally) -> None:
        self._old, self._new, self._tally = old, new, tally
        self._old_P = np.asarray(part.pairs.old_P, np.int64)
        self._new_P = np.asarray(part.pairs.new_P, np.int64)
        self._only_old, self._only_new = part.only_old, part.only_new

    def compare(self, *, together: bool) -> None:
        """Compare all pairs, and count the samples of OLD without a partner."""
        every = np.sort(np.concatenate([self._old_P, self._only_old]))
        for columns, places in runs_in_columns(self._old, every, together=together):
            ends = int(places[0]), int(places[-1]) + 1
            self._compare(columns, slice(*np.searchsorted(self._old_P, ends).tolist()))
            left = slice(*np.searchsorted(self._only_old, ends).tolist())
            self._leave(self._old, columns, self._only_old[left], is_new=False)

    def _compare(self, columns: SampleColumns | None, pairs: slice) -> None:
        """Compare a run of pairs, whose samples of OLD are in some columns."""
        old_P, new_P = self._old_P[pairs], self._new_P[pairs]
        left_P = np.ones(len(old_P), np.bool_)
        if columns is not None:
            keys, order = columns.keys(), np.argsort(new_P, kind="stable")
            begin = 0
            for of_new, places in runs_in_columns(self._new, new_P[order], together=True):
                here = np.sort(order[begin : begin + len(places)])
                begin += len(places)
                if of_new is None:
                    continue
                at = old_P[here] - columns.first, new_P[here] - of_new.first
                left_P[here] = ~self._tally.add_together((columns, of_new), at, keys, self._pair)
        for i, j in zip(old_P[left_P].tolist(), new_P[left_P].tolist(), strict=True):
            self._tally.add(*self._pair(i, j), i, self._old.keys[i])

    def _pair(self, i: int, j: int) -> tuple[Sample, Sample]:
        return self._old[i], self._new[j]

    def leave_new(self, *, together: bool) -> None:
        """Count the samples of NEW without a partner."""
        for columns, places in runs_in_columns(self._new, self._only_new, together=together):
            self._leave(self._new, columns, places, is_new=True)

    def _leave(
        self, dump: Dump, columns: SampleColumns | None, places: Ints, *, is_new: bool
    ) -> None:
        if columns is not None:
            whole = ~columns.missing_S[places - columns.first]
            self._tally.leave_together(columns, places[whole] - columns.first, is_new=is_new)
            places = places[~whole]
        for index in places.tolist():
            self._tally.leave(dump[index], is_new=is_new)
