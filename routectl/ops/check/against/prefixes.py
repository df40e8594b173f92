"""Whether the rows of cached tokens differ more than the others: a cache of older weights.

In one sample a prefix is short; the prefixes of all samples together say what none of them does.

Shape suffixes: N tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .side import Ints

__all__ = ["Cached", "KnownFlips", "cached_differ", "nats"]

_TIMES = 2.0  # how much more rows of cached tokens differ; 1.4 at most in clean recordings
_EVIDENCE = 30.0  # nats
_AGREE = 0.75  # of the samples, whose own cached rows differ more
_FLOOR = 0.002  # mismatch of the others that is never taken for less


@dataclass(frozen=True, slots=True)
class Cached:
    """Some rows that no run took, as of cached tokens: how many, wrong ones, and their margins.

    block is a number of the ids of one sample's, which siblings share; 0 of several samples.
    """

    rows: int = 0
    wrong: int = 0
    known: int = 0
    clear: int = 0
    block: int = 0

    def __add__(self, other: "Cached") -> "Cached":
        return Cached(
            self.rows + other.rows,
            self.wrong + other.wrong,
            self.known + other.known,
            self.clear + other.clear,
        )


@dataclass(frozen=True, slots=True)
class KnownFlips:
    """Of a sample's rows that differ, those with a margin and those whose margin is not small.

    The same of its first ``cached`` compared tokens, which the dump says were in a cache, and a
    number of their ids. beside_known and beside_clear are of layers that a run took rows of.
    """

    known: int
    clear: int
    beside_known: int = 0
    beside_clear: int = 0
    cached: int = 0
    cached_known: int = 0
    cached_clear: int = 0
    block: int = 0

    def cached_of(self, wrong_N: Ints, rows_N: Ints) -> Cached:
        """The rows of its cached tokens."""
        rows, wrong = int(rows_N[: self.cached].sum()), int(wrong_N[: self.cached].sum())
        return Cached(rows, wrong, self.cached_known, self.cached_clear, self.block)


def cached_differ(samples: Sequence[tuple[Cached, int, int]]) -> str | None:
    """What is to be said where rows of cached tokens differ far more than the others, else None.

    ``samples`` are each sample's cached rows, all its rows and all that differ. Rows that siblings
    have out of one cache are evidence once.
    """
    blocks: dict[int, list[int]] = {}
    for c, all_rows, all_wrong in samples:
        block = blocks.setdefault(c.block, [0] * 4)
        block[:2] = max(block[0], c.rows), max(block[1], c.wrong)
        block[2:] = block[2] + all_rows - c.rows, block[3] + all_wrong - c.wrong
    counts = np.array(list(blocks.values()), np.int64).reshape(-1, 4)
    rows, wrong, rows_else, wrong_else = (int(total) for total in counts.sum(axis=0))
    if not rows or not rows_else:
        return None
    rate, rate_else = wrong / rows, wrong_else / rows_else
    own = counts[:, 1] * np.maximum(counts[:, 2], 1) > counts[:, 3] * counts[:, 0]
    if rate < _TIMES * max(rate_else, _FLOOR) or own.mean() < _AGREE:
        return None
    both = (wrong + wrong_else) / (rows + rows_else)
    gain = nats(wrong, rows, rate) + nats(wrong_else, rows_else, rate_else)
    if gain - nats(wrong + wrong_else, rows + rows_else, both) < _EVIDENCE:
        return None
    every = sum((c for c, _, _ in samples), Cached())
    share = f"{100 * every.wrong / every.rows:.2f} % of the rows of cached tokens differ"
    return f"{share}, {100 * rate_else:.2f} % of the others"


def nats(wrong: Any, rows: Any, rate: Any) -> Any:
    """Log-likelihood of counts at a rate."""
    rate = np.clip(rate, 1e-6, 1 - 1e-6)
    return wrong * np.log(rate) + (rows - wrong) * np.log(1 - rate)
