"""R2's routes: those that the trainer's own router takes for a dump's tokens at the weights that
sampled them, as a dump that a checkpoint is forced to."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...dump import Dump, Sample
    from ...ops.staleness.attribution import Attributor

__all__ = ["OwnRoutes", "aligned", "older_samples"]


def older_samples(
    source: "Dump", by: "Attributor", version: int, having: Collection[int]
) -> tuple[int, ...]:
    """The samples that R2 is of at a version: older weights made rows of them, newer ones none.

    ``having`` are the versions whose own routes there are.
    """
    found = []
    for index, sample in enumerate(source):
        labels = by.labels(sample)
        made = set() if labels is None else labels.versions(len(by.names))
        if made and made != {version} and max(made) <= version and made <= {*having}:
            found.append(index)
    return tuple(found)


@dataclass(frozen=True, slots=True, eq=False)
class OwnRoutes:
    """How some samples of a dump are opened with R2's routes.

    source and free, by a version's place, open the dump and the free recompute of each version;
    match is how they are joined.
    """

    source: "Callable[[], Dump]"
    free: "Mapping[int, Callable[[], Dump]]"
    by: "Attributor"
    chosen: tuple[int, ...]
    match: str

    def __call__(self) -> "Dump":
        """Those samples, in their order."""
        from ...dump import Dump
        from ...ops.pairs.join import join_keys
        from ...ops.staleness.attribution import own_routes

        source, chosen = self.source(), self.chosen
        free = {code: opened() for code, opened in self.free.items()}
        places = {
            code: dict(join_keys(source.keys, dump.keys, self.match).pairs)
            for code, dump in free.items()
        }

        def load(place: int) -> "Sample":
            index = chosen[place]
            sample = source[index]
            labels = self.by.labels(sample)
            assert labels is not None
            routes = {}
            for code in sorted(labels.versions(len(self.by.names))):
                if index in places[code]:
                    found = free[code][places[code][index]].routes
                    if found is not None:
                        routes[code] = found
            own = own_routes(labels, routes) if routes else None
            return replace(sample, routes=own, gates=None)

        keys = [source.keys[index] for index in chosen]
        meta = replace(source.meta, provenance={**source.meta.provenance, "mode": "free"})
        return Dump(meta, keys, load)


def aligned(found: "Dump", source: "Dump", chosen: Sequence[int]) -> "Dump":
    """A recompute of some samples as one of all: the others are there without log-probs."""
    from ...dump import Dump

    places = {index: place for place, index in enumerate(chosen)}

    def load(index: int) -> "Sample":
        if index in places:
            return found[places[index]]
        return replace(source[index], logprobs=None)

    return Dump(found.meta, source.keys, load)
