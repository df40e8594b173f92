"""Entries by a number, of which those with the least numbers are kept: the same whatever the cut.

The number is a hash, so what is kept is a sample of all keys (bottom-k sketch, Cohen and Kaplan,
PODC 2007). While there are no more keys than are kept, nothing is lost.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Generic, Protocol, Self, TypeVar

__all__ = ["Adds", "Bottom", "number_of"]


class Adds(Protocol):
    """What adds up, in any order."""

    def __add__(self, other: Self) -> Self: ...


V = TypeVar("V", bound=Adds)


def number_of(text: str | bytes) -> int:
    """64 bits of a text's BLAKE2b."""
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


@dataclass(slots=True)
class Bottom(Generic[V]):
    """At most so many entries by number; the entries of all other numbers are added up in rest."""

    most: int
    held: dict[int, V] = field(default_factory=dict)
    rest: V | None = None
    _limit: int | None = None

    def add(self, number: int, value: V) -> None:
        """Add to the entry of a number."""
        known = self.held.get(number)
        if known is not None:
            self.held[number] = known + value
        elif self._limit is not None and number > self._limit:
            self.rest = value if self.rest is None else self.rest + value
        else:
            self.held[number] = value
            if len(self.held) > 2 * self.most:
                self.trim()

    def trim(self) -> None:
        """Keep the least numbers alone."""
        if len(self.held) <= self.most:
            return
        kept = sorted(self.held)
        for number in kept[self.most :]:
            value = self.held.pop(number)
            self.rest = value if self.rest is None else self.rest + value
        self._limit = kept[self.most - 1]

    def __add__(self, other: "Bottom[V]") -> "Bottom[V]":
        whole: Bottom[V] = Bottom(self.most, dict(self.held), self.rest, self._limit)
        for number, value in other.held.items():
            whole.add(number, value)
        if other.rest is not None:
            whole.rest = other.rest if whole.rest is None else whole.rest + other.rest
        whole.trim()
        return whole
