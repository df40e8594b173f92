"""prime-rl's micro-batches, read back: ``rollouts/step_N/rank_r.bin``.

Source: prime-rl 559b4477 (transports/rollouts/types.py, trainer/batch.py). Shape suffixes: N
tokens, W layers, K top_k.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError, UnsupportedError
from .fields import floats, one_line, sequence, token_ids
from .wire import WireSample

__all__ = ["load_msgpack", "read_micro_batches"]

_TOKENS, _MASK, _LOGPROBS, _LENGTHS, _ROUTES = 0, 1, 3, 5, 10
_DTYPES = ("uint8", "uint16", "int32")


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


def _sequences(batch: Any, where: str) -> Iterator[WireSample]:
    """The sequences of a bin; what is after the last one is padding."""
    if not isinstance(batch, list) or len(batch) <= _ROUTES:
        raise FormatError(f"{where}: expected an array of at least {_ROUTES + 1} fields")
    tokens = token_ids(batch[_TOKENS], where, "input_ids")
    logprobs = floats(batch[_LOGPROBS], where, "inference_logprobs")
    flags = np.array(sequence(batch[_MASK], where, "loss_mask") or [])
    lens = token_ids(batch[_LENGTHS], where, "sequence_lengths")
    if tokens is None or logprobs is None or lens is None or flags.shape != tokens.shape \
            or logprobs.shape != tokens.shape or lens.sum() > len(tokens):  # fmt: skip
        raise FormatError(f"{where}: tokens, masks, log-probs and lengths do not fit together")
    routes = _routes(batch[_ROUTES], len(tokens), where)
    end = 0
    for i, size in enumerate(lens.tolist()):
        part, end = slice(end, end + size), end + size
        mask = flags[part].astype(np.bool_)
        prompt = int(np.argmax(mask)) if mask.any() else size
        yield WireSample(
            where=f"{where}: sequence {i}",
            payload=None if routes is None else routes[part][: max(size - 1, 0)],
            start=None if routes is None else 0,
            prompt_ids=tokens[part][:prompt],
            response_ids=tokens[part][prompt:],
            prompt_length=prompt,
            response_length=size - prompt,
            logprobs=logprobs[part][prompt:],
            loss_mask=mask,
        )


def read_micro_batches(path: Path) -> list[WireSample]:
    """The sequences of all bins. Raises FormatError on damage, and on what is no MicroBatch."""
    where = f"{path}: micro-batch"
    return [wire for i, b in enumerate(_batches(path)) for wire in _sequences(b, f"{where} {i}")]
