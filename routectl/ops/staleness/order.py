"""The order of versions: as they are given, and as their names and the dump have it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations, pairwise

from .census import Census

__all__ = ["Disorder", "disorders_of"]

_NUMBERED = re.compile(r"(.*?)(\d+)")


@dataclass(frozen=True, slots=True)
class Disorder:
    """Two versions of which the first is given before the second, though it is the newer one.

    why is one of: names, whose numbers say so; said, what the dump calls them, as ``said`` has it;
    spans, since ``samples`` of the dump went from the second to the first; made, since the second,
    given last, made every row that is of a given version, and no name says more. made are the
    versions that made rows, where that is known.
    """

    first: str
    second: str
    why: str
    said: tuple[str, str] | None = None
    samples: int = 0
    made: tuple[str, ...] = ()


def _descends(first: str, second: str) -> bool:
    """Two names that are the same but for a number at their end, which falls."""
    found = [_NUMBERED.fullmatch(name) for name in (first, second)]
    if found[0] is None or found[1] is None or found[0][1] != found[1][1]:
        return False
    return int(found[0][2]) > int(found[1][2])


def _names_out_of_order(names: tuple[str, ...]) -> tuple[Disorder, ...]:
    """Pairs of neighbours whose numbers fall."""
    return tuple(Disorder(a, b, "names") for a, b in pairwise(names) if _descends(a, b))


def disorders_of(owned: Census) -> tuple[Disorder, ...]:
    """Pairs that are given newest first, each told once: by names, by the dump's, by its spans."""
    names = owned.names
    rows = owned.sizes.sum(axis=1)
    made = tuple(name for name, number in zip(names, rows.tolist(), strict=True) if number)
    found = [replace(one, made=made) for one in _names_out_of_order(names)]
    said = _said(owned.said)
    for a, b in combinations(range(len(names)), 2):
        pair = names[a], names[b]
        if any((one.first, one.second) == pair for one in found):
            continue
        back, forth = owned.orders.get((b, a), 0), owned.orders.get((a, b), 0)
        if back > forth:
            found.append(Disorder(*pair, "spans", samples=back))
        elif pair[0] in said and pair[1] in said and _descends(said[pair[0]], said[pair[1]]):
            found.append(Disorder(*pair, "said", said=(said[pair[0]], said[pair[1]])))
    numbered = all(_descends(b, a) for a, b in pairwise(names))
    if not found and not numbered and made == names[-1:] != names:
        found.append(Disorder(names[-2], names[-1], "made", made=made))
    return tuple(found)


def _said(names: Mapping[str, str]) -> dict[str, str]:
    """What the dump calls a version, where it has one name for it and another than given."""
    versions = list(names.values())
    return {
        version: name
        for name, version in names.items()
        if versions.count(version) == 1 and name != version
    }
