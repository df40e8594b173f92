"""Counts by name, whatever the cut."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from routectl.ops.adding.seen import NamesSeen
from support.cuts import added_in_some_tree


@given(st.lists(st.lists(st.sampled_from("cab"), max_size=3), max_size=12), st.data())
def test_any_cut_keeps_the_order_of_first_sight(samples, data):
    """Names come as one pass over the samples meets them, with as many as it counts."""
    parts = [NamesSeen() for _ in range(3)]
    for index in data.draw(st.permutations(range(len(samples)))):
        part = parts[data.draw(st.integers(0, 2))]
        for nth, name in enumerate(samples[index]):
            part.add(name, index, nth, 2)
    expected = Counter(name for names in samples for name in names for _ in range(2))
    found = added_in_some_tree(parts, data).by_name
    assert list(found.items()) == list(expected.items())
