"""From what one pass counted to comparisons with intervals, and to drift."""

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import reduce

from ..diff.counts import SampleCounts
from ..diff.thresholds import Unmatched
from .attribution import GROUPS, MODES
from .clusters import Clusters
from .comparison import Comparison, ComparisonCounts, intervals_of
from .counting import Figure, StalenessCounts, told
from .drift import Drift, ExpertMove, Nearest, expert_moves, layer_speeds, nearest_version
from .gamma import RouterShift, checked_shift
from .half_life import half_lives
from .plan import SURE, Pair
from .prefixes import OlderPrefixes, older_prefixes
from .replays import Gains, gains_of
from .tally import Which

__all__ = ["Figures"]


class Figures:
    """What counts of all samples say, figure by figure."""

    def __init__(self, counts: StalenessCounts) -> None:
        self.counts, self.plan = counts, counts.plan
        self.names, self.places, self.options = (
            self.plan.names,
            self.plan.places,
            self.plan.options,
        )
        self.sizes = counts.census.sizes
        asked = self.options.cached
        several = counts.census.several
        self.cached = asked if asked != "auto" else "apart" if several else "own"
        self.groups = self.plan.mismatches[self.cached]

    def _sum(
        self, parts: Iterable[ComparisonCounts], samples: SampleCounts, joined: int
    ) -> ComparisonCounts:
        """Parts of one comparison; so many samples are on both sides."""
        total = reduce(operator.add, parts)
        result = total.result
        return replace(
            total,
            result=replace(
                result, samples=result.samples + samples, match={"id": joined} if joined else {}
            ),
        )

    def _own(self, v: int, w: int, mode: str, groups: tuple[str, ...]) -> ComparisonCounts | None:
        """The dump's rows of a version and some groups against a version; None where none is."""
        samples, held = self.counts.samples, self.counts.held.get((w, mode), 0)
        parts = [
            part
            for which, part in sorted(self.counts.counted.items())
            if which[:4] == ("own", v, w, mode)
            and set(which.kept) == set(which.had) & set(groups)
            and (which.kept or v == w)
        ]
        return self._sum(parts, SampleCounts(old=samples, new=held), held) if parts else None

    def _comparison(
        self,
        kind: str,
        names: tuple[str, str],
        lag: int | None,
        mode: str,
        parts: Mapping[tuple[str, str], ComparisonCounts],
        figure: Figure,
    ) -> Comparison:
        """The sum of some comparisons, with its intervals."""
        total, options = reduce(operator.add, parts.values()), self.options
        clusters = self.counts.clusters.get(figure, Clusters()).number
        top_k = self.plan.dump.top_k
        intervals = intervals_of(total.sums, top_k, clusters, options.bootstrap)
        return Comparison(kind, *names, lag, mode, total, intervals, tuple(parts))

    def cells(self) -> dict[tuple[int, int, str], ComparisonCounts]:
        """The dump's rows of each version against every version that has some of them.

        Raises MismatchError where their own version has none.
        """
        found = self._cells(self.groups)
        for (v, w, mode), cell in found.items():
            if v == w:
                name = self.names[v]
                with told(f"the dump's rows of version {name} against version {name} ({mode})"):
                    cell.result.refuse_nothing()
        return {key: cell for key, cell in found.items() if cell.result.rows}

    def sure_cells(self) -> dict[tuple[int, int, str], ComparisonCounts]:
        """The same without rows of reused prefixes."""
        return self._having_rows(SURE)

    def _having_rows(self, groups: tuple[str, ...]) -> dict[tuple[int, int, str], ComparisonCounts]:
        return {key: cell for key, cell in self._cells(groups).items() if cell.result.rows}

    def _cells(self, groups: tuple[str, ...]) -> dict[tuple[int, int, str], ComparisonCounts]:
        columns = [GROUPS.index(group) for group in groups]
        found = {}
        for v in range(len(self.names)):
            for w, mode in self.plan.sides if self.sizes[v, columns].sum() else ():
                cell = self._own(v, w, mode, groups)
                if cell is not None:
                    found[v, w, mode] = cell
        return found

    def mismatches(
        self, cells: Mapping[tuple[int, int, str], ComparisonCounts]
    ) -> list[Comparison]:
        """Per mode, the dump's rows against their own version."""
        found = []
        for mode in MODES:
            parts = {
                ("dump", self.names[v]): cell
                for (v, w, of), cell in cells.items()
                if v == w and of == mode
            }
            if parts:
                figure = Figure("mismatch", self.cached, mode)
                names = ("dump", "own version")
                found.append(self._comparison("mismatch", names, 0, mode, parts, figure))
        return found

    def totals(self) -> list[Comparison]:
        """Per mode, the dump against the last version."""
        found, last = [], len(self.names) - 1
        names = ("dump", self.names[last])
        for mode in (mode for v, mode in self.plan.sides if v == last):
            held = self.counts.held.get((last, mode), 0)
            part = self.counts.counted[Which("total", -1, last, mode)]
            samples = SampleCounts(old=self.counts.samples, new=held)
            with told(f"the dump against version {names[1]} ({mode})"):
                part = _checked(self._sum([part], samples, held))
            made = self.sizes.sum(axis=1).tolist()
            lags = {
                self.places[-1] - place
                for place, rows in zip(self.places, made, strict=True)
                if rows
            }
            known = len(lags) == 1 and not self.counts.census.counts.rows["unlabelled"]
            lag, figure = lags.pop() if known else None, Figure("total", "", mode)
            found.append(self._comparison("total", names, lag, mode, {names: part}, figure))
        return found

    def pairs(self) -> list[Comparison]:
        """Version against version, an older one against every newer one."""
        found = []
        for pair in self.plan.pairs:
            v, w, mode = pair
            names = (self.names[v], self.names[w])
            both = self.counts.both.get(pair, 0)
            sides = (self.counts.held.get((x, mode), 0) for x in (v, w))
            part = self.counts.counted[Which("pair", v, w, mode)]
            with told(f"versions {names[0]} and {names[1]} ({mode})"):
                part = _checked(self._sum([part], SampleCounts(*sides), both))
            lag, figure = self.plan.lag(pair), Figure("pair", (v, w), mode)
            found.append(self._comparison("staleness", names, lag, mode, {names: part}, figure))
        return found

    def by_lag(self, pairs: Sequence[Comparison]) -> tuple[Comparison, ...]:
        """The pairs of one mode and lag, added up."""
        found = []
        for mode in MODES:
            of_mode = [pair for pair in pairs if pair.mode == mode]
            for lag in sorted({pair.lag for pair in of_mode if pair.lag is not None}):
                parts = {(p.old, p.new): p.counted for p in of_mode if p.lag == lag}
                names = next(iter(parts)) if len(parts) == 1 else ("older", "newer")
                figure = Figure("lag", lag, mode)
                found.append(self._comparison("staleness", names, lag, mode, parts, figure))
        return tuple(found)

    def apart(self) -> dict[str, tuple[Comparison, ...]]:
        """The mismatch by group, where there are several; empty groups are absent."""
        sizes = self.sizes.sum(axis=0).tolist()
        having = [group for group, size in zip(GROUPS, sizes, strict=True) if size]
        found = {}
        for group in having if having != ["first"] else ():
            number = GROUPS.index(group)
            made = [v for v in range(len(self.names)) if self.sizes[v, number]]
            own = {
                side: self._own(side[0], *side, (group,))
                for side in self.plan.sides
                if side[0] in made
            }
            found[group] = self._apart(own, "own version", ("group", group))
            if group == "boundary":
                after = {
                    (v, mode): self.counts.counted.get(Which("before", v, v, mode))
                    for v, mode in self.plan.sides
                }
                name = ("before", "")
                found["boundary_before"] = self._apart(after, "version before", name)
        return {group: parts for group, parts in found.items() if parts}

    def prefixes(self, apart: Mapping[str, tuple[Comparison, ...]]) -> OlderPrefixes | None:
        """Rows of reused prefixes, and the others, where the former are of older weights."""
        cached, others = (next(iter(apart.get(group, ())), None) for group in ("cached", "first"))
        if cached is None or others is None:
            return None
        nearest = self._nearest(self._having_rows(("cached",)))
        return older_prefixes(cached, others, nearest, self.options.bootstrap)

    def _apart(
        self,
        counted: Mapping[tuple[int, str], ComparisonCounts | None],
        whose: str,
        figure: tuple[str, str],
    ) -> tuple[Comparison, ...]:
        """Per mode, rows of the dump against the version that they are listed under, added up."""
        found = []
        for mode in MODES:
            parts = {
                ("dump", self.names[v]): part
                for (v, of), part in counted.items()
                if of == mode and part is not None and part.result.rows
            }  # others are not among the tokens that are compared
            if parts:
                names, name = ("dump", whose), Figure(*figure, mode)
                found.append(self._comparison("mismatch", names, 0, mode, parts, name))
        return tuple(found)

    def unmatched(self, cells: Mapping[tuple[int, int, str], ComparisonCounts]) -> Unmatched:
        """Samples that a version should cover and does not, and rows of the others."""
        lost: dict[int, int] = {}
        for (v, w, _), cell in cells.items():
            if v == w:
                lost[v] = max(lost.get(v, 0), cell.result.counts.lost_old)
        return Unmatched(self.counts.unmatched, 0, sum(lost.values()))

    def drift(
        self,
        pairs: Sequence[Comparison],
        by_lag: Sequence[Comparison],
        cells: Mapping[tuple[int, int, str], ComparisonCounts],
    ) -> Drift:
        """Speed, half-life, experts and nearest versions, from what was compared."""
        mode = self.plan.mode_of_drift
        lags = [c for c in by_lag if c.mode == mode]
        speeds = layer_speeds(lags)
        moving = sorted((s for s in speeds[1:] if s.rows_mismatched), key=lambda s: -s.rate)
        experts, between = self._experts(self.plan.moved, pairs)
        return Drift(
            mode=mode,
            speeds=speeds,
            half_lives=half_lives(lags, self.options.bootstrap),
            fastest_layers=tuple(s.layer for s in moving if s.layer is not None),
            experts=experts,
            experts_between=between,
            nearest=self._nearest(cells),
        )

    def _experts(
        self, moved: Pair | None, pairs: Sequence[Comparison]
    ) -> tuple[tuple[ExpertMove, ...], tuple[str, str] | None]:
        """The experts that moved most from the first version to the last, and their names."""
        moves = self.counts.moves
        if moved is None or moves is None:
            return (), None
        names, mode = (self.names[moved[0]], self.names[moved[1]]), moved[2]
        result = next(p for p in pairs if (p.old, p.new, p.mode) == (*names, mode)).result
        return expert_moves(moves, result, self.options.experts), names

    def _nearest(
        self, cells: Mapping[tuple[int, int, str], ComparisonCounts]
    ) -> tuple[Nearest, ...]:
        """The version closest to each version's rows, where there is a choice."""
        found = []
        for v, mode in dict.fromkeys((v, mode) for v, _, mode in cells):
            against = {
                self.names[w]: (cell.result, cell.sums)
                for (own, w, of), cell in cells.items()
                if (own, of) == (v, mode)
            }
            if len(against) > 1:
                plan = self.options.bootstrap
                found.append(nearest_version(self.names[v], mode, against, plan))
        return tuple(found)

    def lacking(self) -> dict[tuple[str, str], int]:
        """Samples of the dump that each recompute lacks."""
        return {
            (self.names[v], mode): self.counts.samples - self.counts.held.get((v, mode), 0)
            for v, mode in self.plan.sides
        }

    def gains(self) -> Gains:
        """What replay gains at each version."""
        names, counted = range(len(self.names)), self.counts.clusters
        clusters = [counted.get(Figure("gain", v, ""), Clusters()).number for v in names]
        return gains_of(self.plan, self.counts.gains, clusters)

    def shifts(self) -> dict[tuple[str, str, str], RouterShift]:
        """Router shift of each pair that has one."""
        sides = self.plan.sides
        return {
            (self.names[v], self.names[w], mode): checked_shift(
                self.counts.shifts[v, w, mode], sides[v, mode], sides[w, mode]
            )
            for v, w, mode in self.plan.gated
        }


def _checked(found: ComparisonCounts) -> ComparisonCounts:
    """A comparison. Raises MismatchError where no row was compared."""
    found.result.refuse_nothing()
    return found
