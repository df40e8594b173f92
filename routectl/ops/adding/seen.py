"""Counts by name, in the order in which names are first seen in the whole of a dump."""

from dataclasses import dataclass, field

__all__ = ["NamesSeen"]


@dataclass(slots=True, eq=False)
class NamesSeen:
    """How often each name was seen, and where first: the index of a sample, and the place in it.

    Memory is that of the names, not of what has them.
    """

    counts: dict[str, tuple[int, int, int]] = field(default_factory=dict)

    def add(self, name: str, index: int, nth: int = 0, count: int = 1) -> None:
        """See a name so often at a place, in place."""
        before = self.counts.get(name)
        if before is not None:
            count += before[0]
            index, nth = min((index, nth), before[1:])
        self.counts[name] = count, index, nth

    def __add__(self, other: "NamesSeen") -> "NamesSeen":
        found = NamesSeen(dict(self.counts))
        for name, (count, index, nth) in other.counts.items():
            found.add(name, index, nth, count)
        return found

    @property
    def by_name(self) -> dict[str, int]:
        """How often by name, the first seen first; of one place, names in their order."""
        items = sorted(self.counts.items(), key=lambda item: (item[1][1:], item[0]))
        return {name: count for name, (count, _, _) in items}
