"""Which layout replay tensors do match, when it is not the one they should.

Shape suffixes: R rows of a rank, K top_k.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..layout import FORMS, FRAMEWORKS, Packing
from ..routes import Routes
from .pack import Rank

__all__ = ["Suspect", "find_suspects"]

Ids = NDArray[Any]
_SHIFTS = (0, 1, -1, 2, -2)
_MIN_RATE = 0.9  # of the rows that a layout calls routes, for it to be named
_MAX_ROWS = 20_000  # looked at on each rank


@dataclass(frozen=True, slots=True)
class Suspect:
    """A layout that the tensors match, and the share of its rows that do.

    frameworks  those that would lay these samples out the same way
    shift       rows hold the route of the token this many positions later
    layer_shift tensors hold the routes of the MoE layer this many further on
    """

    frameworks: tuple[str, ...]
    form: str
    shift: int
    layer_shift: int
    rate: float


def _layouts(packing: Packing) -> Iterator[Packing]:
    """The declared layout, then every other that is possible for the same samples and ranks."""
    yield packing
    plain = dataclasses.replace(
        packing, framework="verl", pad_multiplier=None, fp8=None, sample_multiple=None, bucket=None
    )
    for form, framework in itertools.product(FORMS, FRAMEWORKS):
        for multiplier in (None, packing.pad_multiplier or 1):
            try:
                yield dataclasses.replace(
                    plain, framework=framework, form=form, pad_multiplier=multiplier
                )
            except ValueError:
                continue  # this framework has no such layout


class _Truth:
    """One layer's routes of all samples end to end, as sorted rows."""

    def __init__(self, routes: Sequence[Routes | None], column: int, top_k: int) -> None:
        parts = [np.zeros((0, top_k), np.int64) if held is None else held.ids_TLK[:, column]
                 for held in routes]  # fmt: skip
        self.rows = np.sort(np.concatenate(parts), axis=1)
        self.ends = np.cumsum([len(part) for part in parts])
        self.begins = self.ends - [len(part) for part in parts]
        self.starts = np.array([0 if held is None else held.start for held in routes])

    def rate(self, table_R2: NDArray[np.int64], sorted_RK: Ids, shift: int) -> tuple[int, int]:
        """Rows that hold the route which the table says, and rows that should hold one."""
        sample, position = table_R2.T
        index = self.begins[sample] + position + shift - self.starts[sample]
        inside = (sample >= 0) & (index >= self.begins[sample]) & (index < self.ends[sample])
        equal = (self.rows[index[inside]] == sorted_RK[inside]).all(axis=1)
        return int(equal.sum()), len(equal)


def _tables(
    packing: Packing, tensors: Sequence[tuple[Rank, Ids]]
) -> dict[bytes, tuple[list[NDArray[np.int64]], list[Packing]]]:
    """The row tables of every layout with the tensors' row counts; equal ones once."""
    found: dict[bytes, tuple[list[NDArray[np.int64]], list[Packing]]] = {}
    for layout in _layouts(packing):
        if any(len(ids) != layout.num_rows(rank.tp) for rank, ids in tensors):
            continue
        tables = [layout.local_rows(rank.cp, rank.tp)[:_MAX_ROWS] for rank, _ in tensors]
        found.setdefault(b"".join(t.tobytes() for t in tables), (tables, []))[1].append(layout)
    return found


def find_suspects(
    packing: Packing,
    tensors: Sequence[tuple[Rank, Ids]],
    routes: Sequence[Routes | None],
    column: int,
) -> list[Suspect]:
    """The layouts that one layer's tensors of a micro-batch match best, the best one only.

    tensors are (rank, [R, K]) of several ranks; routes are of its samples in packed order, column
    the layer's index in them. Layouts, shifts of rows by up to 2 and of layers by up to 2 are
    tried; frameworks that lay these samples out alike share an entry. Nothing is returned where
    no layout explains nine tenths of the rows.
    """
    columns = next((len(held.layers_L) for held in routes if held is not None), 0)
    ids = [np.sort(ids_RK[:_MAX_ROWS], axis=1) for _, ids_RK in tensors]
    found: list[tuple[float, int, Suspect]] = []
    for by in _SHIFTS:
        if not 0 <= column + by < columns:
            continue
        truth = _Truth(routes, column + by, ids[0].shape[1])
        for tables, layouts in _tables(packing, tensors).values():
            for shift in _SHIFTS:
                counts = [truth.rate(t, i, shift) for t, i in zip(tables, ids, strict=True)]
                equal, real = (sum(part) for part in zip(*counts, strict=True))
                rate = equal / real if real else 0.0
                names = tuple(dict.fromkeys(layout.framework for layout in layouts))
                suspect = Suspect(names, layouts[0].form, shift, by, rate)
                if rate >= _MIN_RATE:
                    found.append((rate, -abs(shift) - abs(by), suspect))
    best = max((key[:2] for key in found), default=None)
    return [suspect for *key, suspect in found if tuple(key) == best]
