"""Samples in bins of nearly equal or bounded tokens, as trainers sort them into micro-batches.

first_fit and split_fullest follow slime (utils/dp_schedule.py, utils/seqlen_balancing.py);
karmarkar_karp is the largest differencing method as verl (utils/seqlen_balancing.py) and slime use
it. Each gives their bins to the last sample, in n log n steps where theirs take n times the bins.
"""

import heapq
from array import array
from bisect import insort
from collections.abc import Sequence

__all__ = ["Bins", "first_fit", "karmarkar_karp", "split_fullest"]

Bins = list[list[int]]


def first_fit(lens: Sequence[int], max_tokens: int) -> Bins:
    """Bins of at most max_tokens: each sample in the first that has room, in order.

    A sample that is longer alone has a bin of its own.
    """
    bins: Bins = []
    tokens = sum(min(n, max_tokens) for n in lens)
    size = 1 << (2 * tokens // max(max_tokens, 1) + 2).bit_length()  # no two bins fit into one
    room = [max_tokens] * (2 * size)  # a tree: the most room of the bins below; bins are its leaves
    for i, n in enumerate(lens):
        k = 1 if n <= max_tokens else size + len(bins)
        while k < size:
            k = 2 * k if n <= room[2 * k] else 2 * k + 1
        if k - size == len(bins):
            bins.append([])
        bins[k - size].append(i)
        most = room[k] = room[k] - n
        while k > 1:
            most = max(most, room[k ^ 1])
            k //= 2
            if room[k] == most:  # and so it is above
                break
            room[k] = most
    return bins


def split_fullest(bins: Bins, lens: Sequence[int], count: int) -> None:
    """Split the fullest bin in two, over and over, until there are ``count``.

    The longest samples go first, each to the emptier half. Bins of one sample stay whole.
    """
    fullest = [(-sum(lens[i] for i in b), -k) for k, b in enumerate(bins) if len(b) > 1]
    heapq.heapify(fullest)
    while len(bins) < count and fullest:
        k = -heapq.heappop(fullest)[1]
        halves: Bins = [[], []]
        sums = [0, 0]
        for i in sorted(bins[k], key=lambda i: -lens[i]):
            side = int(sums[0] > sums[1])
            halves[side].append(i)
            sums[side] += lens[i]
        for side, place in enumerate((k, len(bins))):
            if len(halves[side]) > 1:
                heapq.heappush(fullest, (-sums[side], -place))
        bins[k] = halves[0]
        bins.append(halves[1])


class _Sets:
    """Disjoint sets of items, each one number: its weight, its size and its first item, in bits.

    So sets compare as verl compares them, and a million of them are numbers, not tuples of four.
    """

    def __init__(self, weights: Sequence[int]) -> None:
        count = len(weights)
        bits = count.bit_length()
        self.first = (1 << bits) - 1  # the bits of a set that are its first item
        self.shift = 2 * bits  # those below its weight
        self.alone = sorted(w << 2 * bits | 1 << bits | i for i, w in enumerate(weights))
        self._after = array("q", [-1]) * count  # the item after each in its set
        self._last = array("q", range(count))  # the last item of the set that begins with each

    def joined(self, one: int, other: int) -> int:
        """A set with the items of another behind its own."""
        head, tail = one & self.first, other & self.first
        self._after[self._last[head]] = tail
        self._last[head] = self._last[tail]
        return one + other - tail

    def items(self, found: int) -> list[int]:
        """What a set holds, ascending."""
        items = [found & self.first]
        while (after := self._after[items[-1]]) >= 0:
            items.append(after)
        return sorted(items)

    def merged(self, one: list[int], other: list[int], parts: int) -> list[int]:
        """Two partial solutions as one: the heaviest set of one with the lightest of the other.

        Both are ascending and without empty sets, which the lightest are, so that only as many sets
        of each are joined as there are too many. Both lists are used up.
        """
        over = max(len(one) + len(other) - parts, 0)
        loose = list(map(self.joined, one[:over], reversed(other[:over])))
        del one[:over], other[:over]
        most, fewer = (one, other) if len(one) >= len(other) else (other, one)
        loose += fewer
        if 8 * len(loose) < len(most):
            for found in loose:
                insort(most, found)
        else:
            most += loose
            most.sort()
        return most


def karmarkar_karp(weights: Sequence[int], parts: int, *, equal_size: bool = False) -> Bins:
    """The items in ``parts`` sets of nearly equal weight, by the largest differencing method.

    Partial solutions are merged, those with the widest spread first, the heaviest set of one with
    the lightest of the other. Ties are broken as verl does: by how many items, then by the items in
    the order in which they came together, of which the first says all. Weights are not negative.
    Sets are ascending; some are empty when items are few. With equal_size each has as many items,
    since the ``parts`` lightest items begin in sets of their own, then the next. Raises ValueError
    when parts is below 1, and where equal sizes do not divide.
    """
    if parts < 1:
        raise ValueError(f"parts must be at least 1, got {parts}")
    if equal_size and len(weights) % parts:
        raise ValueError(f"{len(weights)} items do not divide into {parts} sets of equal size")
    sets = _Sets(weights)
    first, shift = sets.first, sets.shift
    width = sum(weights).bit_length() + shift
    partial: dict[int, list[int]] = {}  # solutions by the first item of their heaviest set
    alone = sets.alone

    def put(found: list[int]) -> int:
        """Keep a partial solution; the smallest number of all is that of the next to merge."""
        heaviest = found[-1]
        spread = (heaviest >> shift) - (found[0] >> shift if len(found) == parts else 0)
        partial[heaviest & first] = found
        return -(spread << width | heaviest)

    def widest() -> list[int]:
        if alone:
            heaviest = alone[-1]
            spread = heaviest >> shift if parts > 1 else 0
            if not heap or -(spread << width | heaviest) < heap[0]:
                return [alone.pop()]
        return partial.pop(-heapq.heappop(heap) & first)

    heap: list[int] = []
    if equal_size:
        heap = [put(alone[k : k + parts]) for k in range(0, len(alone), parts)]
        heapq.heapify(heap)
        alone = []
    for _ in range(max(len(heap), len(alone)) - 1):
        heapq.heappush(heap, put(sets.merged(widest(), widest(), parts)))
    found = widest() if weights else []
    return [sets.items(s) for s in reversed(found)] + [[] for _ in range(parts - len(found))]
