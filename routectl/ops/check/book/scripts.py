"""Edit scripts: which token's row each row of a sample is, and the name of what was done.

A lag is how many positions late a row is: at position p stands the row of the token at p - lag.
Shape suffixes: T rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from .results import Fact

__all__ = ["BEGIN_AT_0", "Edit", "Stretch", "name_script", "stretches_of"]

BEGIN_AT_0 = "the rows begin at 0"  # of a place that is counted so, where nobody said the start
_SHIFT = 3  # positions up to which a change of lag is called a shift, not a hole
_AGAIN = 0.5  # share of a stretch's rows that were there before, from which it is a repetition
_SHORT = 4  # times that rows which were there before fit into those between, to be a repetition
_WORDS = {1: "one", 2: "two", 3: "three"}


@dataclass(frozen=True, slots=True)
class Stretch:
    """Rows of positions first to end (exclusive) that carry the rows of tokens ``lag`` before.

    lag is None where they are nobody's.
    """

    first: int
    end: int
    lag: int | None

    @property
    def size(self) -> int:
        """How many rows of tokens."""
        return self.end - self.first

    def earlier(self, by: int) -> "Stretch":
        """The same rows, counted from a start that is as much less."""
        lag = None if self.lag is None else self.lag - by
        return Stretch(self.first - by, self.end - by, lag)


@dataclass(frozen=True, slots=True)
class Edit:
    """One thing that was done to a sample's rows: its code, its typed facts, and which rows."""

    code: str
    detail: str
    facts: dict[str, Fact]
    stretches: tuple[Stretch, ...]

    @property
    def position(self) -> int:
        """Where it begins."""
        return self.stretches[0].first


def stretches_of(source_T: NDArray[np.int64], start: int) -> list[Stretch]:
    """Stretches of equal lag; ``source_T`` has the position of each row's token, -1 for none."""
    if not len(source_T):
        return []
    lag_T = np.where(
        source_T >= 0, np.arange(len(source_T)) + start - source_T, np.iinfo(np.int64).min
    )
    edges = [0, *(np.flatnonzero(np.diff(lag_T)) + 1).tolist(), len(lag_T)]
    return [
        Stretch(start + a, start + b, int(lag_T[a]) if source_T[a] >= 0 else None)
        for a, b in pairwise(edges)
    ]


def name_script(script: Sequence[Stretch], tokens: int, prompt: int | None) -> list[Edit]:
    """What was done to a sample of ``tokens`` tokens, as edits in the order of their places.

    Rows of another order are one edit, R714. Else each change of lag is one: a shift (R701; of rows
    of the response alone, too) or a padding side (R707), rows lost (R405), repeated (R402) or put
    in (R406).
    """
    known = [s for s in script if s.lag is not None]
    moved = [s for s in known if s.lag]
    if not moved:
        return []
    if _is_order(known):
        return [Edit("R714", _order_words(known), {"stretches": len(known)}, tuple(moved))]
    edits: list[Edit] = []
    current = 0
    for index, stretch in enumerate(script):
        lag = stretch.lag
        if lag is None:
            continue
        if lag == current and edits and lag:  # goes on after rows that are nobody's
            edits[-1] = replace(edits[-1], stretches=(*edits[-1].stretches, stretch))
        elif lag:
            edits.append(_edit(script, index, current, tokens, prompt))
        current = lag
    return edits


def _is_order(known: Sequence[Stretch]) -> bool:
    """Whether a stretch goes back to rows that were passed over, and not to any seen before."""
    seen: list[tuple[int, int]] = []
    last = 0
    for stretch in known:
        assert stretch.lag is not None
        first, end = stretch.first - stretch.lag, stretch.end - stretch.lag
        again = sum(max(0, min(end, b) - max(first, a)) for a, b in seen)
        if first < last and again < _AGAIN * (end - first) and end <= last:
            return True
        seen.append((first, end))
        last = max(last, end)
    return False


def _order_words(known: Sequence[Stretch]) -> str:
    return f"in {len(known)} stretches"


def _edit(
    script: Sequence[Stretch], index: int, current: int, tokens: int, prompt: int | None
) -> Edit:
    """The edit that a change from the lag ``current`` to that of a stretch is."""
    stretch = script[index]
    lag = stretch.lag
    assert lag is not None
    step = lag - current
    before = script[:index]
    own = tuple(s for s in script[index : index + 1])
    over = max(0, script[-1].end - tokens + 1)
    if step > _SHIFT and (
        over >= step or stretch.size * _SHORT <= step or (over and stretch.size <= step)
    ):
        where = "from the first row on" if stretch.first - lag <= 1 else "from in between"
        return Edit("R402", where, {"where": where, "size": step}, own)
    first = stretch.first - lag
    if not before and lag < -_SHIFT and prompt is not None and first in (prompt - 1, prompt):
        detail = "rows of the response alone, from the first place on"
        return Edit("R701", detail, {"where": "response alone"}, own)
    if _from_front(before, lag):
        code = "R701" if abs(lag) <= _SHIFT else "R707"
        return Edit(code, _lag_words(lag), {"lag": lag}, own)
    nobody = before[-1].size if before and before[-1].lag is None else 0
    if step > 0 and nobody >= step:
        detail = f"{_count(step)} that are no token's"
        return Edit("R406", detail, {"size": step}, own)
    if step < -_SHIFT or 0 < -step < tokens - script[-1].end:  # the sample lacks as many rows
        seam = prompt is not None and abs(stretch.first - prompt) <= 1
        where = "at the seam of prompt and response" if seam else "in between"
        facts: dict[str, Fact] = {"where": where, "size": -step}
        return Edit("R405", f"{_count(-step)} {where}", facts, own)
    facts = {"lag": lag, "where": "from a position on"}
    return Edit("R701", f"{_lag_words(lag)}, from a position on", facts, own)


def _from_front(before: Sequence[Stretch], lag: int) -> bool:
    """Whether the rows before are no more than those that the lag pushes aside."""
    size = sum(s.size for s in before)
    return all(not s.lag for s in before) and (size <= lag if lag > 0 else not size)


def _count(size: int) -> str:
    return "1 token's row" if size == 1 else f"the rows of {size} tokens"


def _lag_words(lag: int) -> str:
    size = _WORDS.get(abs(lag), str(abs(lag)))
    unit = "position" if abs(lag) == 1 else "positions"
    return f"rows of the token {size} {unit} {'earlier' if lag > 0 else 'later'}"
