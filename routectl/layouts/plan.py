"""Which samples form which micro-batch on which data-parallel rank.

first_fit follows slime (utils/dp_schedule.py, utils/seqlen_balancing.py): pack first, then deal
out; karmarkar_karp is the largest differencing method as verl and slime use it to even out tokens.
"""

import heapq
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

__all__ = ["BALANCES", "MicroBatch", "Plan", "build_plan", "first_fit", "karmarkar_karp"]

BALANCES = ("first-fit", "karmarkar-karp")
Bins = list[list[int]]
_Set = tuple[int, int, list[tuple[int, int]]]  # weight, size, items with their weights


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Sample indices of each data-parallel rank in one step; a rank may have none.

    cp is a CP size of this micro-batch alone (dynamic CP): the dp x cp ranks then form
    dp x cp / cp-of-its-own groups, and ``groups`` has one entry for each.
    """

    groups: tuple[tuple[int, ...], ...]
    cp: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """The micro-batches of a batch, in order, over dp data-parallel ranks."""

    dp: int
    micro_batches: tuple[MicroBatch, ...]

    def check(self, num_samples: int, cp: int) -> None:
        """Raise ValueError unless groups and ranks fit and no sample is used twice."""
        if self.dp < 1:
            raise ValueError(f"dp must be at least 1, got {self.dp}")
        for m, part in enumerate(self.micro_batches):
            if part.cp is not None and part.cp < 1:
                raise ValueError(f"micro-batch {m}: cp must be at least 1, got {part.cp}")
            groups = Fraction(self.dp * cp, part.cp or cp)
            if len(part.groups) != groups:
                raise ValueError(
                    f"micro-batch {m} has {len(part.groups)} groups, expected dp {self.dp} x cp "
                    f"{cp} / {part.cp or cp} = {groups}"
                )
        used = Counter(self.samples())
        twice = [i for i, count in used.items() if count > 1]
        if twice:
            raise ValueError(f"sample {twice[0]} is in {used[twice[0]]} micro-batches")
        outside = [i for i in used if not 0 <= i < num_samples]
        if outside:
            raise ValueError(f"no sample {outside[0]} among {num_samples}")

    def without(self, left_out: Sequence[int]) -> "Plan":
        """The same plan for a batch that some samples are taken out of: the rest close up."""
        if not left_out:
            return self
        gone, taken = set(left_out), sorted(left_out)

        def closed(group: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(i - bisect_left(taken, i) for i in group if i not in gone)

        steps = (MicroBatch(tuple(map(closed, m.groups)), m.cp) for m in self.micro_batches)
        return Plan(self.dp, tuple(steps))

    def samples(self) -> list[int]:
        """The samples that are in some micro-batch, in order of use."""
        return [i for part in self.micro_batches for group in part.groups for i in group]


def first_fit(lens: Sequence[int], max_tokens: int) -> Bins:
    """Bins of at most max_tokens: each sample in the first that has room, in order.

    A sample that is longer alone has a bin of its own.
    """
    bins: Bins = []
    room: list[int] = []
    for i, n in enumerate(lens):
        k = next((k for k, left in enumerate(room) if n <= left), len(bins))
        if k == len(bins):
            bins.append([])
            room.append(max_tokens)
        bins[k].append(i)
        room[k] -= n
    return bins


def _split_fullest(bins: Bins, lens: Sequence[int], count: int) -> None:
    """Split the fullest bin in two, over and over, until there are ``count``; slime's rule.

    The longest samples go first, each to the emptier half. Bins of one sample stay whole.
    """
    while len(bins) < count:
        sizes = [(sum(lens[i] for i in b), k) for k, b in enumerate(bins) if len(b) > 1]
        if not sizes:
            return
        k = max(sizes)[1]
        halves: Bins = [[], []]
        sums = [0, 0]
        for i in sorted(bins[k], key=lambda i: -lens[i]):
            side = int(sums[0] > sums[1])
            halves[side].append(i)
            sums[side] += lens[i]
        bins[k] = halves[0]
        bins.append(halves[1])


class _Sets:
    """A partial solution: disjoint sets as (weight, size, items), heaviest first.

    Ties are broken as verl does, so that plans are the same to the last sample.
    """

    def __init__(self, sets: list[_Set]) -> None:
        self.sets = sorted(sets, reverse=True)
        self.spread = self.sets[0][0] - self.sets[-1][0]

    def __lt__(self, other: "_Sets") -> bool:
        """The one with the wider spread comes off the heap first, then the heavier first set."""
        if self.spread != other.spread:
            return self.spread > other.spread
        return self.sets[0] > other.sets[0]


def karmarkar_karp(weights: Sequence[int], parts: int) -> Bins:
    """The items in ``parts`` sets of nearly equal weight, by the largest differencing method.

    Partial solutions are merged, those with the widest spread first, the heaviest set of one with
    the lightest of the other. Sets are ascending; some are empty when items are few. Raises
    ValueError when parts is below 1.
    """
    if parts < 1:
        raise ValueError(f"parts must be at least 1, got {parts}")
    empty: _Set = (0, 0, [])
    heap: list[_Sets] = []
    for weight, i in sorted((weight, i) for i, weight in enumerate(weights)):
        heapq.heappush(heap, _Sets([(weight, 1, [(i, weight)]), *[empty] * (parts - 1)]))
    while len(heap) > 1:
        one, other = heapq.heappop(heap), heapq.heappop(heap)
        pairs = zip(one.sets, reversed(other.sets), strict=True)
        heapq.heappush(heap, _Sets([(a[0] + b[0], a[1] + b[1], a[2] + b[2]) for a, b in pairs]))
    sets = heap[0].sets if heap else [empty] * parts
    return [sorted(i for i, _ in items) for _, _, items in sets]


def _in_order(count: int, dp: int, size: int) -> Bins:
    """``size`` samples in each bin, in order; empty ones at the end make a multiple of dp."""
    bins = [list(range(i, min(i + size, count))) for i in range(0, count, size)] or [[]]
    return bins + [[] for _ in range(-len(bins) % dp)]


def _bins(lens: Sequence[int], dp: int, cap: int | None, balance: str) -> Bins:
    """Micro-batches of all ranks: a multiple of dp, none over ``cap`` (lone samples aside)."""
    packed = first_fit(lens, cap if cap is not None else sum(lens))
    count = -(-max(len(packed), 1) // dp) * dp
    if balance == "first-fit":
        _split_fullest(packed, lens, count)
        return packed + [[] for _ in range(count - len(packed))]
    while True:
        even = karmarkar_karp(lens, count)
        over = [b for b in even if len(b) > 1 and sum(lens[i] for i in b) > (cap or sum(lens))]
        if not over:
            return even
        count += dp


def build_plan(
    lens: Sequence[int],
    dp: int = 1,
    *,
    max_tokens_per_gpu: int | None = None,
    cp: int = 1,
    balance: str = "first-fit",
    micro_batch_size: int | None = None,
) -> Plan:
    """A plan for samples of these lengths.

    A micro-batch has at most max_tokens_per_gpu x cp tokens; a sample that is longer alone has a
    micro-batch of its own. None leaves one micro-batch a rank. first-fit fills micro-batches in
    the order of the samples and deals them out in turn; karmarkar-karp evens out their tokens.
    In place of all that, micro_batch_size samples in order form each, dealt out in turn. Every
    rank has the same number of micro-batches, as pipelines need; some may be empty.

    Raises ValueError for another balance, sizes below 1, and both sizes of a micro-batch.
    """
    if balance not in BALANCES:
        raise ValueError(f"balance {balance!r} is not known: {', '.join(BALANCES)}")
    sizes = {"max_tokens_per_gpu": max_tokens_per_gpu, "micro_batch_size": micro_batch_size}
    for name, size in {"dp": dp, "cp": cp, **sizes}.items():
        if size is not None and size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")
    if None not in sizes.values():
        raise ValueError("max_tokens_per_gpu and micro_batch_size cannot both be given")
    cap = None if max_tokens_per_gpu is None else max_tokens_per_gpu * cp
    if micro_batch_size is None:
        bins = _bins(lens, dp, cap, balance)
    else:
        bins = _in_order(len(lens), dp, micro_batch_size)
    steps = [bins[k : k + dp] for k in range(0, len(bins), dp)]
    return Plan(dp, tuple(MicroBatch(tuple(tuple(b) for b in step)) for step in steps))
