"""staleness: one dump against the weights of several versions, and those against each other."""

import operator
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import reduce
from itertools import combinations

import numpy as np

from ...dump import Dump
from ...errors import MismatchError
from ...visible import visible
from ..diff.diff import diff_as
from ..diff.options import DiffOptions
from ..diff.result import DiffResult
from ..diff.thresholds import Unmatched
from .attribution import GROUPS, MODES, BoundaryRule, SpanCounts, Version, only_rows
from .comparison import Comparison, intervals_of
from .drift import (
    Drift,
    ExpertMove,
    Nearest,
    expert_moves,
    layer_speeds,
    nearest_version,
)
from .half_life import half_lives
from .options import Noise, StalenessOptions
from .order import Disorder, disorders_of
from .sides import Recompute, Sides, lay_out

__all__ = ["Cell", "Noise", "Staleness", "StalenessOptions", "staleness"]


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """The dump's rows of version ``own`` against the routes of ``version``."""

    own: str
    version: str
    lag: int
    mode: str
    result: DiffResult


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Staleness:
    """The four comparisons side by side; they do not add up.

    versions     names, in the order given; places where they stand (a lag is a difference)
    comparisons  per mode: mismatch (the dump's rows against their own version, added up), where a
                 row's version is known; staleness of every pair of versions; total (the dump
                 against the last version)
    by_lag       staleness added up over all pairs of one lag, per mode, by ascending lag
    cells        the dump's rows of each version against every version
    apart        where some rows need care, the mismatch by group: first, switched, boundary,
                 cached, uncertain (see SpanCounts), each row against its own version, and
                 boundary_before: those of a boundary against the version before it; groups
                 without rows are absent. switched rows are in the mismatch above too, cached ones
                 where cached_apart is False
    spans        rows and samples by what the spans say
    boundary     where a span of the dump's engine begins
    unmatched    samples with routes that the recompute of a version that made them lacks, or every
                 recompute; of the others, rows that the recompute of their own version lost
    disorders    versions that are given in another order than their names, or the dump, say
    drift        speed, half-life, experts that move, nearest version
    noise        as given
    """

    versions: tuple[str, ...]
    places: tuple[int, ...]
    comparisons: tuple[Comparison, ...]
    by_lag: tuple[Comparison, ...]
    cells: tuple[Cell, ...]
    apart: dict[str, tuple[Comparison, ...]]
    spans: SpanCounts
    cached_apart: bool
    drift: Drift
    noise: tuple[Noise, ...]
    boundary: BoundaryRule
    unmatched: Unmatched
    disorders: tuple[Disorder, ...]

    def __repr__(self) -> str:
        kinds = ("mismatch", "total")
        told = [
            f"{c.kind} {c.mode} {c.mismatch_rate or 0:.2%}"
            for c in self.comparisons
            if c.kind in kinds
        ]
        lags = [f"lag {c.lag} {c.mode} {c.mismatch_rate or 0:.2%}" for c in self.by_lag]
        return (
            f"<Staleness over {visible(', '.join(self.versions), 120)}: {', '.join(told)}\n"
            f" staleness {', '.join(lags[:6])}{', ...' if lags[6:] else ''}>"
        )

    def find(self, kind: str, mode: str, lag: int | None = None) -> Comparison | None:
        """The mismatch or the total of a mode, or its staleness at a lag; None when absent."""
        parts = self.by_lag if kind == "staleness" else self.comparisons
        found = (c for c in parts if (c.kind, c.mode) == (kind, mode))
        return next((c for c in found if kind != "staleness" or c.lag == lag), None)

    @property
    def modes(self) -> tuple[str, ...]:
        """The modes that something was compared in: free, forced."""
        return tuple(dict.fromkeys(c.mode for c in self.comparisons))


class _Run:
    """One run of the verb: the dumps, laid side by side once."""

    def __init__(self, sides: Sides, options: StalenessOptions) -> None:
        self.options = options
        self.names, self.places = sides.names, sides.places
        self.dump, self.recomputes, self.owned = sides.dump, sides.recomputes, sides.owned
        self.clustering = sides.clustering
        rows = (*self.owned.sizes.sum(axis=1).tolist(), *self.owned.counts.unknown.values())
        labels = sum(number > 0 for number in rows)
        self.cached_apart = options.cached == "apart" or (options.cached == "auto" and labels > 1)

    def _diff(self, old: Dump, new: Dump, what: str, *, part: bool = True) -> DiffResult:
        """Compare two dumps whose samples have the same names; ``part``: see DiffOptions."""
        options = self.options
        asked = DiffOptions(
            "id", options.tokens, options.layers, options.examples, options.detail, part, True
        )
        try:
            return diff_as(old, new, asked)
        except MismatchError as error:
            raise MismatchError(f"{what}: {error}", hint=error.hint) from error

    def _comparison(
        self,
        kind: str,
        names: tuple[str, str],
        lag: int | None,
        mode: str,
        parts: Mapping[tuple[str, str], DiffResult],
    ) -> Comparison:
        """The sum of some results, with its intervals."""
        result = reduce(operator.add, parts.values())
        intervals = intervals_of(result, self.clustering)
        return Comparison(kind, *names, lag, mode, result, intervals, tuple(parts))

    def _own_rows(self, version: int, against: int, mode: str, groups: Sequence[str]) -> DiffResult:
        """The dump's rows of one version and some groups against the routes of another."""
        own, other = self.names[version], self.names[against]
        rows = self.owned.rows_of(version, groups)
        what = f"the dump's rows of version {own} against version {other} ({mode})"
        return self._diff(rows, self.recomputes[against][mode].routes, what)

    def cells(self) -> tuple[Cell, ...]:
        """The dump's rows of each version against every version."""
        groups = ("first", "switched") if self.cached_apart else ("first", "switched", "cached")
        sizes = self.owned.sizes[:, [GROUPS.index(group) for group in groups]].sum(axis=1)
        return tuple(
            Cell(
                self.names[v],
                self.names[w],
                self.places[w] - self.places[v],
                mode,
                self._own_rows(v, w, mode, groups),
            )
            for v in np.flatnonzero(sizes).tolist()
            for w, modes in enumerate(self.recomputes)
            for mode in modes
        )

    def mismatches(self, cells: Sequence[Cell]) -> list[Comparison]:
        """Per mode, the dump's rows against their own version."""
        found = []
        for mode in MODES:
            own = [c for c in cells if c.own == c.version and c.mode == mode]
            if own:
                parts = {("dump", c.version): c.result for c in own}
                names = ("dump", "own version")
                found.append(self._comparison("mismatch", names, 0, mode, parts))
        return found

    def totals(self) -> list[Comparison]:
        """Per mode, the dump against the last version."""
        found = []
        for mode, recompute in self.recomputes[-1].items():
            names = ("dump", self.names[-1])
            what = f"the dump against version {names[1]} ({mode})"
            result = self._diff(self.dump, recompute.routes, what)
            lags = {
                self.places[-1] - place
                for place, rows in zip(self.places, self.owned.sizes.sum(axis=1), strict=True)
                if rows
            }
            known = len(lags) == 1 and not self.owned.counts.rows["unlabelled"]
            lag = lags.pop() if known else None
            found.append(self._comparison("total", names, lag, mode, {names: result}))
        return found

    def _rows_of_dump(self, recompute: Recompute) -> Dump:
        """A version's routes, without the rows that the dump does not have."""
        if self.options.rows == "all":
            return recompute.routes
        places = recompute.places
        return only_rows(recompute.routes, lambda n, s: self.owned.covered(places[n], s))

    def pairs(self) -> list[Comparison]:
        """Version against version, an older one against every newer one."""
        found = []
        for mode in MODES:
            having = [v for v, modes in enumerate(self.recomputes) if mode in modes]
            for v, w in combinations(having, 2):
                names = (self.names[v], self.names[w])
                old, new = (
                    self._rows_of_dump(self.recomputes[v][mode]),
                    self.recomputes[w][mode].routes,
                )
                what = f"versions {names[0]} and {names[1]} ({mode})"
                result = self._diff(old, new, what, part=self.options.rows == "dump")
                lag = self.places[w] - self.places[v]
                found.append(self._comparison("staleness", names, lag, mode, {names: result}))
        return found

    def by_lag(self, pairs: Sequence[Comparison]) -> tuple[Comparison, ...]:
        """The pairs of one mode and lag, added up."""
        found = []
        for mode in MODES:
            of_mode = [pair for pair in pairs if pair.mode == mode]
            for lag in sorted({pair.lag for pair in of_mode if pair.lag is not None}):
                parts = {(p.old, p.new): p.result for p in of_mode if p.lag == lag}
                names = next(iter(parts)) if len(parts) == 1 else ("older", "newer")
                found.append(self._comparison("staleness", names, lag, mode, parts))
        return tuple(found)

    def apart(self) -> dict[str, tuple[Comparison, ...]]:
        """The mismatch by group, where there are several; empty groups are absent."""
        sizes = self.owned.sizes.sum(axis=0).tolist()
        having = [group for group, size in zip(GROUPS, sizes, strict=True) if size]
        found = {}
        for group in having if having != ["first"] else ():
            column = self.owned.sizes[:, GROUPS.index(group)]
            made = {v: self.owned.rows_of(v, (group,)) for v in np.flatnonzero(column).tolist()}
            found[group] = self._apart(made, "own version")
            if group == "boundary":
                after = {v: self.owned.rows_after(v) for v in range(len(self.names))}
                found["boundary_before"] = self._apart(after, "version before")
        return {group: parts for group, parts in found.items() if parts}

    def _apart(self, rows: Mapping[int, Dump], whose: str) -> tuple[Comparison, ...]:
        """Per mode, rows of the dump against the version that they are listed under, added up."""
        found = []
        for mode in MODES:
            parts = {}
            for v, dump in rows.items():
                if mode in self.recomputes[v]:
                    with suppress(MismatchError):  # not among the tokens that are compared
                        what = f"some of the dump's rows against version {self.names[v]} ({mode})"
                        routes = self.recomputes[v][mode].routes
                        parts["dump", self.names[v]] = self._diff(dump, routes, what)
            if parts:
                found.append(self._comparison("mismatch", ("dump", whose), 0, mode, parts))
        return tuple(found)

    def unmatched(self, cells: Sequence[Cell]) -> Unmatched:
        """Samples that a version should cover and does not, and rows of the others."""
        having = [{i for of in modes.values() for i in of.places} for modes in self.recomputes]
        samples = 0
        for index in range(len(self.dump)):
            made = self.owned.versions_of(index)
            if made is not None:
                covered = any(index in of for of in having)
                samples += not covered or any(index not in having[v] for v in made)
        lost: dict[str, int] = {}
        for cell in cells:
            if cell.own == cell.version:
                rows = cell.result.counts.lost_old
                lost[cell.own] = max(lost.get(cell.own, 0), rows)
        return Unmatched(samples, 0, sum(lost.values()))

    def drift(
        self, pairs: Sequence[Comparison], by_lag: Sequence[Comparison], cells: Sequence[Cell]
    ) -> Drift:
        """Speed, half-life, experts and nearest versions, from what was compared."""
        modes = [c.mode for c in by_lag]
        mode = next((m for m in reversed(MODES) if m in modes), None)
        if mode == "forced" and modes.count("forced") < modes.count("free"):
            mode = "free"
        lags = [c for c in by_lag if c.mode == mode]
        speeds = layer_speeds(lags)
        moving = sorted((s for s in speeds[1:] if s.rows_mismatched), key=lambda s: -s.rate)
        experts, between = self._experts(mode, pairs)
        return Drift(
            mode=mode,
            speeds=speeds,
            half_lives=half_lives(lags, self.clustering),
            fastest_layers=tuple(s.layer for s in moving if s.layer is not None),
            experts=experts,
            experts_between=between,
            nearest=self._nearest(cells),
        )

    def _experts(
        self, mode: str | None, pairs: Sequence[Comparison]
    ) -> tuple[tuple[ExpertMove, ...], tuple[str, str] | None]:
        """The experts that moved most from the first version to the last, and their names."""
        having = [v for v, modes in enumerate(self.recomputes) if mode in modes]
        if mode is None or len(having) < 2:
            return (), None
        v, w = having[0], having[-1]
        names = (self.names[v], self.names[w])
        old, new = self._rows_of_dump(self.recomputes[v][mode]), self.recomputes[w][mode].routes
        result = next(p for p in pairs if (p.old, p.new, p.mode) == (*names, mode)).result
        return expert_moves(old, new, result, self.options.experts), names

    def _nearest(self, cells: Sequence[Cell]) -> tuple[Nearest, ...]:
        """The version closest to each version's rows, where there is a choice."""
        found = []
        for own, mode in dict.fromkeys((c.own, c.mode) for c in cells):
            results = {c.version: c.result for c in cells if (c.own, c.mode) == (own, mode)}
            if len(results) > 1:
                found.append(nearest_version(own, mode, results, self.clustering))
        return tuple(found)


def staleness(
    dump: Dump, versions: Sequence[Version], options: StalenessOptions | None = None
) -> Staleness:
    """Compare a dump with recomputes of its tokens at several weights, and these with each other.

    versions are in the order of training, the last one the current weights. Each recompute must
    hold the dump's sequences; samples that one does not have are left out of its comparisons.

    - mismatch: the dump's rows against the recompute of their own version (``Attribution``)
    - staleness: version against version, over the rows that have a route in the dump
      (``rows="all"`` for every row that both versions have); forced against forced isolates each
      layer's own flip, since both were given the dump's routes on the way
    - total: all of the dump's rows, whatever made them, against the last version

    A row at a boundary between two versions may be of either (``BoundaryRule``): it is in the
    total, and in ``apart``.

    With one version there is no staleness and no drift: by_lag is empty, the mismatch stands.
    Log-prob figures are in each result where both sides have log-probs.

    Raises MismatchError when the dump does not say which version made its rows (and ``own`` does
    not either), none of the named versions made any, a version has other layers, E or K, or no row
    is in common; ValueError for misuse. Formulas and sources: docs/metrics.md.
    """
    options = options or StalenessOptions()
    run = _Run(lay_out(dump, versions, options), options)
    cells = run.cells()
    totals = run.totals()
    pairs = run.pairs()
    by_lag = run.by_lag(pairs)
    return Staleness(
        versions=run.names,
        places=run.places,
        comparisons=(*run.mismatches(cells), *pairs, *totals),
        by_lag=by_lag,
        cells=cells,
        apart=run.apart(),
        spans=run.owned.counts,
        cached_apart=run.cached_apart,
        drift=run.drift(pairs, by_lag, cells),
        noise=options.noise,
        boundary=run.owned.boundary,
        unmatched=run.unmatched(cells),
        disorders=disorders_of(run.owned),
    )
