"""Whether reused prefixes are of older weights: their rows beside the others of the same samples.

Shape suffixes: B bins of absolute position.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ..adding.intervals import Bootstrap, Interval
from .comparison import Comparison, gap_of
from .drift import Nearest

__all__ = ["OlderPrefixes", "older_prefixes"]

_TIMES = 2.0  # how much more cached rows mismatch, as check wants of R709
_FLOOR = 0.002  # mismatch of the others that is never taken for less
_ROWS, _WRONG = 2, 3  # columns of bins_B4


@dataclass(frozen=True, slots=True, eq=False)
class OlderPrefixes:
    """Rows of cached tokens and the others, where the former mismatch far more.

    gap is the interval of cached rows' mismatch less the others', over the sequences that have
    both; it lies above 0. nearest are the older versions that they are closest to, where there
    are any, by the version that their label says.
    """

    cached: Comparison
    others: Comparison
    gap: Interval
    nearest: tuple[Nearest, ...]


def older_prefixes(
    cached: Comparison, others: Comparison, nearest: Sequence[Nearest], plan: Bootstrap
) -> OlderPrefixes | None:
    """What no position and no sample explains in cached rows' mismatch; None where there is none.

    They mismatch at least _TIMES as much as the others, as the others at the same positions too
    where there are any, and more in the same sequences, beyond the interval.
    """
    rows, wrong = cached.result.rows, cached.result.rows_mismatched
    usual = rows * (others.mismatch_rate or 0.0)
    if not _far_more(wrong, usual, rows) or not _far_more(*_at_same_positions(cached, others)):
        return None
    gap = gap_of(cached.counted.sums, others.counted.sums, plan)
    if gap is None or gap.low <= 0:
        return None
    older = tuple(one for one in nearest if one.is_other and one.mode == cached.mode)
    return OlderPrefixes(cached, others, gap, older)


def _far_more(wrong: float, usual: float, rows: int) -> bool:
    return wrong >= _TIMES * max(usual, _FLOOR * rows)


def _at_same_positions(cached: Comparison, others: Comparison) -> tuple[int, float, int]:
    """Where both have rows: cached ones that mismatch, as many as would at the others' rates, all.

    All are 0 where they have no position in common.
    """
    ours_B4, theirs_B4 = cached.result.counts.bins_B4, others.result.counts.bins_B4
    both = (ours_B4[:, _ROWS] > 0) & (theirs_B4[:, _ROWS] > 0)
    ours_B4, theirs_B4 = ours_B4[both], theirs_B4[both]
    usual = ours_B4[:, _ROWS] * theirs_B4[:, _WRONG] / theirs_B4[:, _ROWS]
    return int(ours_B4[:, _WRONG].sum()), float(usual.sum()), int(ours_B4[:, _ROWS].sum())
