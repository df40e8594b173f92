"""Padded batches of trainers: where the tokens of each row are, and its prompt.

Shape suffixes: B samples, S positions, W layers, K top_k.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError
from .trainer_fields import numbers_in, tokens_in, wire_of
from .wire import WireSample

__all__ = ["read_grid"]

_TOKENS = ("input_ids", "sequences")
_MASKS = ("response_mask", "token_mask")
_LOGPROBS = ("rollout_log_probs", "rollout_logprobs", "generation_logprobs")


def _first(doc: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((doc[name] for name in names if doc.get(name) is not None), None)


def _attention(doc: Mapping[str, Any], shape: tuple[int, ...], where: str) -> NDArray[np.bool_]:
    """Where the tokens of a grid are, bool [B, S]."""
    mask: NDArray[np.bool_]
    if doc.get("attention_mask") is not None:
        mask = numbers_in(doc["attention_mask"], f"{where}: attention_mask") != 0
    elif doc.get("input_lengths") is not None:
        lengths = numbers_in(doc["input_lengths"], f"{where}: input_lengths")
        mask = np.arange(shape[1])[None] < lengths.reshape(-1, 1)
    else:
        raise FormatError(f"{where}: a grid with neither attention_mask nor input_lengths")
    if mask.shape != shape[:2]:
        raise FormatError(f"{where}: attention_mask {mask.shape} for routes {shape}")
    return mask


def _prompt_of(doc: Mapping[str, Any], i: int, mask_S: NDArray[np.bool_], where: str) -> int:
    """Prompt tokens of row i: by the prompts' width, else up to the first token of the response."""
    total = int(mask_S.sum())
    if doc.get("prompts") is not None:
        return int(mask_S[: numbers_in(doc["prompts"], where).shape[1]].sum())
    flags = _first(doc, _MASKS)
    if flags is None:
        return total
    flags = numbers_in(flags, where)[i] != 0
    return total - int(flags.sum()) if len(flags) != len(mask_S) else _to_first(flags, mask_S)


def _to_first(flags_S: NDArray[np.bool_], mask_S: NDArray[np.bool_]) -> int:
    """Tokens before the first one that is flagged; all of them when none is."""
    flagged = np.flatnonzero(flags_S & mask_S)
    return int(mask_S[: flagged[0]].sum()) if flagged.size else int(mask_S.sum())


def read_grid(doc: Mapping[str, Any], key: str, path: Path) -> Iterator[WireSample]:
    """The rows of a padded batch."""
    where = f"{path}: {key}"
    ids_BSWK, tokens_BS = numbers_in(doc[key], where), _first(doc, _TOKENS)
    mask_BS = _attention(doc, ids_BSWK.shape, str(path))
    if tokens_BS is None or numbers_in(tokens_BS, str(path)).shape != mask_BS.shape:
        raise FormatError(f"{path}: no input_ids of the grid's shape {mask_BS.shape}")
    tokens_BS, scores = numbers_in(tokens_BS, str(path)), _first(doc, _LOGPROBS)
    for i, mask_S in enumerate(mask_BS):
        at = f"{path}: sample {i}"
        prompt, total = _prompt_of(doc, i, mask_S, at), int(mask_S.sum())
        places = np.flatnonzero(mask_S)
        rows = ids_BSWK[i, places[0] : places[-1] + 1] if total else ids_BSWK[i, :0]
        yield wire_of(
            at, rows, tokens_in(tokens_BS[i][mask_S], at), prompt, sample_id=str(i),
            logprobs=_scores(scores, doc, i, mask_S, total - prompt, at),
        )  # fmt: skip


def _scores(scores: Any, doc: Mapping[str, Any], i: int, mask_S: NDArray[np.bool_], size: int,
            where: str) -> NDArray[np.float64] | None:  # fmt: skip
    """The log-probs of a response: first in their row, last in it, or at the response's places."""
    if scores is None:
        return None
    row: NDArray[np.float64] = numbers_in(scores, where)[i].astype(np.float64)
    if len(row) == len(mask_S):
        return row[mask_S][int(mask_S.sum()) - size :]
    return row[:size] if doc.get("prompts") is not None else row[len(row) - size :]
