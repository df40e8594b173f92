"""Which layout replay tensors do match, when it is not the one they should.

Shape suffixes: R rows of a rank, K top_k.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...layouts.packing import FORMS, FRAMEWORKS, Packing
from ...layouts.rules import DEFAULT_PAD_MULTIPLIER
from ...routes import Routes
from .pack import Rank
from .truth import Truth
from .wrong import SHIFTS

__all__ = ["Suspect", "find_suspects"]

Ids = NDArray[Any]
Options = tuple[tuple[str, int | str | None], ...]
_OPTIONS = ("fp8", "sample_multiple", "min_local_rows", "bucket", "seq_len")
_MIN_RATE = 0.9  # of the rows that a layout calls routes, for it to be named
_MAX_ROWS = 20_000  # looked at on each rank


@dataclass(frozen=True, slots=True)
class Suspect:
    """A layout that the tensors match, and the share of its rows that do.

    frameworks  those that would lay these samples out the same way
    shift       rows hold the route of the token this many positions later
    layer_shift tensors hold the routes of the MoE layer this many further on
    options     of the layout that are not as declared, as (name, value); None for not given
    """

    frameworks: tuple[str, ...]
    form: str
    shift: int
    layer_shift: int
    rate: float
    options: Options = ()


def _layouts(packing: Packing) -> Iterator[Packing]:
    """The declared layout, then every other that is possible for the same samples and ranks.

    Each with the declared options, where it can have them, and without any.
    """
    yield packing
    own = {name: getattr(packing, name) for name in _OPTIONS}
    choices = [own, dict.fromkeys(_OPTIONS)] if any(own.values()) else [own]
    multipliers = dict.fromkeys((None, packing.pad_multiplier, 1))
    for form, framework in itertools.product(FORMS, FRAMEWORKS):
        for options, multiplier in itertools.product(choices, multipliers):
            given = {**options, "framework": framework, "form": form, "pad_multiplier": multiplier}
            with contextlib.suppress(ValueError):  # this framework has no such layout
                yield dataclasses.replace(packing, **given)


def _unlike(layout: Packing, declared: Packing) -> Options:
    """The options with which a layout is not as it was declared, where they have a meaning."""
    found: list[tuple[str, int | str | None]] = []
    is_thd = layout.form == "thd"
    multiplier = layout.pad_multiplier or DEFAULT_PAD_MULTIPLIER
    matters = is_thd and "mult" in layout.rule.total
    if matters and multiplier != (declared.pad_multiplier or DEFAULT_PAD_MULTIPLIER):
        found.append(("pad_multiplier", multiplier))
    for name in _OPTIONS:
        matters = name == "fp8" or (name == "seq_len") != is_thd
        if matters and getattr(layout, name) != getattr(declared, name):
            found.append((name, getattr(layout, name)))
    return tuple(found)


class _Alike:
    """Layouts that put the same tokens on the same rows."""

    def __init__(self, tables: list[NDArray[np.int64]], form: str) -> None:
        self.tables = tables
        self.form = form
        self._options: dict[str, Options] = {}  # of each framework, the fewest

    def add(self, framework: str, options: Options) -> None:
        known = self._options.get(framework)
        if known is None or len(options) < len(known):
            self._options[framework] = options

    def names(self) -> list[tuple[tuple[str, ...], Options]]:
        """Frameworks by the options that they need, those nearest to the declared first."""
        by_options: dict[Options, list[str]] = {}
        for framework, options in self._options.items():
            by_options.setdefault(options, []).append(framework)
        order = sorted(by_options.items(), key=lambda entry: len(entry[0]))
        return [(tuple(frameworks), options) for options, frameworks in order]


def _tables(packing: Packing, tensors: Sequence[tuple[Rank, Ids]]) -> list[_Alike]:
    """The row tables of every layout with the tensors' row counts; equal ones once."""
    found: dict[bytes, _Alike] = {}
    for layout in _layouts(packing):
        if any(len(ids) != layout.num_rows(rank.tp) for rank, ids in tensors):
            continue
        tables = [layout.local_rows(rank.cp, rank.tp)[:_MAX_ROWS] for rank, _ in tensors]
        key = b"".join(t.tobytes() for t in tables)
        found.setdefault(key, _Alike(tables, layout.form)).add(
            layout.framework, _unlike(layout, packing)
        )
    return list(found.values())


def _holds(
    routes: Sequence[Routes | None],
    others: Mapping[int, Sequence[Ids]],
    by: int,
    layout: tuple[Sequence[NDArray[np.int64]], int],
) -> bool:
    """Whether other layers' tensors hold the routes of the layer ``by`` further on, too.

    One that has no such neighbour must not hold the other's: two layers exchanged are no shift.
    layout is the tables of the ranks and the shift of rows.
    """
    held = next(held for held in routes if held is not None)
    tables, shift = layout
    for column, ids in others.items():
        is_inside = 0 <= column + by < len(held.layers_L)
        neighbour = column + by if is_inside else column - by
        if not 0 <= neighbour < len(held.layers_L):
            continue
        truth, equal, real = Truth(routes, neighbour, held.top_k), 0, 0
        for table, ids_RK in zip(tables, ids, strict=True):
            if ids_RK.shape[1] != held.top_k or len(ids_RK) < len(table):
                return False
            found = truth.rate(table, np.sort(ids_RK[: len(table)], axis=1), shift)
            equal, real = equal + found[0], real + found[1]
        if (equal >= _MIN_RATE * real) != is_inside:
            return False
    return True


def find_suspects(
    packing: Packing,
    tensors: Sequence[tuple[Rank, Ids]],
    routes: Sequence[Routes | None],
    column: int,
    others: Mapping[int, Sequence[Ids]] = MappingProxyType({}),
) -> list[Suspect]:
    """The layouts that one layer's tensors of a micro-batch match best, the best one only.

    tensors are (rank, [R, K]) of several ranks; routes are of its samples in packed order, column
    the layer's index in them, others the tensors [R, K] of other layers by theirs. Layouts, shifts
    of rows by up to 2 and of layers by up to 2 are tried; frameworks that lay these samples out
    alike share an entry. Nothing is returned where no layout explains nine tenths of the rows. A
    shift of layers is one of all that have such a neighbour: of others too.
    """
    held = next((held for held in routes if held is not None), None)
    if held is None or any(ids_RK.shape[1] != held.top_k for _, ids_RK in tensors):
        return []
    ids = [np.sort(ids_RK[:_MAX_ROWS], axis=1) for _, ids_RK in tensors]
    found: list[tuple[float, int, Suspect]] = []
    layouts = _tables(packing, tensors)
    for by in (0, *SHIFTS):
        if not 0 <= column + by < len(held.layers_L):
            continue
        truth = Truth(routes, column + by, held.top_k)
        for alike, shift in itertools.product(layouts, (0, *SHIFTS)):
            counts = [truth.rate(t, i, shift) for t, i in zip(alike.tables, ids, strict=True)]
            equal, real = (sum(part) for part in zip(*counts, strict=True))
            rate = equal / real if real else 0.0
            if rate < _MIN_RATE:
                continue
            if by and not _holds(routes, others, by, (alike.tables, shift)):
                continue
            for names, options in alike.names():
                suspect = Suspect(names, alike.form, shift, by, rate, options)
                found.append((rate, -abs(shift) - abs(by), suspect))
    best = max((key[:2] for key in found), default=None)
    return [suspect for *key, suspect in found if tuple(key) == best]
