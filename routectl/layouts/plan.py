"""Which samples form which micro-batch on which data-parallel rank.

first-fit follows slime (utils/dp_schedule.py): pack first, then deal out; karmarkar-karp evens out
tokens as slime does; verl evens out its estimate of work. ``balancing`` and ``verl_balance`` have
them.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from ..errors import unknown
from .balancing import Bins, first_fit, karmarkar_karp, split_fullest
from .verl_balance import verl_micro_batches, verl_ranks

__all__ = ["BALANCES", "MicroBatch", "Plan", "build_plan", "verl_plan"]

BALANCES = ("first-fit", "karmarkar-karp", "verl")


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


def _in_order(count: int, dp: int, size: int) -> Bins:
    """``size`` samples in each bin, in order; empty ones at the end make a multiple of dp."""
    bins = [list(range(i, min(i + size, count))) for i in range(0, count, size)] or [[]]
    return bins + [[] for _ in range(-len(bins) % dp)]


def _bins(lens: Sequence[int], dp: int, cap: int | None, balance: str) -> Bins:
    """Micro-batches of all ranks: a multiple of dp, none over ``cap`` (lone samples aside)."""
    packed = first_fit(lens, cap if cap is not None else sum(lens))
    count = -(-max(len(packed), 1) // dp) * dp
    if balance == "first-fit":
        split_fullest(packed, lens, count)
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
    the order of the samples and deals them out in turn; karmarkar-karp evens out their tokens;
    verl is ``verl_plan``. In place of all that, micro_batch_size samples in order form each, dealt
    out in turn. Every rank has the same number of micro-batches, as pipelines need; some may be
    empty.

    Raises ValueError for another balance, sizes below 1, both sizes of a micro-batch, and what verl
    refuses.
    """
    if balance not in BALANCES:
        raise unknown("balance", balance, BALANCES, ValueError)
    sizes = {"max_tokens_per_gpu": max_tokens_per_gpu, "micro_batch_size": micro_batch_size}
    for name, size in {"dp": dp, "cp": cp, **sizes}.items():
        if size is not None and size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")
    if None not in sizes.values():
        raise ValueError("max_tokens_per_gpu and micro_batch_size cannot both be given")
    cap = None if max_tokens_per_gpu is None else max_tokens_per_gpu * cp
    if micro_batch_size is None and balance == "verl":
        return verl_plan(lens, dp, cap)
    if micro_batch_size is None:
        bins = _bins(lens, dp, cap, balance)
    else:
        bins = _in_order(len(lens), dp, micro_batch_size)
    steps = [bins[k : k + dp] for k in range(0, len(bins), dp)]
    return Plan(dp, tuple(MicroBatch(tuple(tuple(b) for b in step)) for step in steps))


def verl_plan(lens: Sequence[int], dp: int, max_tokens: int | None, multiple: int = 1) -> Plan:
    """verl's own micro-batches of a batch: those of ``verl_balance``, side by side.

    max_tokens is of a micro-batch over its CP ranks; None leaves one micro-batch a rank. Raises
    ValueError as verl_ranks and verl_micro_batches do.
    """
    ranks = verl_ranks(lens, dp)
    if not lens:
        return Plan(dp, (MicroBatch(((),) * dp),))
    found = verl_micro_batches(lens, ranks, max_tokens or max(sum(lens), 1), multiple)
    steps = zip(*found, strict=True)
    return Plan(dp, tuple(MicroBatch(tuple(map(tuple, groups))) for groups in steps))
