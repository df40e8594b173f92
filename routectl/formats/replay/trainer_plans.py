"""Micro-batches as trainers hold them: what they keep of their own, as JSON.

slime (observability/train_data_utils.py) writes ``dp_shards`` itself. verl 0.9.1
(utils/seqlen_balancing.py: rearrange_micro_batches) returns ``batch_idx_list``, SkyRL
(workers/worker_utils.py: TokenBasedBatchIterator) keeps ``_microbatches``, NeMo-RL
(distributed/batched_data_dict.py: shard_by_batch_size) gives shards with ``micro_batch_indices``
and returns ``batch_sorted_indices``: a line in the trainer writes these down. docs/replay.md has
the forms.
"""

from collections.abc import Sequence
from itertools import accumulate, chain, pairwise, zip_longest
from typing import Annotated, Any

import msgspec

from ...errors import FormatError
from ...layouts.plan import MicroBatch

__all__ = ["TRAINERS_KEYS", "trainers_steps"]

_Count = Annotated[int, msgspec.Meta(ge=0)]
_Groups = list[list[_Count]]  # the samples of each micro-batch of a rank
TRAINERS_KEYS = {
    "dp_shards": "slime",
    "batch_idx_list": "verl",
    "_microbatches": "SkyRL",
    "batch_sorted_indices": "NeMo-RL",
}


class _Shard(msgspec.Struct):
    """A rank of slime's: ``micro_batch_indices`` index into its ``partition`` of the samples."""

    data_parallel_rank: _Count
    partition: list[_Count]
    micro_batch_indices: _Groups

    def steps(self) -> list[tuple[int, ...]]:
        """The samples of each micro-batch. Raises IndexError."""
        return [tuple(self.partition[i] for i in step) for step in self.micro_batch_indices]


class _Part(msgspec.Struct):
    """A shard of NeMo-RL's: [start, stop) of each micro-batch of each global batch.

    elem_counts_per_gb has the samples of each global batch with sequence packing alone; without it
    shards are as long as each other.
    """

    micro_batch_indices: list[list[tuple[_Count, _Count]]]
    elem_counts_per_gb: list[_Count] | None = None

    def counts(self) -> list[int]:
        """The samples of each global batch."""
        if self.elem_counts_per_gb is not None:
            return self.elem_counts_per_gb
        return [max((stop for _, stop in part), default=0) for part in self.micro_batch_indices]


class _Nemo(msgspec.Struct):
    """What NeMo-RL's shard_by_batch_size returns."""

    shards: Annotated[list[_Part], msgspec.Meta(min_length=1)]
    batch_sorted_indices: list[_Count]


def trainers_steps(document: dict[str, Any], where: str) -> tuple[MicroBatch, ...]:
    """The micro-batches of a document that has one of TRAINERS_KEYS, samples by index.

    Raises FormatError when it is not whole, or ranks do not agree.
    """
    key = next(name for name in TRAINERS_KEYS if name in document)
    try:
        if key == "dp_shards":
            return _slime(document[key], where)
        if key == "batch_sorted_indices":
            return _nemo(msgspec.convert(document, _Nemo), where)
        return _index_lists(document, key, where)
    except (msgspec.ValidationError, IndexError) as error:
        wanted = {
            "dp_shards": "expected data_parallel_rank, partition and micro_batch_indices: ",
            "batch_sorted_indices": "expected shards with micro_batch_indices: ",
        }
        raise FormatError(f"{where}: {key}: {wanted.get(key, '')}{error}") from None


def _slime(shards: Any, where: str) -> tuple[MicroBatch, ...]:
    by_rank: dict[int, list[tuple[int, ...]]] = {}
    for shard in msgspec.convert(shards, list[_Shard]):
        rank, steps = shard.data_parallel_rank, shard.steps()
        if by_rank.setdefault(rank, steps) != steps:
            raise FormatError(f"{where}: dp_shards disagree about data-parallel rank {rank}")
    counts = {len(steps) for steps in by_rank.values()}
    if sorted(by_rank) != list(range(len(by_rank))) or len(counts) != 1:
        raise FormatError(
            f"{where}: dp_shards: got ranks {sorted(by_rank)} with {sorted(counts)} micro-batches, "
            "expected every rank from 0 on, with equally many"
        )
    return _side_by_side([by_rank[rank] for rank in sorted(by_rank)])


def _side_by_side(ranks: Sequence[Sequence[tuple[int, ...]]]) -> tuple[MicroBatch, ...]:
    """The m-th micro-batches of all ranks together; ranks with fewer end in empty ones."""
    return tuple(MicroBatch(groups) for groups in zip_longest(*ranks, fillvalue=()))


def _index_lists(document: dict[str, Any], key: str, where: str) -> tuple[MicroBatch, ...]:
    """verl's and SkyRL's: of each rank the index lists of its micro-batches, into its own part.

    The parts lie end to end in ``global_idx``, in the dump where that is not there. verl's ranks
    have equally many micro-batches; SkyRL's get empty ones at the end.
    """
    ranks = msgspec.convert(document[key], Annotated[list[_Groups], msgspec.Meta(min_length=1)])
    held = [sorted(chain.from_iterable(groups)) for groups in ranks]
    for rank, samples in enumerate(held):
        if samples != list(range(len(samples))):
            raise FormatError(
                f"{where}: {key}: the micro-batches of rank {rank} do not have each of its samples "
                "once, from 0 on"
            )
    counts = sorted({len(groups) for groups in ranks})
    if key == "batch_idx_list" and len(counts) != 1:
        raise FormatError(
            f"{where}: {key}: ranks have {counts} micro-batches, expected equally many"
        )
    starts = list(accumulate(map(len, held), initial=0))
    order = msgspec.convert(document.get("global_idx", list(range(starts[-1]))), list[_Count])
    if len(order) != starts[-1]:
        raise FormatError(
            f"{where}: global_idx has {len(order)} samples, {key} {starts[-1]} in all ranks"
        )
    return _side_by_side(
        [
            [tuple(order[start + i] for i in group) for group in groups]
            for start, groups in zip(starts, ranks, strict=False)
        ]
    )


def _nemo(document: _Nemo, where: str) -> tuple[MicroBatch, ...]:
    """Of each global batch the micro-batches of all shards, one global batch after the other."""
    counts = [shard.counts() for shard in document.shards]
    batches = len(counts[0])
    if any(
        (len(shard.micro_batch_indices), len(own)) != (batches, batches)
        for shard, own in zip(document.shards, counts, strict=True)
    ):
        raise FormatError(f"{where}: shards have other numbers of global batches than each other")
    total, order = sum(map(sum, counts)), document.batch_sorted_indices
    if len(order) != total:
        raise FormatError(
            f"{where}: batch_sorted_indices has {len(order)} samples, the shards {total}"
        )
    packed = document.shards[0].elem_counts_per_gb is not None
    places = [(s, b) for s in range(len(counts)) for b in range(batches)]
    if not packed:  # shards of a global batch lie end to end, not global batches of a shard
        places.sort(key=lambda place: place[::-1])
    ends = pairwise(accumulate((counts[s][b] for s, b in places), initial=0))
    own = {at: order[start:stop] for at, (start, stop) in zip(places, ends, strict=True)}
    steps: list[MicroBatch] = []
    for b in range(batches):
        ranks = []
        for s, shard in enumerate(document.shards):
            spans = shard.micro_batch_indices[b]
            stops = [0, *(stop for _, stop in spans)]
            if [start for start, _ in spans] != stops[:-1] or stops[-1] != counts[s][b]:
                raise FormatError(
                    f"{where}: shard {s}: micro_batch_indices of global batch {b} do not follow "
                    f"each other up to {counts[s][b]} samples"
                )
            ranks.append([tuple(own[s, b][start:stop]) for start, stop in spans])
        steps += _side_by_side(ranks)
    return tuple(steps)
