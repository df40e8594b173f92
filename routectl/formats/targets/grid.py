"""A padded grid of samples, and the columns that trainers have beside the routes.

Shape suffixes: B samples, S positions, P longest prompt, G longest response, W layers, K top_k.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...dump import Sample
from ...errors import RoutectlError
from ...pickled.opcodes import Streamed
from .rows import Feed, TargetRows, are_numbered, tokens_of

__all__ = ["PackedGrid", "grid_of"]

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where the N tokens of each sample are in a grid [B, S]: from ``offsets`` on."""

    offsets: tuple[int, ...]
    lens: tuple[int, ...]
    prompts: tuple[int, ...]
    width: int

    def place(self, i: int) -> slice:
        return slice(self.offsets[i], self.offsets[i] + self.lens[i])


@dataclass(frozen=True, slots=True, eq=False)
class PackedGrid:
    """Routes of all samples end to end, [sum N, W, K], and the bounds of samples, int32 [B + 1].

    Source: SkyRL 0.4.0 (backends/skyrl_train/utils/packed_tensor.py).
    """

    values: Streamed
    cu_seqlens: Array

    @property
    def parts(self) -> dict[str, Array | Streamed]:
        """Both by the names that PackedTensor has for them."""
        return {"values": self.values, "cu_seqlens": self.cu_seqlens}


def _frame(samples: Sequence[Sample], side: str) -> _Frame:
    lens = tuple(sample.num_tokens or 0 for sample in samples)
    prompts = tuple(sample.prompt_length or 0 for sample in samples)
    longest = max(prompts, default=0)
    if side == "both":
        width = longest + max((n - p for n, p in zip(lens, prompts, strict=True)), default=0)
        return _Frame(tuple(longest - p for p in prompts), lens, prompts, width)
    width = max(lens, default=0)
    offsets = tuple(width - n if side == "left" else 0 for n in lens)
    return _Frame(offsets, lens, prompts, width)


def _routes(frame: _Frame, feed: Feed) -> Streamed | PackedGrid:
    """The routes [B, S, W, K], or end to end; ``value`` goes by the greatest id, as trainers do."""
    shape, target = feed.shape, feed.shape.target
    width = shape.num_layers if target.axis == "all" else len(shape.meta.layers_L)
    top_k = shape.meta.top_k
    pad = np.arange(top_k) if target.pad == "arange" else np.zeros(top_k, np.int64)
    dtype = shape.dtype()
    if target.dtype == "value":
        greatest = max(int(pad.max()), feed.greatest)
        dtype = np.dtype("u1" if greatest < 256 else "i2" if greatest < 32768 else "i4")
    if target.packed:
        bounds = np.cumsum([0, *frame.lens])
        if bounds[-1] > np.iinfo(np.int32).max:
            raise RoutectlError(f"{feed.shape.meta.path}: {bounds[-1]} tokens, beyond cu_seqlens")
        rows = Streamed(
            (int(bounds[-1]), width or 0, top_k),
            dtype,
            lambda: (r.astype(dtype) for r in feed.rows()),
        )
        return PackedGrid(rows, bounds.astype(np.int32))
    of_one = (frame.width, width or 0, top_k)

    def pieces() -> Iterator[Array]:
        for i, ids_RWK in enumerate(feed.rows()):
            grid_SWK = np.empty(of_one, dtype)
            grid_SWK[:] = pad
            grid_SWK[frame.place(i)] = ids_RWK
            yield grid_SWK

    return Streamed((len(frame.lens), *of_one), dtype, pieces)


def _of_response(sample: Sample, what: str) -> Array | None:
    """One number a response token: its log-prob, version, whether it is trained on, or 1."""
    size = sample.response_length or 0
    if what == "versions":
        versions = np.full(size, -1, np.int64)
        for span in sample.weight_spans:
            versions[span.start : span.end] = int(span.version)
        return versions
    if what == "logprobs":
        # beyond float32: infinite, as it is for who reads it; a signalling NaN: a quiet one
        with np.errstate(over="ignore", invalid="ignore"):
            return None if sample.logprobs is None else sample.logprobs.astype(np.float32)
    if what == "response" or sample.loss_mask is None:
        return np.ones(size, np.int64)
    return sample.loss_mask[sample.prompt_length or 0 :].astype(np.int64)


def _response_column(samples: Sequence[Sample], frame: _Frame, what: str) -> Array:
    """[B, G] from the first column on, or up to the last; [B, S] at the response's places, or
    [B, S - 1] each a place before that; of the prompt's places 1 at those.
    """
    name, _, align = what.partition("-")
    sizes = [n - p for n, p in zip(frame.lens, frame.prompts, strict=True)]
    whole, early = align in ("full", "next"), int(align == "next")
    width = frame.width - early if whole else max(sizes, default=0)
    real = name in ("logprobs", "weights")
    fill = -1 if name == "versions" else 0  # what no model wrote
    column = np.full((len(samples), width), fill, np.float32 if real else np.int64)
    for i, (sample, size) in enumerate(zip(samples, sizes, strict=True)):
        if name == "prompt":
            column[i, frame.offsets[i] : frame.offsets[i] + frame.prompts[i]] = 1
            continue
        place = frame.offsets[i] + frame.prompts[i] - early
        begin = {"first": 0, "last": width - size}.get(align, place)
        values = _of_response(sample, name)
        skip = max(-begin, 0)  # the first of all tokens has no place before it
        column[i, begin + skip : begin + size] = None if values is None else values[skip:]
    return column


def _token_column(tokens: Sequence[Array], frame: _Frame, what: str) -> Array:
    """[B, S] tokens, attention or positions; [B, P] prompts; [B, G] responses; [B] lengths."""
    if what == "lengths":
        return np.array(frame.lens, np.int64)
    grid_BS = np.zeros((len(tokens), frame.width), np.int64)
    for i, ids in enumerate(tokens):
        values: Any = {"attention": 1, "positions": np.arange(len(ids))}.get(what, ids)
        grid_BS[i, frame.place(i)] = values
    longest = max(frame.prompts, default=0)
    parts = {"prompts": grid_BS[:, :longest], "responses": grid_BS[:, longest:]}
    return np.ascontiguousarray(parts.get(what, grid_BS))


def _uncaptured(placed: Sequence[TargetRows], frame: _Frame) -> Array:
    """True where there is no token, or its routes are padding after those captured, bool [B, S]."""
    mask_BS = np.ones((len(placed), frame.width), np.bool_)
    for i, one in enumerate(placed):
        mask_BS[i, frame.offsets[i] : frame.offsets[i] + one.captured] = False
    return mask_BS


def grid_of(placed: Sequence[TargetRows], feed: Feed) -> dict[str, Array | Streamed | PackedGrid]:
    """The tensors of a grid target by their names; log-probs only where the samples have them.

    ``placed`` is the survey of ``feed``, whose rows are read once more as they are written.

    Raises RoutectlError when some samples have log-probs and others not.
    """
    target = feed.shape.target
    samples = [one.sample for one in placed]
    tokens = [tokens_of(p.sample, feed.where(p.index, p.sample)) for p in placed]
    frame = _frame(samples, target.side)
    scored = {sample.logprobs is not None for sample in samples}
    if len(scored) > 1 and "logprobs" in target.holds:
        path = feed.shape.meta.path
        raise RoutectlError(f"{path}: log-probs are there for some samples and not for others")
    numbered = all(map(are_numbered, samples)) and any(one.weight_spans for one in samples)
    grid: dict[str, Array | Streamed | PackedGrid] = {target.key: _routes(frame, feed)}
    for name, what in target.columns:
        if what == "uncaptured":
            grid[name] = _uncaptured(placed, frame)
        elif what == "whole":
            grid[name] = np.array([one.whole for one in placed], np.bool_)
        elif "-" not in what:
            grid[name] = _token_column(tokens, frame, what)
        elif what.startswith("versions") and not numbered:
            continue
        elif not what.startswith("logprobs") or scored == {True}:
            grid[name] = _response_column(samples, frame, what)
    return grid
