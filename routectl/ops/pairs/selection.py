"""Two dumps cut down to some of their samples and positions, for a closer look."""

from collections.abc import Sequence
from dataclasses import replace

from ...dump import Dump, Sample
from ...errors import MismatchError, did_you_mean
from .join import join_keys

__all__ = ["narrow_pair"]


def narrow_pair(
    old: Dump,
    new: Dump,
    *,
    match: str = "auto",
    samples: Sequence[str] = (),
    positions: range | None = None,
) -> tuple[Dump, Dump]:
    """Both dumps with the samples of these names alone, and rows of these positions alone.

    A sample's name is its id in OLD or, without one, # and its place in OLD, from 0. Samples are
    joined first, as ``match`` says. Raises MismatchError for a name that no pair has.
    """
    if samples:
        old, new = _named(old, new, match, samples)
    if positions is not None:
        old, new = _between(old, positions), _between(new, positions)
    return old, new


def _named(old: Dump, new: Dump, match: str, samples: Sequence[str]) -> tuple[Dump, Dump]:
    pairs: dict[str, list[tuple[int, int]]] = {}
    for i, j in join_keys(old.keys, new.keys, match).pairs:
        name = old.keys[i].sample_id
        pairs.setdefault(f"#{i}" if name is None else name, []).append((i, j))
    for name in samples:
        if name not in pairs:
            raise MismatchError(
                f"sample {name!a}: no such sample is on both sides", hint=did_you_mean(name, pairs)
            )
    chosen = [pair for name in dict.fromkeys(samples) for pair in pairs[name]]
    firsts, seconds = [i for i, _ in chosen], [j for _, j in chosen]
    part = old.select(samples=firsts)

    def load(index: int) -> Sample:
        sample = part[index]
        name = f"#{firsts[index]}" if sample.sample_id is None else sample.sample_id
        return replace(sample, sample_id=name)

    return Dump(part.meta, part.keys, load), new.select(samples=seconds)


def _between(dump: Dump, positions: range) -> Dump:
    """The same samples with the rows of some positions; those of none have no routes left."""

    def load(index: int) -> Sample:
        sample = dump[index]
        routes = sample.routes
        if routes is None:
            return sample
        return replace(sample, routes=routes.between(positions.start, positions.stop))

    return Dump(dump.meta, dump.keys, load)
