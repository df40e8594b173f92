"""A dump and the recomputes of its tokens, laid side by side under one name per sample."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

from ...dump import Dump, Keys
from ...errors import MismatchError
from ..pairs.join import join_keys
from .attribution import MODES, Attribution, Version, attribute, places_of
from .comparison import Clustering
from .options import StalenessOptions

__all__ = ["Recompute", "Sides", "lay_out"]


@dataclass(frozen=True, slots=True, eq=False)
class Recompute:
    """A recompute's samples under the dump's names; places[n] is the dump's index of sample n."""

    routes: Dump
    places: tuple[int, ...]


def _sample_names(dump: Dump) -> tuple[str, ...]:
    """A name for each sample, no two alike: its id, else its place."""
    names: dict[str, int] = {}
    for index, key in enumerate(dump.keys):
        name = f"#{index}" if key.sample_id is None else key.sample_id
        names[name if name not in names else f"{name} #{index}"] = index
    return tuple(names)


def _renamed(dump: Dump, names: Sequence[str]) -> Dump:
    """The same samples with other ids."""
    keys = Keys(replace(key, sample_id=name) for key, name in zip(dump.keys, names, strict=True))
    return Dump(dump.meta, keys, lambda n: replace(dump[n], sample_id=names[n]))


def _recomputes_of(
    dump: Dump, names: Sequence[str], version: Version, match: str
) -> dict[str, Recompute]:
    """The recomputes of a version by mode, with the samples that the dump has.

    Raises MismatchError when one has none of them.
    """
    found = {}
    for mode in MODES:
        routes = version.routes(mode)
        if routes is None:
            continue
        try:
            pairs = join_keys(dump.keys, routes.keys, match).pairs
        except MismatchError as error:
            raise MismatchError(
                f"version {version.name} ({routes.meta.path}): OLD is the dump, NEW the version: "
                f"{error}",
                hint=error.hint,
            ) from error
        part = routes.select(samples=[j for _, j in pairs])
        places = tuple(i for i, _ in pairs)
        found[mode] = Recompute(_renamed(part, [names[i] for i in places]), places)
    return found


def _refuse_other_shapes(dump: Dump, versions: Sequence[Version], any_layers: bool) -> None:
    """Raise MismatchError where a version's E, K or id space, or its layers, are not the dump's."""
    for version in versions:
        for mode in MODES:
            routes = version.routes(mode)
            if routes is None:
                continue
            for name in ("num_experts", "top_k", "id_space", "layers_L"):
                got, expected = (getattr(d.meta, name) for d in (routes, dump))
                if got != expected and not (any_layers and name == "layers_L"):
                    raise MismatchError(
                        f"version {version.name} ({routes.meta.path}) is of another shape than "
                        f"{dump.meta.path}: {name.removesuffix('_L')}: got {got}, expected "
                        f"{expected}",
                        hint="--layers compares some of the layers" if name == "layers_L" else None,
                    )


@dataclass(frozen=True, slots=True, eq=False)
class Sides:
    """Everything laid side by side: the dump, each version's recomputes by mode, own versions."""

    names: tuple[str, ...]
    places: tuple[int, ...]
    dump: Dump
    recomputes: tuple[dict[str, Recompute], ...]
    owned: Attribution
    clustering: Clustering


def lay_out(dump: Dump, versions: Sequence[Version], options: StalenessOptions) -> Sides:
    """Check that the versions are of this dump, and find which one made which row.

    Raises MismatchError as ``staleness`` does, ValueError without a version or for a name twice.
    """
    given = tuple(version.name for version in versions)
    if not given:
        raise ValueError("no version is given")
    places = places_of(given)
    for name in (*options.version_map.values(), options.own):
        if name is not None and name not in given:
            raise MismatchError(f"version {name!r} is not given: {', '.join(given)} are")
    _refuse_other_shapes(dump, versions, options.layers is not None)
    names = _sample_names(dump)
    recomputes = tuple(_recomputes_of(dump, names, version, options.match) for version in versions)
    clusters: dict[str, Hashable] = {
        name: key.prompt if options.clusters == "prompt" and key.prompt else name
        for name, key in zip(names, dump.keys, strict=True)
    }
    own = given[0] if options.own is None and len(given) == 1 else options.own
    owned = attribute(_renamed(dump, names), given, options.version_map, own)
    _refuse_useless(owned, own)
    return Sides(
        given, places, owned.dump, recomputes, owned, Clustering(clusters, options.bootstrap)
    )


def _refuse_useless(owned: Attribution, own: str | None) -> None:
    """Raise MismatchError where no row is of a version that is given."""
    counts, given, path = owned.counts, ", ".join(owned.names), owned.dump.meta.path
    first = owned.names[0]
    if not sum(counts.rows.values()):
        raise MismatchError(f"{path}: no row has a route: nothing to compare")
    if own is None and counts.without_spans == counts.samples:
        raise MismatchError(
            f"{path}: no sample says which weight version made it, and {len(owned.names)} "
            f"versions are given: {given}",
            hint=f"--version-map ={first} says that this version made them all",
        )
    if not owned.sizes.any():
        raise MismatchError(
            f"{path}: no row is of a version that is given: the dump says "
            f"{', '.join(counts.unknown) or 'nothing'}, given are {given}",
            hint=f"--version-map {next(iter(counts.unknown), 'NAME')}={first} if these are the "
            "same weights",
        )
