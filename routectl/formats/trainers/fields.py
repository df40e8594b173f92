"""Fields of a trainer's batch: tensors or numpy arrays, checked, and one sequence out of them.

Shape suffixes: N tokens, R rows, W layers, K top_k.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
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
    "PackedRows",
    "fields_of",
    "numbers_in",
    "packed_rows",
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


@dataclass(frozen=True, slots=True, eq=False)
class PackedRows:
    """Rows of samples end to end, [sum R, W, K]: those of sample i are bounds[i] to bounds[i + 1].

    Source: SkyRL 0.4.0 (backends/skyrl_train/utils/packed_tensor.py).
    """

    values: Array
    bounds: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def of(self, sample: int) -> Array:
        """The rows of one sample, [R, W, K]."""
        return self.values[slice(*self.bounds[sample : sample + 2])]

    def first(self, samples: int) -> "PackedRows":
        """The first samples alone."""
        return PackedRows(self.values, self.bounds[: samples + 1])


def packed_rows(values: Any, cu_seqlens: Any, where: str) -> PackedRows:
    """Rows with the bounds of samples beside them; raises FormatError where they do not fit."""
    rows, ends = numbers_in(values, where), numbers_in(cu_seqlens, f"{where}: cu_seqlens")
    if rows.ndim != 3 or rows.dtype.kind not in "iu":
        raise FormatError(f"{where}: got {rows.dtype} {rows.shape}, expected rows [N, layers, k]")
    if ends.ndim != 1 or ends.dtype.kind not in "iu" or len(ends) < 2:
        raise FormatError(f"{where}: cu_seqlens: got {ends.dtype} {ends.shape}, expected bounds")
    bounds = tuple(ends.tolist())
    if bounds[0] != 0 or bounds[-1] != len(rows) or any(a > b for a, b in pairwise(bounds)):
        raise FormatError(
            f"{where}: cu_seqlens from {bounds[0]} to {bounds[-1]}, expected to ascend from 0 to "
            f"{len(rows)} rows"
        )
    return PackedRows(rows, bounds)


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
