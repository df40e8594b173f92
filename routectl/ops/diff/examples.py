"""The first mismatched rows of a comparison. Shape suffixes: T tokens, L compared layers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...kernels.rows import RowCounts
from ...margins import Margins
from ..pairs.align import Pair

__all__ = ["Example", "first_mismatches"]


@dataclass(frozen=True, slots=True)
class Example:
    """One mismatched row: where, the two id sets (sorted), and each side's margin where known."""

    sample: str
    position: int
    layer: int
    old: tuple[int, ...]
    new: tuple[int, ...]
    margin_old: float | None = None
    margin_new: float | None = None


def _known(margin_TL: Margins | None, t: Any, index: int) -> float | None:
    margin = np.nan if margin_TL is None else float(margin_TL[t, index])
    return None if np.isnan(margin) else margin


def first_mismatches(
    pair: Pair, rows: RowCounts, layers: Sequence[int], limit: int
) -> list[Example]:
    """The first mismatched rows of a pair, by position, then layer."""
    found: list[Example] = []
    for t in np.flatnonzero(rows.differing_T):
        for index in range(int(rows.first_T[t]), len(layers)):
            if pair.skip_TL is not None and pair.skip_TL[t, index]:
                continue
            old = set(pair.old_TLK[t, index].tolist())
            new = set(pair.new_TLK[t, index].tolist())
            if old != new:
                where = (pair.name, pair.position + int(t), layers[index])
                margins = (_known(m, t, index) for m in (pair.old_margin_TL, pair.new_margin_TL))
                found.append(Example(*where, tuple(sorted(old)), tuple(sorted(new)), *margins))
                if len(found) >= limit:
                    return found
    return found
