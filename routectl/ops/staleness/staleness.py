"""staleness: one dump against the weights of several versions, and those against each other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...dump import Dump
from ...visible import visible
from ..diff.result import DiffResult
from ..diff.thresholds import Unmatched
from .attribution import BoundaryRule, Version
from .census import SpanCounts
from .comparison import Comparison
from .counting import StalenessCounts, count_run
from .drift import Drift
from .figures import Figures
from .gamma import RouterShift
from .options import Noise, StalenessOptions
from .order import Disorder, disorders_of
from .plan import refuse_useless
from .prefixes import OlderPrefixes
from .replays import Gains
from .sides import lay_out

__all__ = ["Cell", "Noise", "Staleness", "StalenessOptions", "staleness", "staleness_of"]


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
    prefixes     rows of reused prefixes beside the others, where the former are of older weights
    spans        rows and samples by what the spans say
    boundary     where a span of the dump's engine begins
    unmatched    samples with routes that the recompute of a version that made them lacks, or every
                 recompute; of the others, rows that the recompute of their own version lost
    gains        what replay gains at the weights of each version: see ``replays``
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
    prefixes: OlderPrefixes | None
    spans: SpanCounts
    cached_apart: bool
    drift: Drift
    noise: tuple[Noise, ...]
    boundary: BoundaryRule
    unmatched: Unmatched
    lacking: Mapping[tuple[str, str], int]
    shifts: Mapping[tuple[str, str, str], RouterShift]
    gains: Gains
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
    sides = lay_out(dump, versions, options)
    return staleness_of(count_run(sides.plan, dump, sides.routes, sides.whole))


def staleness_of(counts: StalenessCounts) -> Staleness:
    """What counts of all samples say; MismatchError as ``staleness``."""
    refuse_useless(counts.plan, counts.census)
    run = Figures(counts)
    cells = run.cells()
    totals = run.totals()
    pairs = run.pairs()
    by_lag = run.by_lag(pairs)
    apart = run.apart()
    prefixes = run.prefixes(apart)
    names, places = run.names, run.places
    return Staleness(
        versions=names,
        places=places,
        comparisons=(*run.mismatches(cells), *pairs, *totals),
        by_lag=by_lag,
        cells=tuple(
            Cell(names[v], names[w], places[w] - places[v], mode, cell.result)
            for (v, w, mode), cell in cells.items()
        ),
        apart=apart,
        prefixes=prefixes,
        spans=counts.census.counts,
        cached_apart=run.cached == "apart",
        drift=run.drift(pairs, by_lag, cells if prefixes is None else run.sure_cells()),
        noise=counts.plan.options.noise,
        boundary=counts.plan.boundary,
        unmatched=run.unmatched(cells),
        lacking=run.lacking(),
        shifts=run.shifts(),
        gains=run.gains(),
        disorders=disorders_of(counts.census),
    )
