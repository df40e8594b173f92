"""Parts added in any order and any tree, drawn by hypothesis."""

from hypothesis import strategies as st


def added_in_some_tree(parts, data):
    """The sum of parts: two of those that are left are added, until one is."""
    left = list(parts)
    while len(left) > 1:
        a = left.pop(data.draw(st.integers(0, len(left) - 1)))
        b = left.pop(data.draw(st.integers(0, len(left) - 1)))
        left.append(a + b)
    return left[0]
