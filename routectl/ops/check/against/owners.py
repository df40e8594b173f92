"""Whose rows they are: samples of the reference found by the content of a few of their rows.

A sample is sketched by the rows whose numbers are smallest, wherever they stand (bottom-k sketch,
Cohen and Kaplan, PODC 2007), so that rows at other positions are found too. Shape suffixes: T rows.
"""

import numpy as np

from ....dump import Dump
from ....kernels.check import Hashes
from ....routes import Bools
from .alignment import row_keys
from .side import Ints, Side, side_of

__all__ = ["Owners"]

_ROWS = 128  # of a sample that its sketch keeps, and of each of very many
_FEWER = 32
_MANY = 20_000
_ASKED = 3  # samples that most rows point to
_VOTES = 3


def _keys(side: Side) -> tuple[Hashes, Bools]:
    """A number of each row, of its sets in two layers, and whether both are there."""
    layers = side.there_TL.shape[1]
    keys, there = row_keys(side.layers(np.unique(np.array([0, layers // 2]))))
    return keys[:, 0], there[:, 0]


class Owners:
    """Sketches of all samples of a reference."""

    def __init__(self, reference: Dump, columns: Ints, num_ids: int) -> None:
        most = _ROWS if len(reference) < _MANY else _FEWER
        keys: list[Hashes] = []
        owners: list[Ints] = []
        for index in range(len(reference)):
            routes = reference[index].routes
            if routes is None:
                continue
            own, there = _keys(side_of(routes, columns, num_ids))
            few = np.sort(np.unique(own[there]))[:most]
            keys.append(few)
            owners.append(np.full(len(few), index, np.int64))
        every = np.concatenate(keys) if keys else np.zeros(0, np.uint64)
        order = np.argsort(every, kind="stable")
        self.keys = every[order]
        self.owners = np.concatenate(owners)[order] if owners else np.zeros(0, np.int64)

    def ask(self, side: Side, rows_T: Bools) -> list[int]:
        """Samples that some rows point to, those with most of them first."""
        keys, there = _keys(side)
        asked = np.unique(keys[there & rows_T])
        first = np.searchsorted(self.keys, asked, side="left")
        last = np.searchsorted(self.keys, asked, side="right")
        hits = [self.owners[a:b] for a, b in zip(first, last, strict=True) if b > a]
        if not hits:
            return []
        samples, votes = np.unique(np.concatenate(hits), return_counts=True)
        order = np.argsort(-votes, kind="stable")[:_ASKED]
        return [int(samples[i]) for i in order if votes[i] >= _VOTES]
