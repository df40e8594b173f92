"""Which rows of a live model's routers belong to which sequence.

Shape suffixes: B samples of a batch, S positions, P positions with those in a cache, T tokens of a
sequence, R rows of a router.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import UnsupportedError

__all__ = ["Batch", "Sequence", "batch_of", "split_batch"]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """What a forward of the model was called with.

    s_major tells that routers see row s * B + b (Megatron), not b * S + s (transformers). cache
    holds the keys of ``past`` earlier positions; mask_BP is of these and of the new ones.
    """

    input_ids_BS: torch.Tensor
    mask_BP: torch.Tensor | None
    position_ids_BS: torch.Tensor | None
    s_major: bool
    cache: Any = None
    past: int = 0

    @property
    def tensors(self) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Token ids, mask and positions."""
        return self.input_ids_BS, self.mask_BP, self.position_ids_BS


@dataclass(frozen=True, slots=True, eq=False)
class Sequence:
    """One sequence of a batch: its token ids, int32 [T], and its rows of a router, int64 [T]."""

    token_ids_T: NDArray[np.int32]
    rows_T: NDArray[np.int64]


def batch_of(args: tuple[Any, ...], kwargs: dict[str, Any], *, s_major: bool) -> Batch:
    """The tensors of a forward call that say which rows are which.

    Transformers takes (input_ids, attention_mask, position_ids, past_key_values), Megatron-Core's
    GPTModel (input_ids, position_ids, attention_mask). Raises UnsupportedError where there are no
    token ids, and for a cache whose length is not known.
    """
    names = ["input_ids", "attention_mask", "position_ids", "past_key_values"]
    if s_major:
        names = ["input_ids", "position_ids", "attention_mask"]
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    ids = given.get("input_ids")
    if ids is None or ids.ndim != 2:
        raise UnsupportedError("a forward without input_ids [B, S]: its rows cannot be told apart")
    cache, past = _cache(given)
    mask, positions = given.get("attention_mask"), given.get("position_ids")
    if s_major or getattr(mask, "shape", None) != (ids.shape[0], past + ids.shape[1]):
        mask = None  # causal masks of Megatron-Core, 4-D masks: every token is a row
    if positions is not None and positions.shape != ids.shape:
        positions = None
    return Batch(ids, mask, positions, s_major, cache, past)


def _cache(given: dict[str, Any]) -> tuple[Any, int]:
    """The cache that a forward is given, and how many positions are in it."""
    for name in ("inference_context", "inference_params"):
        if given.get(name) is not None:
            raise UnsupportedError(f"a forward with {name}: its rows cannot be told apart")
    cache = given.get("past_key_values")
    if cache is None:
        return None, 0
    if not hasattr(cache, "get_seq_length"):
        raise UnsupportedError(f"a cache of type {type(cache).__name__}: its length is not known")
    return cache, int(cache.get_seq_length())


def split_batch(batch: Batch) -> list[Sequence]:
    """The sequences of a batch on the host, without a past: rows that the mask keeps; a packed row
    of a batch is cut where positions begin again at 0."""
    ids_BS = batch.input_ids_BS.numpy()
    rows_BS = np.arange(ids_BS.size).reshape(ids_BS.shape)
    if batch.s_major:
        rows_BS = np.arange(ids_BS.size).reshape(ids_BS.shape[::-1]).T
    found = []
    for b, ids_S in enumerate(ids_BS):
        keep_S = (
            np.ones(len(ids_S), bool) if batch.mask_BP is None else batch.mask_BP[b].numpy() != 0
        )
        cuts = [0, int(keep_S.sum())]
        if batch.position_ids_BS is not None:
            positions = batch.position_ids_BS[b].numpy()[keep_S]
            cuts = [*np.flatnonzero(positions == 0).tolist(), len(positions)]
            cuts = cuts if cuts[0] == 0 else [0, *cuts]
        ids_T, rows_T = ids_S[keep_S].astype(np.int32), rows_BS[b][keep_S]
        found += [Sequence(ids_T[lo:hi], rows_T[lo:hi]) for lo, hi in pairwise(cuts) if hi > lo]
    return found
