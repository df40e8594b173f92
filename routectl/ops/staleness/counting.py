"""One pass over a dump and the recomputes of its tokens: each stored sample is read once.

All comparisons are fed from it; what is counted of parts adds up, in any order.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ...dump import Dump, Sample, SampleKey
from ...errors import MismatchError
from ..pairs.align import Aligner, common_layers
from .attribution import MODES, Labels
from .census import Census
from .clusters import Clusters, SampleCluster, cluster_of
from .comparison import ComparisonCounts
from .drift import MoveCounts
from .gain import GainCounts, GainTally
from .gamma import RouterShift, ShiftTally
from .plan import Pair, Side, StalenessPlan
from .sides import SampleRun
from .tally import ComparisonTally, Which

__all__ = ["Figure", "StalenessCounts", "count_run", "told"]

_V = TypeVar("_V", bound=Any)


class Figure(NamedTuple):
    """A figure whose clusters are counted, by what it is told as: (name, mode).

    name is apart or own: the mismatch; total; a group of GROUPS; before; a lag, two versions, or
    one: gain.
    """

    kind: str
    name: Any
    mode: str


@dataclass(frozen=True, slots=True, eq=False)
class StalenessCounts:
    """What one pass over some samples counts: a part of a staleness, of bounded size.

    samples    of the dump; held: those that a side has; both: those that both of a pair have
    unmatched  with routes, that the recompute of a version that made them lacks, or every one
    clusters   by figure
    gains      by version, what replay gains: see gain.py
    """

    plan: StalenessPlan
    census: Census
    counted: Mapping[Which, ComparisonCounts]
    clusters: Mapping[Figure, Clusters]
    moves: MoveCounts | None
    shifts: Mapping[Pair, RouterShift]
    samples: int
    held: Mapping[Side, int]
    both: Mapping[Pair, int]
    unmatched: int
    gains: Mapping[int, GainCounts]

    def __add__(self, other: "StalenessCounts") -> "StalenessCounts":
        if self.plan != other.plan:
            raise MismatchError("parts of other dumps or versions, or counted otherwise")
        moves = [one for one in (self.moves, other.moves) if one is not None]
        return StalenessCounts(
            self.plan,
            self.census + other.census,
            _added(self.counted, other.counted),
            _added(self.clusters, other.clusters),
            moves[0] + moves[1] if len(moves) == 2 else next(iter(moves), None),
            _added(self.shifts, other.shifts),
            self.samples + other.samples,
            _added(self.held, other.held),
            _added(self.both, other.both),
            self.unmatched + other.unmatched,
            _added(self.gains, other.gains),
        )


_K = TypeVar("_K")


def _added(a: Mapping[_K, _V], b: Mapping[_K, _V]) -> dict[_K, _V]:
    """What both have by key, added up."""
    found = dict(a)
    for key, value in b.items():
        found[key] = found[key] + value if key in found else value
    return found


@dataclass(slots=True)
class _Counting:
    """The tallies of one run of samples."""

    plan: StalenessPlan
    census: Census
    tallies: dict[Which, ComparisonTally] = field(default_factory=dict)
    met: dict[Figure, list[SampleCluster]] = field(default_factory=dict)
    moves: MoveCounts | None = None
    aligner: Aligner | None = None
    shifts: dict[Pair, ShiftTally] = field(default_factory=dict)
    held: dict[Side, int] = field(default_factory=dict)
    both: dict[Pair, int] = field(default_factory=dict)
    unmatched: int = 0
    gains: list[GainTally] = field(default_factory=list)

    def tally(self, which: Which) -> ComparisonTally:
        """That of a comparison. Raises MismatchError for dumps that cannot be laid side by side."""
        if which not in self.tallies:
            self.tallies[which] = ComparisonTally(which, self.plan)
        return self.tallies[which]


@dataclass(frozen=True, slots=True, eq=False)
class _Compared:
    """One sample of the dump, and those of the sides that have it, under one name."""

    index: int
    key: SampleKey
    cluster: SampleCluster
    sample: Sample
    labels: Labels | None
    routes: Mapping[Side, Sample]

    def of(self, version: int) -> dict[str, Sample]:
        """The samples of a version, by mode."""
        return {mode: sample for (v, mode), sample in self.routes.items() if v == version}


def count_run(
    plan: StalenessPlan, dump: Dump, routes: Mapping[Side, Dump], run: SampleRun
) -> StalenessCounts:
    """Compare some samples: each one of the dump, and of each side that has it, is read once."""
    by = plan.attributor
    counting = _Counting(plan, Census.empty(plan.names))
    _begin(counting)
    for n in range(len(run)):
        index = run.start + n
        key, read = dump.keys[index], dump[index]
        name = f"#{index}" if key.sample_id is None else key.sample_id
        name = f"{name} #{index}" if run.repeated_S[n] else name
        sample = replace(read, sample_id=name)
        labels = by.labels(sample)
        counting.census += Census.of(index, sample, labels, by)
        there = {
            side: replace(routes[side][int(found_S[n])], sample_id=name)
            for side, found_S in run.partners_S.items()
            if found_S[n] >= 0
        }
        cluster = cluster_of(key, index, plan.options.clusters)
        _compare(counting, _Compared(index, key, cluster, sample, labels, there))
    return StalenessCounts(
        plan,
        counting.census,
        {which: tally.counted() for which, tally in counting.tallies.items()},
        {figure: Clusters.of(found) for figure, found in counting.met.items()},
        counting.moves,
        {pair: tally.result() for pair, tally in counting.shifts.items()},
        len(run),
        counting.held,
        counting.both,
        counting.unmatched,
        {version: tally.counted() for version, tally in enumerate(counting.gains)},
    )


def _begin(counting: _Counting) -> None:
    """Make what has figures whatever the samples are."""
    plan, options = counting.plan, counting.plan.options
    last = len(plan.names) - 1
    for v, mode in plan.sides:
        name = plan.names[v]
        with told(f"the dump's rows of version {name} against version {name} ({mode})"):
            counting.tally(Which("own", v, v, mode))
        if v == last:
            with told(f"the dump against version {name} ({mode})"):
                counting.tally(Which("total", -1, v, mode))
    for v, w, mode in plan.pairs:
        with told(f"versions {plan.names[v]} and {plan.names[w]} ({mode})"):
            counting.tally(Which("pair", v, w, mode))
    for v, w, mode in plan.gated:
        sides = plan.sides[v, mode], plan.sides[w, mode]
        counting.shifts[v, w, mode] = ShiftTally(*sides, options.tokens, options.layers)
    if options.tokens != "prompt":
        counting.gains = [GainTally(v, plan) for v in range(len(plan.names))]
    if plan.moved is not None:
        v, w, mode = plan.moved
        metas = plan.sides[v, mode], plan.sides[w, mode]
        common, _, _ = common_layers(*metas, options.layers)
        counting.aligner = Aligner(*metas, (common, (), ()), options.tokens, by_prompt=False)


@contextmanager
def told(what: str) -> Iterator[None]:
    """Say of what a MismatchError is."""
    try:
        yield
    except MismatchError as error:
        raise MismatchError(f"{what}: {error}", hint=error.hint) from error


def _compare(counting: _Counting, found: _Compared) -> None:
    """Feed all comparisons of one sample."""
    plan, sample, labels = counting.plan, found.sample, found.labels
    for side in found.routes:
        counting.held[side] = counting.held.get(side, 0) + 1
    groups = {} if labels is None else labels.groups_of(len(plan.names))
    if labels is not None:
        having = [{w for w, mode in found.routes if mode in MODES}]
        made = labels.versions(len(plan.names))
        counting.unmatched += not having[0] or not made <= having[0]
    met: set[Figure] = set()
    for v in range(len(plan.names)):
        _own_rows(counting, found, v, groups.get(v, ()), met)
        if labels is not None and v in labels.before.values():
            _boundary(counting, found, v, met)
    last = len(plan.names) - 1
    for mode in (mode for v, mode in plan.sides if v == last):
        which = Which("total", -1, last, mode)
        with told(f"the dump against version {plan.names[last]} ({mode})"):
            if _fed(counting, which, found, sample, found.routes.get((last, mode))):
                met.add(Figure("total", "", mode))
    _pairs(counting, found, met)
    for v, tally in enumerate(counting.gains if labels is not None else ()):
        assert labels is not None
        if tally.add(sample, labels, found.of(v), found.cluster):
            met.add(Figure("gain", v, ""))
    for figure in met:
        counting.met.setdefault(figure, []).append(found.cluster)


def _fed(
    counting: _Counting, which: Which, found: _Compared, old: Sample | None, new: Sample | None
) -> bool:
    return counting.tally(which).add(old, new, found.index, found.key, found.cluster)


def _own_rows(
    counting: _Counting, found: _Compared, v: int, had: tuple[str, ...], met: set[Figure]
) -> None:
    """The sample's rows of one version against every version, once for each choice of groups."""
    plan, labels, sample = counting.plan, found.labels, found.sample
    told_as: dict[tuple[str, ...], list[tuple[str, str]]] = {}
    for cached, groups in plan.mismatches.items():
        told_as.setdefault(_of(had, groups), []).append(("mismatch", cached))
    mismatches = tuple(told_as)
    for group in had:
        told_as.setdefault((group,), []).append(("group", group))
    for kept, names in told_as.items():
        rows = sample if labels is None else labels.rows_of(sample, v, kept)
        for w, mode in plan.sides:
            of_older = kept == ("cached",) and w < v
            if w != v and not of_older and (not kept or kept not in mismatches):
                continue
            what = (
                f"the dump's rows of version {plan.names[v]} against version {plan.names[w]} "
                f"({mode})"
            )
            old = rows if w == v else _without_margins(rows)
            new = found.routes.get((w, mode))
            new = new if w == v or new is None else _without_margins(new)
            with told(what):
                compared = _fed(counting, Which("own", v, w, mode, had, kept), found, old, new)
            if w == v and compared:
                met.update(Figure(kind, name, mode) for kind, name in names)


def _of(had: tuple[str, ...], groups: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(group for group in had if group in groups)


def _without_margins(sample: Sample) -> Sample:
    """A sample of whose margins nothing is told."""
    routes = sample.routes
    if routes is None or (routes.margin_TL is None and routes.group_margin_TL is None):
        return sample
    return replace(sample, routes=replace(routes, margin_TL=None, group_margin_TL=None))


def _boundary(counting: _Counting, found: _Compared, v: int, met: set[Figure]) -> None:
    """The sample's rows at a boundary after a version, against that version."""
    assert found.labels is not None
    rows = found.labels.rows_after(found.sample, v)
    for w, mode in counting.plan.sides:
        if w == v:
            which = Which("before", v, v, mode)
            if _fed(counting, which, found, rows, found.routes.get((v, mode))):
                met.add(Figure("before", "", mode))


def _pairs(counting: _Counting, found: _Compared, met: set[Figure]) -> None:
    """The routes of each version against those of every newer one."""
    plan, labels = counting.plan, found.labels
    covered = {
        side: _rows_of_dump(sample, labels) if plan.options.rows == "dump" else sample
        for side, sample in found.routes.items()
        if side[1] in MODES
    }
    for pair in plan.pairs:
        v, w, mode = pair
        old, new = covered.get((v, mode)), found.routes.get((w, mode))
        if old is None and new is None:
            continue
        with told(f"versions {plan.names[v]} and {plan.names[w]} ({mode})"):
            if _fed(counting, Which("pair", v, w, mode), found, old, new):
                met |= {Figure("pair", (v, w), mode), Figure("lag", plan.lag(pair), mode)}
        if old is None or new is None:
            if pair in counting.shifts:
                counting.shifts[pair].leave(1)
            continue
        counting.both[pair] = counting.both.get(pair, 0) + 1
        if pair in counting.shifts:
            older = found.routes[v, mode]
            counting.shifts[pair].add(older, new, found.index, found.key)
        if pair == plan.moved and old.routes is not None and new.routes is not None:
            assert counting.aligner is not None
            laid = counting.aligner.pair(old, new, old.sample_id or "")
            moves = MoveCounts.of_pair(laid, plan.dump.num_experts)
            counting.moves = moves if counting.moves is None else counting.moves + moves


def _rows_of_dump(sample: Sample, labels: Labels | None) -> Sample:
    """A version's sample, without the rows that the dump does not have."""
    if labels is not None:
        return labels.covered(sample)
    routes = sample.routes
    if routes is None:
        return sample
    return replace(sample, routes=routes.only(np.zeros(routes.num_tokens, np.bool_)))
