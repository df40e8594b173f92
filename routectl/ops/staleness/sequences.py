"""Sequences that are closer to another version than to the one that their label says.

A rate over all rows has both the right and the wrong ones; each sequence by itself does not.

Shape suffixes: G buckets of clusters, V versions.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .comparison import ClusterSums

__all__ = ["CloserSequences", "closer_sequences"]

_TIMES = 2  # how much more a sequence mismatches with its own version; recordings have at most 0.64
_SIGMAS = 5  # of the difference, were both equally near: 3e-7, over at most 4,096 buckets


@dataclass(frozen=True, slots=True)
class CloserSequences:
    """How many of ``compared`` sequences are closer to another version, by that version, at least.

    Sequences that fall in one bucket count as one, and only if they are so together: with some
    thousands of sequences the number is far too low.
    """

    compared: int
    closer: dict[str, int]

    @property
    def number(self) -> int:
        """How many there are, at least."""
        return sum(self.closer.values())


def closer_sequences(own: ClusterSums, others: Mapping[str, ClusterSums]) -> CloserSequences:
    """Those whose mismatch with another version is half of that with their own, and not by chance.

    Chance is taken by token: the rows of one flip together. Rows that differ in one of the two
    alone number at most the sum of both, which bounds the variance of the difference. own has
    columns by layer.
    """
    rows_G, wrong_G = (own.rows_of(n, own.layers).sum(axis=1) for n in (0, 1))
    tokens_G = own.sums.ints_GM[:, 2 * own.layers + 2]
    names = list(others)
    same_VG = np.stack([others[name].rows_of(0, 1)[:, 0] == rows_G for name in names])
    other_VG = np.stack([others[name].rows_of(1, 1)[:, 0] for name in names])
    other_VG = np.where(same_VG, other_VG, wrong_G)  # where a version lacks rows it says nothing
    best_G, least_G = other_VG.argmin(axis=0), other_VG.min(axis=0)
    far_G = (wrong_G >= _TIMES * least_G) & _beyond_chance(wrong_G, least_G, tokens_G)
    closer = {name: int((far_G & (best_G == n)).sum()) for n, name in enumerate(names)}
    compared = int(own.sums.samples_G[same_VG.any(axis=0)].sum())
    return CloserSequences(compared, {name: count for name, count in closer.items() if count})


def _beyond_chance(
    wrong_G: NDArray[np.int64], least_G: NDArray[np.int64], tokens_G: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Whether rows that mismatch, of so many tokens, are more than least by _SIGMAS."""
    variance_G = (wrong_G + least_G) * (wrong_G / np.maximum(tokens_G, 1))
    return (wrong_G > least_G) & ((wrong_G - least_G) ** 2 >= _SIGMAS**2 * variance_G)
