"""Samples in bins of nearly equal or bounded tokens, as trainers sort them into micro-batches.

first_fit and split_fullest follow slime (utils/dp_schedule.py, utils/seqlen_balancing.py);
karmarkar_karp is the largest differencing method as verl (utils/seqlen_balancing.py) and slime use
it. Each gives their bins to the last sample, in n log n steps where theirs take n times the bins.
"""

import heapq
from bisect import insort
from collections.abc import Sequence

__all__ = ["Bins", "first_fit", "karmarkar_karp", "split_fullest"]

Bins = list[list[int]]
_Entry = tuple[int, int, int, int, list["_Set"]]  # a partial solution, the next to merge first
_Set = tuple[int, int, int, int]  # weight, size, first and last item: each tells the one after it


def first_fit(lens: Sequence[int], max_tokens: int) -> Bins:
    """Bins of at most max_tokens: each sample in the first that has room, in order.

    A sample that is longer alone has a bin of its own.
    """
    bins: Bins = []
    most = (
        2 * sum(min(n, max_tokens) for n in lens) // max(max_tokens, 1) + 2
    )  # no two bins fit into one
    size = 1 << most.bit_length()
    room = [max_tokens] * (2 * size)  # a tree: the most room of the bins below; bins are its leaves
    for i, n in enumerate(lens):
        k = 1
        while n <= max_tokens and k < size:
            k = 2 * k if n <= room[2 * k] else 2 * k + 1
        k = k if n <= max_tokens else size + len(bins)
        if k - size == len(bins):
            bins.append([])
        bins[k - size].append(i)
        room[k] -= n
        while k := k // 2:
            room[k] = max(room[2 * k], room[2 * k + 1])
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


def _merged(one: list[_Set], other: list[_Set], parts: int, after: list[int]) -> list[_Set]:
    """Two partial solutions as one: the heaviest set of one with the lightest of the other.

    Both are ascending and without empty sets, which the lightest are, so that only as many sets of
    each are joined as there are too many. Both lists are used up.
    """
    over = max(len(one) + len(other) - parts, 0)
    loose = []
    for a, b in zip(one[:over], reversed(other[:over]), strict=True):
        after[a[3]] = b[2]
        loose.append((a[0] + b[0], a[1] + b[1], a[2], b[3]))
    del one[:over], other[:over]
    most, fewer = (one, other) if len(one) >= len(other) else (other, one)
    loose += fewer
    if 8 * len(loose) < len(most):
        for item in loose:
            insort(most, item)
    else:
        most += loose
        most.sort()
    return most


def _items(found: _Set, after: Sequence[int]) -> list[int]:
    """What a set holds, ascending."""
    items = [found[2]]
    while items[-1] != found[3]:
        items.append(after[items[-1]])
    return sorted(items)


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
    items = sorted(range(len(weights)), key=lambda i: (weights[i], i))  # the last is the widest
    heap: list[_Entry] = []
    after = [-1] * len(weights)

    def entry(sets: list[_Set]) -> _Entry:
        heaviest = sets[-1]
        spread = heaviest[0] - (sets[0][0] if len(sets) == parts else 0)
        return (-spread, -heaviest[0], -heaviest[1], -heaviest[2], sets)

    def widest() -> list[_Set]:
        if items:
            single = entry([(weights[items[-1]], 1, items[-1], items[-1])])
            if not heap or single < heap[0]:
                items.pop()
                return single[-1]
        return heapq.heappop(heap)[-1]

    if equal_size:
        for k in range(0, len(items), parts):
            heapq.heappush(heap, entry([(weights[i], 1, i, i) for i in items[k : k + parts]]))
        items.clear()
    for _ in range(max(len(heap), len(items)) - 1):
        heapq.heappush(heap, entry(_merged(widest(), widest(), parts, after)))
    sets = widest() if weights else []
    return [_items(s, after) for s in reversed(sets)] + [[] for _ in range(parts - len(sets))]
