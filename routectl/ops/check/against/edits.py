"""What was done to a sample's rows, from those of the reference that they are.

Shape suffixes: T tokens, L compared layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ....routes import Bools
from ..book.results import Place
from ..book.scripts import Edit, Stretch, name_script, stretches_of
from .models import LEFT
from .side import Ints

__all__ = ["RowExtent", "cut_at", "edits_of", "moved_stretches"]

_GUESSED = "the start that was inferred is off, the rows are of position 0 on"
_CUT = "they begin at 0, by the reference"
_FRONT = "the first ones are missing, by the reference"
_SHORTEST = 3  # tokens of a stretch that is moved
_LONG = 16  # tokens of one that is named whatever it leaves; shorter ones explain this share
_SHARE = 0.3


@dataclass(frozen=True, slots=True)
class RowExtent:
    """Where a sample's rows stand among its tokens; inferred says that nobody said the start."""

    start: int
    stop: int
    tokens: int
    prompt: int | None
    inferred: bool


def moved_stretches(
    source_T: Ints, start: int, marks: tuple[Bools, Bools, Bools, Bools], wrong: int
) -> list[Stretch]:
    """The stretches of a sample, [] where none explains rows: what leaves too much is nobody's.

    ``marks``, [T, L], say which rows differ from their source, have one, differ as they stand, and
    have one so; ``wrong`` counts the rows that are not where they should be.
    """
    after_TL, both_TL, before_TL, placed_TL = marks
    stretches = []
    explained_rows = 0
    for stretch in stretches_of(source_T, start):
        part = slice(stretch.first - start, stretch.end - start)
        rows, left = int(both_TL[part].sum()), int(after_TL[part].sum())
        was = int(before_TL[part].sum()) + int((~placed_TL[part] & both_TL[part]).sum())
        if stretch.lag:
            if left > LEFT * rows or left > was / 2 or stretch.size < _SHORTEST:
                stretch = replace(stretch, lag=None)
            else:
                explained_rows += was
        stretches.append(stretch)
    longest = max((s.size for s in stretches if s.lag), default=0)
    if longest < _LONG and explained_rows < _SHARE * wrong:
        return []  # a few words that are there twice, in rows that something else explains
    return stretches


def edits_of(stretches: Sequence[Stretch], extent: RowExtent) -> tuple[list[Edit], int]:
    """The edits that stretches are, and by how much less than they stand their places are counted.

    Where nobody said the start and the first rows are those of position 0 on, the others are told
    as if it had been said to be 0: of a sample that lost rows in between, the last ones are in
    place by their number, and the first ones late.
    """
    shift = _late(stretches, extent)
    edits = name_script([s.earlier(shift) for s in stretches], extent.tokens, extent.prompt)
    if shift and not edits:
        cut = stretches[-1].lag == shift
        code, words = ("R003", _CUT) if cut else ("R701", _GUESSED)
        moved = tuple(s for s in stretches if s.lag)
        return [Edit(code, words, {"where": words}, moved)], 0
    if len(edits) == 1 and _is_cut_in_front(edits[0], extent):
        edits = [replace(edits[0], code="R003", detail=_FRONT, facts={"where": _FRONT})]
    return edits, shift


def _late(stretches: Sequence[Stretch], extent: RowExtent) -> int:
    """How late the first rows are by a start that nobody said, were they of position 0 on."""
    first = next((s.lag for s in stretches if s.lag is not None), None)
    return extent.start if extent.inferred and first == extent.start else 0


def _is_cut_in_front(edit: Edit, extent: RowExtent) -> bool:
    """Whether all rows of a sample stand early by as many as are missing."""
    if "where" in edit.facts or extent.start:
        return False
    return edit.facts.get("lag") == extent.stop + 1 - extent.tokens < -1


def cut_at(name: str, extent: RowExtent, edit: Edit) -> tuple[int, Place]:
    """Of how many tokens the rows of a sample were cut off (R003), and where."""
    if edit.detail == _FRONT:
        size = extent.tokens - 1 - extent.stop
        return size, Place(name, 0, None, f"the first {size} tokens")
    size = extent.start
    note = f"the last {size} token{'s' * (size > 1)}"
    return size, Place(name, extent.stop - size, None, note)
