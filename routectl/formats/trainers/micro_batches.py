"""prime-rl's micro-batches, read back: ``rollouts/step_N/rank_r.bin``.

Source: prime-rl 559b4477 (transports/rollouts/types.py, trainer/batch.py). Shape suffixes: N
tokens, W layers, K top_k.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import FormatError, UnsupportedError
from ..documents.fields import floats, one_line, sequence, token_ids
from ..wire.sample import WireSample

__all__ = ["load_msgpack", "read_micro_batches"]

_TOKENS, _MASK, _LOGPROBS, _POSITIONS, _LENGTHS, _ROUTES = 0, 1, 3, 4, 5, 10
_DTYPES = ("uint8", "uint16", "int16", "int32")
_PAD_TOKEN = 1


def load_msgpack(path: Path | str) -> Any:
    """The msgpack package. Raises UnsupportedError when it is not installed."""
    try:
        import msgpack
    except ImportError:
        raise UnsupportedError(
            f"{path}: prime-rl's files need msgpack, which is not installed",
            hint="pip install 'routectl[trainers]'",
        ) from None
    return msgpack


def _batches(path: Path) -> list[Any]:
    """The top-level list; no entry can claim more than the file's bytes."""
    msgpack = load_msgpack(path)
    try:
        batches = msgpack.unpackb(path.read_bytes(), strict_map_key=True)
    except (ValueError, msgpack.UnpackException) as error:
        raise FormatError(f"{path}: damaged msgpack: {one_line(error)}") from None
    if not isinstance(batches, list):
        raise FormatError(f"{path}: got {type(batches).__name__}, expected a list of micro-batches")
    return batches


def _routes(field: Any, size: int, where: str) -> NDArray[Any] | None:
    """The rows [N, W, K] of a micro-batch out of [bytes, shape, dtype]."""
    if field is None:
        return None
    try:
        data, shape, name = field
        assert name in _DTYPES
        return np.frombuffer(data, np.dtype(name).newbyteorder("<")).reshape(size, *shape[1:])
    except (ValueError, TypeError, AssertionError):
        raise FormatError(
            f"{where}: routed_experts: expected [bytes, [{size}, layers, k], dtype]"
        ) from None


def _flags(value: Any, where: str) -> NDArray[np.bool_]:
    flags = sequence(value, where, "loss_mask") or []
    if not all(type(flag) in (bool, int) for flag in flags):
        raise FormatError(f"{where}: loss_mask: expected booleans")
    return np.array([bool(flag) for flag in flags], np.bool_)


def _real_tokens(batch: Any, part: slice, rows: Any) -> int:
    """How many of a bin's last tokens are its last sequence's; the rest is padding.

    Padding is counted in sequence_lengths, as more of the last sequence (559b4477) or as one of
    its own (before). Its positions begin at 0 again, its tokens are 1, untrained, of log-prob 0
    and experts 0. A sequence that has all that in itself (a compacted one) is trained somewhere.
    """
    tokens, mask, scores, positions = (
        np.asarray(batch[field][part]) for field in (_TOKENS, _MASK, _LOGPROBS, _POSITIONS)
    )
    begins = np.flatnonzero(positions == 0)
    first = int(begins[-1]) if len(begins) else 0
    tail = slice(first, None)
    filler = (tokens[tail] == _PAD_TOKEN) & (mask[tail] == 0) & (scores[tail] == 0)
    padded = filler.all() and (rows is None or not rows[part][tail].any())
    return first if padded and len(filler) else len(tokens)


def _sequences(batch: Any, where: str) -> Iterator[WireSample]:
    """The sequences of a bin, without the padding at its end."""
    if not isinstance(batch, list) or len(batch) <= _ROUTES:
        raise FormatError(f"{where}: expected an array of at least {_ROUTES + 1} fields")
    tokens = token_ids(batch[_TOKENS], where, "input_ids")
    logprobs = floats(batch[_LOGPROBS], where, "inference_logprobs")
    flags = _flags(batch[_MASK], where)
    lens = token_ids(batch[_LENGTHS], where, "sequence_lengths")
    positions = token_ids(batch[_POSITIONS], where, "position_ids")
    if (
        tokens is None
        or logprobs is None
        or lens is None
        or positions is None
        or flags.shape != tokens.shape
        or logprobs.shape != tokens.shape
        or positions.shape != tokens.shape
        or lens.sum() > len(tokens)
    ):
        raise FormatError(f"{where}: tokens, masks, log-probs and lengths do not fit together")
    routes = _routes(batch[_ROUTES], len(tokens), where)
    end, last = 0, len(lens) - 1
    for i, size in enumerate(lens.tolist()):
        part, end = slice(end, end + size), end + size
        if i == last:
            size = _real_tokens(batch, part, routes)
            part = slice(part.start, part.start + size)
        if size:
            fields = tokens[part], flags[part], logprobs[part]
            rows = None if routes is None else routes[part]
            yield _sequence(fields, rows, f"{where}: sequence {i}")


def _sequence(fields: tuple[Any, Any, Any], rows: Any, where: str) -> WireSample:
    """One sequence of tokens, mask and log-probs; the last row, of a token never fed, is zeros."""
    tokens, mask, logprobs = fields
    prompt = int(np.argmax(mask)) if mask.any() else len(tokens)
    return WireSample(
        where=where,
        payload=rows,
        start=None if rows is None else 0,
        prompt_ids=tokens[:prompt],
        response_ids=tokens[prompt:],
        prompt_length=prompt,
        response_length=len(tokens) - prompt,
        logprobs=logprobs[prompt:],
        loss_mask=mask,
    )


def read_micro_batches(path: Path) -> list[WireSample]:
    """The sequences of all bins. Raises FormatError on damage, and on what is no MicroBatch."""
    where = f"{path}: micro-batch"
    return [wire for i, b in enumerate(_batches(path)) for wire in _sequences(b, f"{where} {i}")]
