"""Fields of a trainer's batch: tensors or numpy arrays, checked, and one sequence out of them.

Shape suffixes: N tokens, R rows, W layers, K top_k.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import FormatError
from .fields import one_line
from .wire import WireSample

__all__ = ["numbers_in", "tokens_in", "whole_mask", "wire_of"]

Array = NDArray[Any]


def numbers_in(value: Any, where: str) -> Array:
    """A tensor or a numpy array of numbers as numpy's, no larger than its own bytes."""
    if isinstance(value, torch.Tensor) and value.layout == torch.strided:
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise FormatError(f"{where}: a tensor {tuple(value.shape)} larger than its bytes")
        try:
            value = value.detach().numpy()
        except (RuntimeError, TypeError) as error:
            raise FormatError(f"{where}: {one_line(error)}") from None
    if isinstance(value, list):
        value = np.array(value) if all(type(x) in (int, float, bool) for x in value) else None
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "iufb":
        raise FormatError(f"{where}: got {type(value).__name__}, expected numbers")
    return value


def tokens_in(value: Any, where: str) -> NDArray[np.int32]:
    """Token ids, int32 [N]. Raises FormatError when they are not counts of 31 bits."""
    ids = numbers_in(value, where)
    if ids.ndim != 1 or (ids.size and not 0 <= ids.min() <= ids.max() < 2**31):
        raise FormatError(f"{where}: got {ids.dtype} {ids.shape}, expected token ids")
    return ids.astype(np.int32)


def _engine_rows(ids_RWK: Array, total: int, where: str) -> Array:
    """The N - 1 rows that an engine gives: the last token's, padding in these files, is cut.

    Raises FormatError when there are neither N nor N - 1 rows.
    """
    if len(ids_RWK) not in (total, total - 1):
        raise FormatError(f"{where}: got {len(ids_RWK)} rows for {total} tokens, expected {total} "
                          f"or {total - 1}")  # fmt: skip
    return ids_RWK[: max(total - 1, 0)]


def wire_of(
    where: str, ids_RWK: Array | None, tokens: NDArray[np.int32], prompt: int, **more: Any
) -> WireSample:
    """A sequence: its tokens, of which ``prompt`` are the prompt's, and its rows."""
    if not 0 <= prompt <= len(tokens):
        raise FormatError(f"{where}: a prompt of {prompt} tokens of {len(tokens)}")
    rows = None if ids_RWK is None else _engine_rows(ids_RWK, len(tokens), where)
    return WireSample(
        where=where,
        payload=rows,
        start=None if rows is None else 0,
        prompt_ids=tokens[:prompt],
        response_ids=tokens[prompt:],
        prompt_length=prompt,
        response_length=len(tokens) - prompt,
        **more,
    )


def whole_mask(part: Any, prompt: int, total: int, where: str) -> NDArray[np.bool_] | None:
    """The mask of all N tokens from that of the response."""
    if part is None:
        return None
    flags = numbers_in(part, where) != 0
    if len(flags) != total - prompt:
        raise FormatError(f"{where}: loss_mask: got {len(flags)}, expected {total - prompt}")
    return np.concatenate([np.zeros(prompt, np.bool_), flags])
