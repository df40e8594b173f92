"""prime-rl's micro-batches, read back: ``rollouts/step_N/rank_r.bin``.

Sources: prime-rl 559b4477 (transports/rollouts/types.py, trainer/batch.py); for Total Router
Recall, whose routes have each expert's weight beside it, its pull request #3523. Shape suffixes: N
tokens, W layers, K top_k.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ...errors import FormatError
from ...files.reading import read_bytes
from ..documents.fields import one_line
from ..documents.masks import flags_in
from ..wire.sample import WireSample

__all__ = ["read_micro_batches"]

_DTYPES = ("uint8", "uint16", "int16", "int32")
_PAD_TOKEN = 1
_GREATEST_ID = 65_535  # beyond it an int32 is no id
_Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]


class _MicroBatch(msgspec.Struct, array_like=True):
    """prime-rl's MicroBatch up to its routes; what follows is of later versions."""

    input_ids: list[_Count]
    loss_mask: list[bool | int | float]
    advantages: msgspec.Raw
    inference_logprobs: list[float | None]
    position_ids: list[_Count]
    sequence_lengths: list[_Count]
    temperatures: msgspec.Raw
    env_names: msgspec.Raw
    seq_lens: msgspec.Raw
    ref_logprobs: msgspec.Raw
    routed_experts: tuple[bytes, list[int], str] | None  # bytes, shape, dtype


def _batches(path: Path) -> list[_MicroBatch]:
    """The top-level list; no entry can claim more than the file's bytes."""
    try:
        return msgspec.msgpack.decode(read_bytes(path), type=list[_MicroBatch])
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: damaged msgpack: {one_line(error)}") from None


def _routes(batch: _MicroBatch, where: str) -> NDArray[Any] | None:
    """The rows [R, W, K] of a micro-batch, one a token where all is well."""
    if batch.routed_experts is None:
        return None
    data, shape, name = batch.routed_experts
    size = len(batch.input_ids)
    try:
        assert name in _DTYPES
        assert len(shape) == 3
        flat = np.frombuffer(data, np.dtype(name).newbyteorder("<"))
        return flat.reshape(shape) if flat.size else flat.reshape(0, 0, 0)
    except (ValueError, TypeError, AssertionError):
        raise FormatError(
            f"{where}: routed_experts: expected [bytes, [{size}, layers, k], dtype]"
        ) from None


@dataclass(frozen=True, slots=True)
class _Columns:
    """What a bin says of each of its tokens, [N], and its rows."""

    tokens: NDArray[np.int32]
    trained: NDArray[np.bool_]
    logprobs: NDArray[np.float64]
    positions: NDArray[np.int32]
    rows: NDArray[Any] | None

    def part(self, part: slice) -> "_Columns":
        """The same of some tokens."""
        return _Columns(
            self.tokens[part],
            self.trained[part],
            self.logprobs[part],
            self.positions[part],
            None if self.rows is None else self.rows[part],
        )


def _columns(batch: _MicroBatch, where: str) -> _Columns:
    tokens = np.array(batch.input_ids, np.int32)
    flags = flags_in(np.array(batch.loss_mask, np.float64), where)
    logprobs = np.array(batch.inference_logprobs, np.float64)  # null is nan
    positions = np.array(batch.position_ids, np.int32)
    shapes = {column.shape for column in (tokens, flags, logprobs, positions)}
    if len(shapes) != 1 or sum(batch.sequence_lengths) > len(tokens):
        raise FormatError(f"{where}: tokens, masks, log-probs and lengths do not fit together")
    return _Columns(tokens, flags, logprobs, positions, _routes(batch, where))


def _real_tokens(last: _Columns) -> int:
    """How many tokens of a bin's last sequence are its own; the rest is padding.

    Padding is counted in sequence_lengths, as more of the last sequence (559b4477) or as one of
    its own (before). Its positions begin at 0 again, its tokens are 1, untrained, of log-prob 0
    and experts 0. A sequence that has all that in itself (a compacted one) is trained somewhere.
    """
    begins = np.flatnonzero(last.positions == 0)
    tail = last.part(slice(int(begins[-1]) if len(begins) else 0, None))
    filler = (tail.tokens == _PAD_TOKEN) & ~tail.trained & (tail.logprobs == 0)
    padded = filler.all() and (tail.rows is None or not tail.rows.any())
    return len(last.tokens) - len(filler) if padded else len(last.tokens)


def _sequences(
    whole: _Columns, batch: _MicroBatch, recall: bool, where: str
) -> Iterator[WireSample]:
    """The sequences of a bin, without the padding at its end."""
    end = 0
    for i, size in enumerate(batch.sequence_lengths):
        own, end = whole.part(slice(end, end + size)), end + size
        if i == len(batch.sequence_lengths) - 1:
            own = own.part(slice(_real_tokens(own)))
            if own.rows is not None and whole.rows is not None:  # whose, is not told
                beyond = whole.rows[len(whole.tokens) :]
                own = replace(own, rows=np.concatenate([own.rows, beyond]))
        if len(own.tokens):
            yield _sequence(own, recall, f"{where}: sequence {i}")


def _is_recall(rows: NDArray[Any] | None) -> bool:
    """Whether rows [N, W, 2K] are of Total Router Recall: int32 ids, then the bits of float32.

    Ids are below 65,536, and the bits of a weight, which is in 0..1, are far above but for 0.
    """
    if rows is None or rows.dtype != np.int32 or rows.shape[2] % 2 or not rows.size:
        return False
    half = rows.shape[2] // 2
    return bool((rows[..., half:] > _GREATEST_ID).any() and not (rows[..., :half] >> 16).any())


def _halves(rows: NDArray[Any], where: str) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """The ids and the weights of rows with both."""
    if rows.dtype != np.int32 or rows.shape[2] % 2:
        raise FormatError(f"{where}: got {rows.dtype} {rows.shape}, expected ids and weights")
    half = rows.shape[2] // 2
    weights = np.ascontiguousarray(rows[..., half:]).view(np.float32)
    if not ((weights >= 0) & (weights <= 1)).all():
        raise FormatError(f"{where}: routed_experts: weights beyond 0 to 1, beside ids")
    return rows[..., :half], weights


def _sequence(own: _Columns, recall: bool, where: str) -> WireSample:
    """One sequence of a bin; the last row, of a token never fed, is zeros."""
    rows, weights = own.rows, None
    if recall and rows is not None:
        rows, weights = _halves(rows, where)
    mask, size = own.trained, len(own.tokens)
    prompt = int(np.argmax(mask)) if mask.any() else size
    return WireSample(
        where=where,
        payload=rows,
        weights=weights,
        start=None if rows is None else 0,
        prompt_ids=own.tokens[:prompt],
        response_ids=own.tokens[prompt:],
        prompt_length=prompt,
        response_length=size - prompt,
        logprobs=own.logprobs[prompt:],
        loss_mask=mask,
    )


def read_micro_batches(path: Path) -> list[WireSample]:
    """The sequences of all bins. Raises FormatError on damage, and on what is no MicroBatch."""
    where, batches = f"{path}: micro-batch", _batches(path)
    bins = [_columns(batch, f"{where} {i}") for i, batch in enumerate(batches)]
    recall = any(_is_recall(whole.rows) for whole in bins)
    return [
        wire
        for i, (whole, batch) in enumerate(zip(bins, batches, strict=True))
        for wire in _sequences(whole, batch, recall, f"{where} {i}")
    ]
