"""The worst and the first of many, whatever the cut."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from routectl.ops.adding.least import First, Worst
from support.cuts import added_in_some_tree


@dataclass(frozen=True)
class Item:
    """An item by its rank, which is its place as well."""

    rank: tuple[float, int]

    @property
    def place(self):
        """The same."""
        return self.rank


@given(st.lists(st.integers(0, 4), max_size=30), st.integers(0, 8), st.data())
def test_any_cut_keeps_the_least(sizes, limit, data):
    """Worst and First hold the least of all items, equal ranks told apart by place."""
    items = [Item((-size, place)) for place, size in enumerate(sizes)]
    expected = tuple(sorted(items, key=lambda i: i.rank)[:limit])
    for kind in (Worst, First):
        parts = [kind(limit) for _ in range(3)]
        for item in data.draw(st.permutations(items)):
            parts[data.draw(st.integers(0, 2))].add(item)
        assert added_in_some_tree(parts, data).items == expected
        assert kind(limit, tuple(items)).items == expected


def test_what_would_not_be_kept_is_known_before():
    """A full list takes what is less than its last alone; one of no items takes nothing."""
    full = Worst(1, (Item((0, 1)),))
    assert full.takes((0, 0))
    assert not full.takes((0, 2))
    assert not First(0).takes((0, 0))
    assert First(1).takes((0, 0))
