"""What a dump and the recomputes of its tokens are compared as: known before a sample is read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from ...dump import Dump, DumpMeta
from ...errors import MismatchError, did_you_mean
from .attribution import MODES, R2, Attributor, BoundaryRule, Version, places_of
from .census import Census
from .options import StalenessOptions

__all__ = ["SURE", "Pair", "Side", "StalenessPlan", "plan_of", "refuse_useless", "routes_of"]

Side = tuple[int, str]  # a version by its place among them, and a mode, or R2
Pair = tuple[int, int, str]  # an older version, a newer one, a mode
SURE = ("first", "switched")
CACHED = (*SURE, "cached")


@dataclass(frozen=True, slots=True)
class StalenessPlan:
    """The versions by name, in the order given, and what holds for each side.

    places  where they stand: a lag is a difference
    dump    what holds for the dump; sides for the recompute of each version and mode
    replayed  what holds for R2's, by version
    own     the version of samples that do not say theirs
    """

    names: tuple[str, ...]
    places: tuple[int, ...]
    options: StalenessOptions
    dump: DumpMeta
    sides: Mapping[Side, DumpMeta]
    own: str | None
    replayed: Mapping[int, DumpMeta] = field(default_factory=dict)

    @property
    def attributor(self) -> Attributor:
        """What tells the own version of each row."""
        version_map = self.options.version_map
        return Attributor(self.names, version_map, self.own, self.boundary.exact)

    @property
    def boundary(self) -> BoundaryRule:
        """Where a span of the dump's engine begins."""
        return BoundaryRule.of(self.dump.engine)

    def having(self, mode: str) -> list[int]:
        """The versions with routes of a mode."""
        return [v for v in range(len(self.names)) if (v, mode) in self.sides]

    @property
    def pairs(self) -> list[Pair]:
        """Every older version with every newer one, mode by mode."""
        return [(v, w, mode) for mode in MODES for v, w in combinations(self.having(mode), 2)]

    @property
    def gated(self) -> list[Pair]:
        """Those of which both sides have gate log-probabilities."""
        return [(v, w, m) for v, w, m in self.pairs if all(self.sides[x, m].gates for x in (v, w))]

    def lag(self, pair: Pair) -> int:
        """Updates between the two."""
        return self.places[pair[1]] - self.places[pair[0]]

    @property
    def mode_of_drift(self) -> str | None:
        """Forced where every lag has it, else free; None with one version."""
        lags = {mode: {self.lag(pair) for pair in self.pairs if pair[2] == mode} for mode in MODES}
        if lags["forced"] and len(lags["forced"]) >= len(lags["free"]):
            return "forced"
        return "free" if lags["free"] else None

    @property
    def moved(self) -> Pair | None:
        """The first version and the last: the experts that moved most are those of this pair."""
        mode = self.mode_of_drift
        having = [] if mode is None else self.having(mode)
        return None if mode is None or len(having) < 2 else (having[0], having[-1], mode)

    @property
    def mismatches(self) -> dict[str, tuple[str, ...]]:
        """By how cached rows are taken, apart or own: groups of rows that the mismatch is of.

        Where they are its own it is counted without them too: they may be older.
        """
        every = {"apart": SURE, "own": CACHED}
        return {"apart": SURE} if self.options.cached == "apart" else every


def routes_of(versions: Sequence[Version]) -> dict[Side, Dump]:
    """The recomputes of versions, R2's among them."""
    found = {}
    for v, version in enumerate(versions):
        for mode in (*MODES, R2):
            routes = version.routes(mode)
            if routes is not None:
                found[v, mode] = routes
    return found


def plan_of(dump: Dump, versions: Sequence[Version], options: StalenessOptions) -> StalenessPlan:
    """Check that the versions may be of this dump.

    Raises MismatchError as ``staleness`` does, ValueError without a version or for a name twice.
    """
    given = tuple(version.name for version in versions)
    if not given:
        raise ValueError("no version is given")
    places = places_of(given)
    for name in (*options.version_map.values(), options.own):
        if name is not None and name not in given:
            raise MismatchError(
                f"version {name!r} is not given: {', '.join(given)} are",
                hint=did_you_mean(name, given),
            )
    routes = routes_of(versions)
    sides = {side: one.meta for side, one in routes.items() if side[1] in MODES}
    plan = StalenessPlan(
        given,
        places,
        options,
        dump.meta,
        sides,
        given[0] if options.own is None and len(given) == 1 else options.own,
        {v: one.meta for (v, mode), one in routes.items() if mode == R2},
    )
    _refuse_other_shapes(plan)
    return plan


def _refuse_other_shapes(plan: StalenessPlan) -> None:
    """Raise MismatchError where a version's E, K or id space, or its layers, are not the dump's."""
    for (v, _), meta in plan.sides.items():
        for name in ("num_experts", "top_k", "id_space", "layers_L"):
            got, expected = getattr(meta, name), getattr(plan.dump, name)
            if got != expected and not (plan.options.layers is not None and name == "layers_L"):
                raise MismatchError(
                    f"version {plan.names[v]} ({meta.path}) is of another shape than "
                    f"{plan.dump.path}: {name.removesuffix('_L')}: got {got}, expected "
                    f"{expected}",
                    hint="--layers compares some of the layers" if name == "layers_L" else None,
                )


def refuse_useless(plan: StalenessPlan, census: Census) -> None:
    """Raise MismatchError where no row is of a version that is given."""
    counts, names = census.counts, plan.names
    given, path, first = ", ".join(names), plan.dump.path, names[0]
    if not sum(counts.rows.values()):
        raise MismatchError(f"{path}: no row has a route: nothing to compare")
    if plan.own is None and counts.without_spans == counts.samples:
        raise MismatchError(
            f"{path}: no sample says which weight version made it, and {len(names)} "
            f"versions are given: {given}",
            hint=f"--version-map ={first} says that this version made them all",
        )
    if not census.sizes.any():
        raise MismatchError(
            f"{path}: no row is of a version that is given: the dump says "
            f"{', '.join(counts.unknown) or 'nothing'}, given are {given}",
            hint=f"--version-map {next(iter(counts.unknown), 'NAME')}={first} if these are the "
            "same weights",
        )
