"""Which rows of a live model's routers belong to which sequence.

Shape suffixes: B samples of a batch, S positions, T tokens of a sequence, R rows of a router.
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

    s_major tells that routers see row s * B + b (Megatron), not b * S + s (transformers).
    """

    input_ids_BS: torch.Tensor
    mask_BS: torch.Tensor | None
    position_ids_BS: torch.Tensor | None
    s_major: bool

    @property
    def tensors(self) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Token ids, mask and positions."""
        return self.input_ids_BS, self.mask_BS, self.position_ids_BS


@dataclass(frozen=True, slots=True, eq=False)
class Sequence:
    """One sequence of a batch: its token ids, int32 [T], and its rows of a router, int64 [T]."""

    token_ids_T: NDArray[np.int32]
    rows_T: NDArray[np.int64]


def batch_of(args: tuple[Any, ...], kwargs: dict[str, Any], *, s_major: bool) -> Batch:
    """The tensors of a forward call that say which rows are which.

    Transformers takes (input_ids, attention_mask, position_ids), Megatron-Core's GPTModel
    (input_ids, position_ids, attention_mask). Raises UnsupportedError where there are no token ids.
    """
    names = ["input_ids", "attention_mask", "position_ids"]
    if s_major:
        names[1:] = names[:0:-1]
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    ids = given.get("input_ids")
    if ids is None or ids.ndim != 2:
        raise UnsupportedError("a forward without input_ids [B, S]: its rows cannot be told apart")
    mask, positions = given.get("attention_mask"), given.get("position_ids")
    if mask is not None and (s_major or mask.shape != ids.shape):
        mask = None  # causal masks of Megatron-Core, 4-D masks: every token is a row
    if positions is not None and positions.shape != ids.shape:
        positions = None
    return Batch(ids, mask, positions, s_major)


def split_batch(batch: Batch) -> list[Sequence]:
    """The sequences of a batch on the host: rows that the mask keeps; a packed row of a batch is
    cut where positions begin again at 0."""
    ids_BS = batch.input_ids_BS.numpy()
    rows_BS = np.arange(ids_BS.size).reshape(ids_BS.shape)
    if batch.s_major:
        rows_BS = np.arange(ids_BS.size).reshape(ids_BS.shape[::-1]).T
    found = []
    for b, ids_S in enumerate(ids_BS):
        keep_S = (
            np.ones(len(ids_S), bool) if batch.mask_BS is None else batch.mask_BS[b].numpy() != 0
        )
        cuts = [0, int(keep_S.sum())]
        if batch.position_ids_BS is not None:
            positions = batch.position_ids_BS[b].numpy()[keep_S]
            cuts = [*np.flatnonzero(positions == 0).tolist(), len(positions)]
            cuts = cuts if cuts[0] == 0 else [0, *cuts]
        ids_T, rows_T = ids_S[keep_S].astype(np.int32), rows_BS[b][keep_S]
        found += [Sequence(ids_T[lo:hi], rows_T[lo:hi]) for lo, hi in pairwise(cuts) if hi > lo]
    return found
