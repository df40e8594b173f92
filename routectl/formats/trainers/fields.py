"""Fields of a trainer's batch: tensors or numpy arrays, checked, and one sequence out of them.

Shape suffixes: N tokens, R rows, W layers, K top_k.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import FormatError
from ...pickled.records import Record, StoredArray
from ...pickled.torch_files import MappedTensor
from ..documents.fields import as_float64
from ..documents.masks import flags_in
from ..wire.sample import WireSample

__all__ = [
    "fields_of",
    "numbers_in",
    "response_scores",
    "tokens_in",
    "whole_mask",
    "wire_of",
]

Array = NDArray[Any]


def fields_of(batch: Any) -> Mapping[Any, Any] | None:
    """The fields of a TensorDict, by whichever way it was made, or of a dict; None of any other."""
    fields = batch
    if isinstance(batch, Record):
        made = type(batch).__name__ == "_make_td" and len(batch.args) == 2
        state = batch.args[1] if made else batch.fields
        fields = state.get("_tensordict") if isinstance(state, Mapping) else None
    return fields if isinstance(fields, Mapping) else None


def _array_of(value: StoredArray | MappedTensor, where: str) -> Array:
    try:
        array = value.array
    except FormatError as error:
        raise FormatError(f"{where}: {error}") from None
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def numbers_in(value: Any, where: str) -> Array:
    """A tensor or a numpy array of numbers as numpy's, no larger than its own bytes."""
    if isinstance(value, StoredArray | MappedTensor):
        value = _array_of(value, where)
    if isinstance(value, list):
        value = np.array(value) if all(type(x) in (int, float, bool) for x in value) else None
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "iufb":
        raise FormatError(f"{where}: got {type(value).__name__}, expected numbers")
    return value


def tokens_in(value: Any, where: str) -> NDArray[np.int32]:
    """Token ids, int32 [N]. Raises FormatError when they are not counts of 31 bits."""
    ids = numbers_in(value, where)
    whole = ids.dtype.kind in "iu" or not ids.size
    if ids.ndim != 1 or not whole or (ids.size and not 0 <= ids.min() <= ids.max() < 2**31):
        raise FormatError(f"{where}: got {ids.dtype} {ids.shape}, expected token ids")
    return ids.astype(np.int32)


def response_scores(value: Any, length: int, where: str, name: str) -> NDArray[np.float64] | None:
    """The log-probs of a response, float64 [G]; None stays None.

    Raises FormatError unless they are one a response token.
    """
    if value is None:
        return None
    scores = numbers_in(value, f"{where}: {name}")
    if scores.shape != (length,):
        raise FormatError(f"{where}: {name}: got {scores.shape}, expected one of {length} tokens")
    return as_float64(scores)


def _engine_rows(ids_RWK: Array, total: int, where: str) -> Array:
    """The N - 1 rows that an engine gives: the last token's, padding in these files, is cut.

    Any other count of rows is refused when the sample is read.
    """
    if not ids_RWK.ndim:
        raise FormatError(f"{where}: got one number, expected rows")
    return ids_RWK[: max(total - 1, 0)] if len(ids_RWK) == total else ids_RWK


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
    if not 0 <= prompt <= total:
        raise FormatError(f"{where}: a prompt of {prompt} tokens of {total}")
    flags = flags_in(numbers_in(part, f"{where}: loss_mask"), where)
    if flags.shape != (total - prompt,):
        raise FormatError(f"{where}: loss_mask: got {flags.shape}, expected {total - prompt}")
    return np.concatenate([np.zeros(prompt, np.bool_), flags])
