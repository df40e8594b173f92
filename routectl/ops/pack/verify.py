"""Whether replay tensors hold every route of a dump, where the layout says, exactly once.

Nothing here uses the code that packs: rows are looked up one way, from the tensor to the dump.
Shape suffixes: T tokens, L MoE layers, K top_k, R rows of a rank, E experts.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...layouts.packing import Packing
from ...layouts.runs import Run
from ...routes import Bools, Routes
from .coverage import owed_rows
from .declared import Declared
from .moves import Move
from .once import Landed, Once
from .pack import Rank
from .suspects import Suspect
from .wrong import WrongLayer

__all__ = [
    "RankIds",
    "Tally",
    "Verification",
    "WrongRow",
    "check_tensors",
    "padding_kind",
]

_EXAMPLES = 5
_LOAD_ROWS = 1 << 14  # whose ids are int64 at a time
Ids = NDArray[Any]


@dataclass(frozen=True, slots=True)
class WrongRow:
    """A row of a tensor that does not hold the route it should."""

    place: str
    layer: int
    row: int
    sample: int
    position: int
    got: tuple[int, ...]
    expected: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class RankIds:
    """A rank's tensors of one micro-batch: layers[n] is [R, K], mask [R] or [L, R] or None.

    place names them in messages.
    """

    place: str
    layers: dict[int, Ids]
    mask: Bools | None


_SUMS = (
    *("rows", "wrong", "reordered", "masked", "unmasked", "missing", "made_up"),
    *("once", "load_LE", "filler_LE"),
)


def _first(
    rows: Iterable[tuple[int, int, WrongRow]],
) -> tuple[tuple[int, int, WrongRow], ...]:
    return tuple(sorted(rows, key=lambda row: row[:2])[:_EXAMPLES])


@dataclass(slots=True, eq=False)
class Tally:
    """Counts over the tensors checked so far; a row is one token in one layer.

    rows             rows that the layout says are a route of the dump
    wrong            of these, rows with other experts than the dump's
    reordered        of these, rows with the dump's experts in other slots
    masked           routes that the mask calls padding; unmasked: filler that it calls real
    missing          rows of tokens whose route the dump does not have, the last token's aside
    made_up          of these, rows that a router would replay: they hold ids, and nothing tells it
                     otherwise (allow_missing: the mask does, where it calls them padding)
    padding          rows that are no route, by what they hold (``padding_kind``)
    load_LE          how often real rows name each expert; filler_LE padding rows
    once             the routes that were found at their place, and rows at another's
    wrong_at         per place, what is wrong in each layer that is not the same in every slot
    first            the first wrong rows, each with the number of its place and its order there

    Tallies of shards add up; ``number`` is that of the place whose tensors are looked at.
    """

    num_experts: int
    layers_L: tuple[int, ...]
    allow_missing: bool = False
    rows: int = 0
    wrong: int = 0
    reordered: int = 0
    masked: int = 0
    unmasked: int = 0
    missing: int = 0
    made_up: int = 0
    padding: dict[str, int] = field(default_factory=dict)
    once: Once = field(default_factory=Once)
    first: tuple[tuple[int, int, WrongRow], ...] = ()
    wrong_at: dict[str, dict[int, WrongLayer]] = field(default_factory=dict)
    number: int = 0
    load_LE: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 0), np.int64))
    filler_LE: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 0), np.int64))

    def __post_init__(self) -> None:
        shape = (len(self.layers_L), self.num_experts)
        self.padding = Counter(self.padding)
        if not self.load_LE.size:
            self.load_LE = np.zeros(shape, np.int64)
            self.filler_LE = np.zeros(shape, np.int64)

    @property
    def examples(self) -> list[WrongRow]:
        """The first wrong rows."""
        return [row for _, _, row in self.first]

    def add_examples(self, rows: Iterable[WrongRow]) -> None:
        """Take in wrong rows of the place that is looked at, in order."""
        here = sum(number == self.number for number, _, _ in self.first)
        added = [(self.number, here + n, row) for n, row in enumerate(rows)]
        self.first = _first((*self.first, *added))

    def __add__(self, other: "Tally") -> "Tally":
        whole = Tally(self.num_experts, self.layers_L, self.allow_missing)
        for name in _SUMS:
            setattr(whole, name, getattr(self, name) + getattr(other, name))
        whole.padding = Counter(self.padding) + Counter(other.padding)
        whole.first = _first((*self.first, *other.first))
        for name in sorted({*self.wrong_at, *other.wrong_at}):
            one, two = (tally.wrong_at.get(name, {}) for tally in (self, other))
            whole.wrong_at[name] = {
                layer: one.get(layer, WrongLayer()) + two.get(layer, WrongLayer())
                for layer in sorted({*one, *two})
            }
        return whole

    def add_strays(self, ids: RankIds) -> None:
        """Note what a file of another shape than its rank's holds, where its rows have K ids.

        Rows that its mask calls padding are left out.
        """
        for i, (layer, ids_RK) in enumerate(ids.layers.items()):
            if layer not in self.layers_L:
                continue
            column, said = self.layers_L.index(layer), ids.mask
            if said is not None and said.ndim == 2:
                said = said[i] if i < len(said) else None
            if said is None or said.shape != ids_RK.shape[:1] or said.dtype != np.bool_:
                self.once.stray(column, ids_RK, spare=True)
            else:
                self.once.stray(column, ids_RK[said])


@dataclass(frozen=True, slots=True, eq=False)
class Verification:
    """What came of checking a folder.

    files        files read; absent_files: ranks' files that are not there
    misfits      files whose row count, K or layers are not the layout's, each with both numbers
    landed       whether each route is there exactly once; None when only some ranks were asked for
    suspects     layouts that the tensors match, where they do not match their own
    ep           expert-parallel size that loads are given for
    extra_files  rank files of ranks or micro-batches that the layout does not have
    faults       files whose dtype or cu_seqlens are not those declared, each with both; that lack
                 a tensor that pack writes, or cannot be read; a folder's samples that are another's
    changed      files whose bytes are not those of the manifest; their rows may be right
    judged       (micro-batch, stage, layer) that suspects were looked for in; None for none
    moves        ranks and micro-batches that hold the rows of others
    declared     the layout that the files were held against
    unusable     files that are in misfits or faults
    names        the ids of the samples of examples that have one, by their place in the dump
    """

    tally: Tally
    files: int
    absent_files: tuple[str, ...]
    misfits: tuple[str, ...]
    landed: Landed | None
    suspects: tuple[Suspect, ...]
    ep: int
    extra_files: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    judged: tuple[int, int, int] | None = None
    moves: tuple[Move, ...] = ()
    declared: Declared | None = None
    unusable: int = 0
    names: dict[int, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Every route is there once, no row is wrong or made up, and the mask says which are real.

        Where every file is there as it should be, but no route belongs on the ranks, it is so too.
        """
        once = self.landed is None or self.landed.absent == self.landed.repeated == 0
        tally = self.tally
        counts = [tally.wrong, tally.masked, tally.unmasked, tally.made_up]
        counts.append(tally.padding["outside"])
        trouble = (self.absent_files, self.extra_files, self.misfits, self.faults)
        return self.files > 0 and once and not any(trouble) and not any(counts)

    @property
    def imbalance(self) -> float | None:
        """The busiest EP rank's load over the mean, in the worst layer; None without any."""
        return self._busiest(self.tally.load_LE)

    @property
    def imbalance_padding(self) -> float | None:
        """The same of what padding rows add alone."""
        return self._busiest(self.tally.filler_LE)

    def _busiest(self, load_LE: NDArray[np.int64]) -> float | None:
        if self.tally.num_experts % self.ep:
            return None
        by_rank = load_LE.reshape(len(load_LE), self.ep, -1).sum(axis=2)
        there = by_rank[by_rank.sum(axis=1) > 0]
        worst = there.max(axis=1) * self.ep / there.sum(axis=1)
        return float(worst.max()) if len(there) else None


def padding_kind(ids_RK: Ids, num_experts: int) -> Counter[str]:
    """What filler rows hold: zero, arange, minus-one, distinct, repeated or outside 0..E-1."""
    top_k = ids_RK.shape[1]
    ordered = np.sort(ids_RK, axis=1)
    repeated = (np.diff(ordered, axis=1) == 0).any(axis=1)
    minus_one = (ids_RK == -1).all(axis=1)
    outside = ((ids_RK < 0) | (ids_RK >= num_experts)).any(axis=1) & ~minus_one
    zero = (ids_RK == 0).all(axis=1)
    arange = (ids_RK == np.arange(top_k)).all(axis=1) & ~zero
    kinds = {"minus-one": minus_one, "outside": outside, "zero": zero, "arange": arange}
    known = np.logical_or.reduce(list(kinds.values()))
    kinds |= {"repeated": repeated & ~known, "distinct": ~repeated & ~known}
    return Counter({name: int(rows.sum()) for name, rows in kinds.items() if rows.any()})


def _load(ids_RK: Ids, num_experts: int) -> NDArray[np.int64]:
    load_E = np.zeros(num_experts, np.int64)
    for first in range(0, len(ids_RK), _LOAD_ROWS):
        part = ids_RK[first : first + _LOAD_ROWS]
        legal = part[(part >= 0) & (part < num_experts)]
        load_E += np.bincount(legal.astype(np.int64), minlength=num_experts)
    return load_E


def check_tensors(
    tally: Tally,
    ids: RankIds,
    packing: Packing,
    rank: Rank,
    samples: Iterable[tuple[int, Routes | None]],
) -> None:
    """Add one rank's tensors of one micro-batch to a tally.

    samples are (index in the dump, routes) in packed order, each looked at once and let go; R must
    be what the layout says.
    """
    rows, runs = packing.num_rows(rank.tp), packing.runs(rank.cp, rank.tp)
    runs_of: dict[int, list[Run]] = {}
    owed_R = np.zeros(rows, np.bool_)
    for run in runs:
        runs_of.setdefault(run.sample, []).append(run)
        due = run.within(0, owed_rows(packing.lens[run.sample]))
        if due is not None:
            owed_R[due.rows] = True
    layers = [_Layer(n, tally.layers_L.index(n), ids_RK) for n, ids_RK in ids.layers.items()]
    for place, (index, held) in enumerate(samples):
        for run in runs_of.get(place, ()):
            found = None if held is None else run.within(held.start, held.stop)
            if held is not None and found is not None:
                for layer in layers:
                    layer.compare(tally, (index, held), found, ids.place)
    for i, layer in enumerate(layers):
        layer.tell(tally, ids.place)
        said = ids.mask if ids.mask is None or ids.mask.ndim == 1 else ids.mask[i]
        _check_others(tally, layer, said, owed_R)


@dataclass(slots=True, eq=False)
class _Layer:
    """A layer of a rank's tensors: which rows are routes, and what was wrong with them."""

    number: int
    column: int
    ids_RK: Ids
    real_R: Bools = field(init=False)
    wrong: WrongLayer = field(default_factory=WrongLayer)
    same: bool = True  # while every row is the same in every slot
    examples: list[WrongRow] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.real_R = np.zeros(len(self.ids_RK), np.bool_)

    def compare(self, tally: Tally, sample: tuple[int, Routes], run: Run, place: str) -> None:
        """Hold the rows of a run against a sample's (index, routes)."""
        index, held = sample
        part = slice(run.position - held.start, run.position - held.start + run.size)
        there = np.ones(run.size, np.bool_)
        if held.missing_TL is not None:
            there = ~held.missing_TL[part, self.column]
        at = run.row + run.step * np.flatnonzero(there)
        self.real_R[at] = True
        where = (place, self.number, at, index, run.position + np.flatnonzero(there))
        wrong = self._compare(tally, held.ids_TLK[part, self.column][there], where)
        if wrong.any():
            self.wrong.look(self.ids_RK[at], held, part.start + np.flatnonzero(there), wrong)
        again = tally.once.meet(index, held, (part, self.column), there, ~wrong)
        tally.once.stray(self.column, self.ids_RK[at[wrong | again]])

    def _compare(self, tally: Tally, expected: Ids, where: tuple[Any, ...]) -> Bools:
        """Count rows with other experts than expected; returns which they are."""
        place, layer, rows, sample, positions = where
        got = self.ids_RK[rows]
        tally.rows += len(got)
        self.wrong.rows += len(got)
        unequal = (got != expected).any(axis=1)
        wrong = np.zeros(len(got), np.bool_)
        if not unequal.any():
            return wrong
        sets = np.sort(got[unequal], axis=1), np.sort(expected[unequal], axis=1)
        wrong[unequal] = (sets[0] != sets[1]).any(axis=1)
        tally.wrong += int(wrong.sum())
        tally.reordered += int((unequal & ~wrong).sum())
        self.same = False
        if wrong.any():
            self.wrong.add(got, expected, positions, wrong)
        for n in np.flatnonzero(wrong)[: _EXAMPLES - len(self.examples)].tolist():
            ids = tuple(got[n].tolist()), tuple(expected[n].tolist())
            self.examples.append(
                WrongRow(place, layer, int(rows[n]), sample, int(positions[n]), *ids)
            )
        return wrong

    def tell(self, tally: Tally, place: str) -> None:
        """Say what was wrong, when all samples were compared."""
        if not self.same:
            tally.wrong_at.setdefault(place, {})[self.number] = self.wrong
        tally.add_examples(self.examples)


def _check_others(tally: Tally, layer: _Layer, said: Bools | None, owed_R: Bools) -> None:
    """Count the rows of a layer that are no route, and what its mask says of all."""
    ids_RK, real_R, column = layer.ids_RK, layer.real_R, layer.column
    tally.load_LE[column] += _load(ids_RK[real_R], tally.num_experts)
    tally.filler_LE[column] += _load(ids_RK[~real_R], tally.num_experts)
    kinds = padding_kind(ids_RK[~real_R], tally.num_experts)
    tally.padding = Counter(tally.padding) + kinds
    if said is not None:
        tally.masked += int((real_R & ~said).sum())
        tally.unmasked += int((~real_R & said).sum())
    unplaced_R = ~real_R if said is None else ~real_R & said
    tally.once.stray(column, ids_RK[unplaced_R], spare=said is None)
    missing_R = owed_R & ~real_R
    tally.missing += int(missing_R.sum())
    made_up_R = missing_R & (ids_RK != -1).any(axis=1)
    if tally.allow_missing and said is not None:
        made_up_R &= said
    tally.made_up += int(made_up_R.sum())
