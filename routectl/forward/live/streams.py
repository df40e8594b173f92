"""Forwards of a model that go on from each other's cache: steps of the same sequences.

Shape suffixes: B samples of a batch, N positions from a cache's first on, L MoE layers, K top_k,
T tokens, R rows of a router.
"""

import weakref
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...errors import MismatchError, UnsupportedError
from .host import HostCopy
from .sequences import Batch

__all__ = ["Generated", "RecordedForward", "Stream", "Streams", "Told", "join_steps"]


@dataclass(frozen=True, slots=True, eq=False)
class RecordedForward:
    """One forward on its way to the host: its tokens, mask and positions, and its ids_LRK.

    Nothing of the device is held, so that a long recording takes host memory alone.
    """

    past: int
    s_major: bool
    parts: tuple[HostCopy | None, ...]
    ids_LRK: HostCopy

    def arrived(self) -> Batch:
        """The batch on the host."""
        ids, mask, positions = (None if part is None else part.get() for part in self.parts)
        assert ids is not None
        return Batch(ids, mask, positions, self.s_major, past=self.past)


@dataclass(frozen=True, slots=True, eq=False)
class Generated:
    """What a call of ``generate`` gave: int64 [B, N], prompts of ``prompt_width`` positions first.

    The first of ``ends`` after them is a sequence's last token. Where something else can end a
    sequence, what follows is ``padding``. mask_BP is that of the prompts, where it was given.
    """

    ids_BN: HostCopy
    prompt_width: int
    ends: tuple[int, ...]
    padding: int | None
    mask_BP: HostCopy | None


@dataclass(slots=True, eq=False)
class Stream:
    """The steps of the same sequences. mask_BP is that of the last step that had one."""

    steps: list[RecordedForward] = field(default_factory=list)
    mask_BP: HostCopy | None = None
    generated: Generated | None = None
    cache: Any = None  # a weak reference
    keys: Any = None  # a weak reference to keys in the cache after the last step
    last: torch.Tensor | None = None  # those of the last position
    length: int = 0

    def is_as_left(self) -> bool:
        """Whether its cache still has its rows in their order."""
        keys = _keys(self.cache())
        if keys is None or keys is self.keys():
            return keys is not None
        last = _last(self.cache())  # of a sliding window, positions that are of no use are let go
        return last is not None and self.last is not None and torch.equal(last, self.last)


class Streams:
    """The streams of a recording, by their caches."""

    def __init__(self) -> None:
        self._of_caches: list[Stream] = []

    def open(self, batch: Batch) -> Stream | None:
        """The stream that a forward is to go on with; None where it begins one.

        Raises UnsupportedError where the cache holds what was not recorded, or was rearranged.
        """
        if batch.past == 0:
            return None
        for stream in reversed(self._of_caches):
            if stream.cache() is batch.cache:
                break
        else:
            raise UnsupportedError(
                f"the cache holds {batch.past} tokens that were not recorded: record from the "
                "first forward of a sequence on"
            )
        if batch.past > stream.length:
            raise UnsupportedError(
                f"the cache holds {batch.past} tokens, of which {stream.length} were recorded"
            )
        if batch.past == stream.length and not stream.is_as_left():
            raise UnsupportedError(
                "the cache was rearranged between two forwards, as beam search does: which rows "
                "are of which sequence is not known; record a forward on the finished sequences"
            )
        return stream

    def keep(self, stream: Stream, batch: Batch, out: Any) -> None:
        """A forward is done: its cache is as it left it."""
        cache = _cache_of(out) if batch.cache is None else batch.cache
        keys = None if cache is None else _keys(cache)
        if keys is None:
            return
        stream.cache, stream.keys = weakref.ref(cache), weakref.ref(keys)
        stream.last = _last(cache)
        stream.length = batch.past + batch.input_ids_BS.shape[1]
        self._of_caches = [
            other
            for other in self._of_caches
            if other is not stream and other.cache() not in (None, cache)
        ]
        self._of_caches.append(stream)


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """A sequence of a stream: its tokens, int32, prompt and response, and ids_TLK of its rows."""

    prompt_ids_T: NDArray[np.int32]
    response_ids_T: NDArray[np.int32]
    ids_TLK: NDArray[np.unsignedinteger]


def join_steps(stream: Stream, dtype: Any) -> list[Told]:
    """The sequences of a stream, one a row of the batch.

    Of a generated sequence the last token has no row: it was never fed, or only because others of
    the batch went on. Raises MismatchError where a batch changes its size, and where the tokens
    that were fed are not those that were generated.
    """
    ids_BN, routes_LBNK = _laid_out(stream.steps, dtype)
    mask_BN = np.ones(ids_BN.shape, np.bool_)
    held = stream.mask_BP or (stream.generated and stream.generated.mask_BP)
    if held:
        found_BP = held.get().numpy()[:, : ids_BN.shape[1]] != 0
        found_BP = found_BP.repeat(len(ids_BN) // len(found_BP), axis=0)  # several of a prompt
        mask_BN[:, : found_BP.shape[1]] = found_BP
    done = stream.generated
    if done is None:
        none = np.zeros(0, np.int32)
        return [
            Told(ids_N[keep_N].astype(np.int32), none, _rows(routes_LNK, keep_N))
            for ids_N, keep_N, routes_LNK in zip(
                ids_BN, mask_BN, routes_LBNK.swapaxes(0, 1), strict=True
            )
        ]
    whole_BN = done.ids_BN.get().numpy()
    fed = whole_BN.shape[1] - 1
    if ids_BN.shape[1] < fed or not np.array_equal(ids_BN[:, :fed], whole_BN[:, :fed]):
        raise MismatchError("generate gave other tokens than were recorded: its steps do not join")
    return [
        _finished(whole_N, keep_N[:fed], routes_LNK[:, :fed], done)
        for whole_N, keep_N, routes_LNK in zip(
            whole_BN, mask_BN, routes_LBNK.swapaxes(0, 1), strict=True
        )
    ]


def _laid_out(
    steps: list[RecordedForward], dtype: Any
) -> tuple[NDArray[np.int64], NDArray[np.unsignedinteger]]:
    """Token ids and routes by position; a step takes the place of what the cache was cropped of."""
    batches = [step.arrived() for step in steps]
    first = batches[0].input_ids_BS.numpy()
    shapes = {batch.input_ids_BS.shape[0] for batch in batches}
    if len(shapes) > 1:
        raise MismatchError(f"a cache of {len(first)} sequences went on with {sorted(shapes)}")
    stops = [batch.past + batch.input_ids_BS.shape[1] for batch in batches]
    layers, _, top_k = steps[0].ids_LRK.get().shape
    ids_BN = np.zeros((len(first), max(stops)), np.int64)
    routes_LBNK = np.zeros((layers, *ids_BN.shape, top_k), dtype)
    for step, batch, stop in zip(steps, batches, stops, strict=True):
        rows_LRK = step.ids_LRK.get().numpy().view(dtype)
        ids_BN[:, batch.past : stop] = batch.input_ids_BS.numpy()
        routes_LBNK[:, :, batch.past : stop] = rows_LRK.reshape(
            layers, len(first), stop - batch.past, top_k
        )
    return ids_BN[:, : stops[-1]], routes_LBNK[:, :, : stops[-1]]


def _finished(
    ids_N: NDArray[np.int64],
    keep_N: NDArray[np.bool_],
    routes_LNK: NDArray[np.unsignedinteger],
    done: Generated,
) -> Told:
    """A generated sequence, up to its end; its last token has no row."""
    width = done.prompt_width
    made_N = ids_N[width:]
    (ends,) = np.nonzero(np.isin(made_N, done.ends))
    if len(ends):
        made_N = made_N[: ends[0] + 1]
    elif done.padding is not None:
        (real,) = np.nonzero(made_N != done.padding)
        made_N = made_N[: real[-1] + 1 if len(real) else 0]
    rows = slice(0, max(width + len(made_N) - 1, 0))
    return Told(
        ids_N[:width][keep_N[:width]].astype(np.int32),
        made_N.astype(np.int32),
        _rows(routes_LNK[:, rows], keep_N[rows]),
    )


def _rows(
    routes_LNK: NDArray[np.unsignedinteger], keep_N: NDArray[np.bool_]
) -> NDArray[np.unsignedinteger]:
    """ids_TLK of the positions that are kept."""
    return np.ascontiguousarray(routes_LNK[:, keep_N].swapaxes(0, 1))


def _cache_of(out: Any) -> Any:
    """The cache that a forward made, if any."""
    parts = tuple(out.values()) if isinstance(out, dict) else out
    if not isinstance(parts, tuple | list):
        return None
    return next((part for part in parts if hasattr(part, "get_seq_length")), None)


def _keys(cache: Any) -> torch.Tensor | None:
    """Keys of the last layer that keeps any, which tell sequences apart: another tensor after each
    change from outside."""
    found = (getattr(layer, "keys", None) for layer in reversed(getattr(cache, "layers", ())))
    return next((keys for keys in found if isinstance(keys, torch.Tensor)), None)


def _last(cache: Any) -> torch.Tensor | None:
    """A copy of the last position's keys [B, H, D]; None of a cache whose memory is static."""
    keys = None if getattr(cache, "is_compileable", False) else _keys(cache)
    if keys is None or keys.ndim != 4 or not keys.shape[2]:
        return None
    return keys[:, :, -1].detach().clone()
