"""Parts of a whole: cut somewhere, added in any order and any tree."""

from itertools import pairwise

from hypothesis import strategies as st

from routectl.ops.diff.part import diff_part
from routectl.ops.pairs.join import join_keys
from routectl.ops.pairs.parts import whole_join

__all__ = ["added_in_some_tree", "cut_at"]


def added_in_some_tree(parts, data):
    """The sum of parts: two of those that are left are added, until one is."""
    left = list(parts)
    while len(left) > 1:
        a = left.pop(data.draw(st.integers(0, len(left) - 1)))
        b = left.pop(data.draw(st.integers(0, len(left) - 1)))
        left.append(a + b)
    return left[0]


def cut_at(old, new, options, cuts):
    """The results of the parts of two dumps, their pairs cut at some of them."""
    join = join_keys(old.keys, new.keys, options.match)
    ends = sorted({c for c in cuts if 0 < c < len(join.pairs)})
    runs = [range(a, b) for a, b in pairwise([0, *ends, len(join.pairs)])]
    return [diff_part(old, new, options, part) for part in whole_join(join).cut(runs)]
