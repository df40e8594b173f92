"""prime-rl's ``rank_r.bin``: msgpack, a list of MicroBatch, each an array of 16 fields.

One sample is in memory at a time. Source: prime-rl 559b4477 (transports/rollouts/types.py; later
versions append fields, which have defaults). Shape suffixes: N tokens, W layers, K top_k.
"""

import math
import struct
from typing import IO, Any

import msgspec

from ...errors import UnsupportedError
from .rows import Feed, TargetRows, tokens_of

__all__ = ["write_micro_batches"]

NUM_FIELDS = 16


def _micro_batch(placed: TargetRows, where: str) -> list[Any]:
    """One sample as a bin of its own; advantages are 0 and temperatures 1, as no dump has them."""
    sample, tokens = placed.sample, tokens_of(placed.sample, where).tolist()
    size, prompt = len(tokens), sample.prompt_length or 0
    ids_NWK = placed.ids_RWK
    assert ids_NWK is not None
    if ids_NWK.nbytes >= 2**32:
        raise UnsupportedError(f"{where}: msgpack holds at most 4 GiB in one byte string")
    mask = [False] * prompt + [True] * (size - prompt)
    logprobs = [math.nan] * (size - prompt)  # what is not known: a 0 is a probability of 1
    if sample.logprobs is not None:
        logprobs = sample.logprobs.tolist()
    routes = [ids_NWK.tobytes(), list(ids_NWK.shape), str(ids_NWK.dtype)]
    fields = [
        tokens,
        mask if sample.loss_mask is None else sample.loss_mask.tolist(),
        [0.0] * size,  # advantages
        [0.0] * prompt + logprobs,
        list(range(size)),  # position_ids
        [size],  # sequence_lengths
        [1.0] * size,  # temperatures
        [""],  # env_names
        [size],  # seq_lens
        None,  # ref_logprobs
        routes,
    ]
    return [*fields, *[None] * (NUM_FIELDS - len(fields))]


def write_micro_batches(feed: Feed, stream: IO[bytes]) -> int:
    """Write one MicroBatch a sample; returns how many. The count at the head is set last."""
    count = 0
    stream.write(struct.pack(">BI", 0xDD, 0))
    for placed in feed:
        where = feed.where(placed.index, placed.sample)
        stream.write(msgspec.msgpack.encode(_micro_batch(placed, where)))
        count += 1
    stream.seek(0)
    stream.write(struct.pack(">BI", 0xDD, count))
    stream.seek(0, 2)
    return count
