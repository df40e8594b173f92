"""The few that are shown of many: the worst of them, or the first."""

from bisect import insort
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

__all__ = ["First", "Placed", "Ranked", "Worst"]


class Ranked(Protocol):
    """What has a rank: a tuple, ascending from the worst, that ends with what no other has.

    That is its name, and its place where a name may be there twice.
    """

    @property
    def rank(self) -> Any:
        """What it is ordered by."""


class Placed(Protocol):
    """What has a place: a tuple that ascends through the whole dump, not through a part of it."""

    @property
    def place(self) -> Any:
        """What it is ordered by."""


R = TypeVar("R", bound=Ranked)
P = TypeVar("P", bound=Placed)


@dataclass(slots=True, eq=False)
class Worst(Generic[R]):
    """The worst items, at most ``limit``, the worst first: exact, of whatever parts."""

    limit: int
    items: tuple[R, ...] = ()

    def __post_init__(self) -> None:
        self.items = tuple(sorted(self.items, key=_rank)[: self.limit])

    def takes(self, rank: Any) -> bool:
        """Whether an item of a rank would be kept: for items that are costly to make."""
        return self.limit > 0 and (len(self) < self.limit or rank < self.items[-1].rank)

    def add(self, item: R) -> None:
        """Keep an item where it is one of the worst so far."""
        if self.takes(item.rank):
            kept = list(self.items)
            insort(kept, item, key=_rank)
            self.items = tuple(kept[: self.limit])

    def __add__(self, other: "Worst[R]") -> "Worst[R]":
        return Worst(self.limit, self.items + other.items)

    def __iter__(self) -> Iterator[R]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


@dataclass(slots=True, eq=False)
class First(Generic[P]):
    """The first items by place, at most ``limit``."""

    limit: int
    items: tuple[P, ...] = ()

    def __post_init__(self) -> None:
        self.items = tuple(sorted(self.items, key=_place)[: self.limit])

    def takes(self, place: Any) -> bool:
        """Whether an item of a place would be kept."""
        return self.limit > 0 and (len(self) < self.limit or place < self.items[-1].place)

    def add(self, item: P) -> None:
        """Keep an item where it is one of the first so far."""
        if self.takes(item.place):
            self.items = tuple(sorted([*self.items, item], key=_place)[: self.limit])

    def __add__(self, other: "First[P]") -> "First[P]":
        return First(self.limit, self.items + other.items)

    def __iter__(self) -> Iterator[P]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


def _rank(item: Ranked) -> Any:
    return item.rank


def _place(item: Placed) -> Any:
    return item.place
