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

from ...errors import UnsupportedError

__all__ = ["Batch", "Sequence", "batch_of", "rows_of_batch", "split_batch"]

CACHES = ("cache", "past_key_values")  # of a forward: since transformers 5.24, before


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


def batch_of(given: dict[str, Any], *, s_major: bool) -> Batch:
    """The tensors of a forward call, by their names, that say which rows are which.

    Raises UnsupportedError where there are no token ids, and for a cache whose length is not known.
    """
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
    cache = next((given[name] for name in CACHES if given.get(name) is not None), None)
    if cache is None:
        return None, 0
    if not hasattr(cache, "get_seq_length"):
        raise UnsupportedError(f"a cache of type {type(cache).__name__}: its length is not known")
    return cache, int(cache.get_seq_length())


def split_batch(batch: Batch) -> list[Sequence]:
    """The sequences of a batch on the host, without a past, with their token ids."""
    flat = batch.input_ids_BS.T if batch.s_major else batch.input_ids_BS
    ids_R = flat.numpy().reshape(-1).astype(np.int32)
    return [Sequence(ids_R[rows_T], rows_T) for rows_T in rows_of_batch(batch)]


def rows_of_batch(batch: Batch) -> list[NDArray[np.int64]]:
    """The rows of each sequence of a batch without a past, int64 [T]: those that the mask keeps; a
    packed row of a batch is cut where positions begin again at 0.

    Mask and positions are read from their device, token ids are not.
    """
    shape = tuple(batch.input_ids_BS.shape)
    rows_BS = np.arange(batch.input_ids_BS.numel()).reshape(shape)
    if batch.s_major:
        rows_BS = np.arange(rows_BS.size).reshape(shape[::-1]).T
    mask_BS, positions_BS = (
        None if part is None else part.detach().cpu().numpy()
        for part in (batch.mask_BP, batch.position_ids_BS)
    )
    found = []
    for b, rows_S in enumerate(rows_BS):
        keep_S = np.ones(shape[1], bool) if mask_BS is None else mask_BS[b] != 0
        rows_T = rows_S[keep_S]
        cuts = [0, len(rows_T)]
        if positions_BS is not None:
            positions_T = positions_BS[b][keep_S]
            cuts = [*np.flatnonzero(positions_T == 0).tolist(), len(positions_T)]
            cuts = cuts if cuts[0] == 0 else [0, *cuts]
        found += [rows_T[lo:hi] for lo, hi in pairwise(cuts) if hi > lo]
    return found
