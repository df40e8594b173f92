"""Micro-batches as verl 0.9.1 forms them (utils/seqlen_balancing.py, trainer/ppo/v1).

_balance_batch gives each data-parallel rank as many samples of nearly equal work, and
rearrange_micro_batches cuts a rank's into the fewest sets of nearly equal work that stay within the
limit of tokens, as many on every rank, light ones first and last.
"""

from collections.abc import Sequence

from .balancing import Bins, karmarkar_karp

__all__ = ["verl_micro_batches", "verl_ranks"]


def _work(tokens: int) -> int:
    """verl's estimate of a sample's work (calculate_workload), for a model of 4,096 wide."""
    return 24576 * tokens + tokens * tokens


def verl_ranks(lens: Sequence[int], dp: int) -> Bins:
    """The samples of each data-parallel rank, ascending; with one rank all.

    Raises ValueError when the samples do not divide over the ranks: verl pads a batch before that.
    """
    if len(lens) % dp:
        raise ValueError(
            f"{len(lens)} samples do not divide over dp {dp}: verl adds samples of its own, and "
            "which micro-batches they are in only a plan can say"
        )
    return karmarkar_karp([_work(n) for n in lens], dp, equal_size=True)


def verl_micro_batches(
    lens: Sequence[int], ranks: Bins, max_tokens: int, multiple: int = 1
) -> list[Bins]:
    """The samples of each micro-batch of each rank, in the order in which verl runs them.

    ``multiple`` is what the number of micro-batches must be a multiple of (with virtual pipeline
    stages microbatch_group_size_per_vp_stage). Raises ValueError where verl does: a sample of more
    than max_tokens tokens, and more micro-batches than a rank has samples.
    """
    longest = max(lens, default=0)
    if longest > max_tokens:
        raise ValueError(
            f"a sample of {longest} tokens is over the {max_tokens} of a micro-batch, which verl "
            "refuses"
        )
    fewest = min(map(len, ranks))
    count = max(min(len(r), -(-sum(lens[i] for i in r) // max_tokens)) for r in ranks)
    count = -(-count // multiple) * multiple
    while count <= fewest:
        work = [[_work(lens[i]) for i in rank] for rank in ranks]
        found = [karmarkar_karp(w, count) for w in work]
        tokens = (
            sum(lens[rank[k]] for k in part)
            for rank, parts in zip(ranks, found, strict=True)
            for part in parts
        )
        if all(held <= max_tokens for held in tokens):
            return [_ordered(*one) for one in zip(ranks, found, work, strict=True)]
        count += multiple
    raise ValueError(
        f"{max_tokens} tokens of a micro-batch need {count} micro-batches, and a rank has {fewest} "
        "samples: verl refuses that"
    )


def _ordered(rank: Sequence[int], parts: Bins, work: Sequence[int]) -> Bins:
    """Heavy sets in the middle: pipelines are filled and drained with light ones."""
    parts = sorted(parts, key=lambda part: (sum(work[k] for k in part), part[:1]), reverse=True)
    return [[rank[k] for k in part] for part in parts[::2][::-1] + parts[1::2]]
