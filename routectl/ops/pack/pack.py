"""Replay tensors of one rank and micro-batch out of routes in memory, and back.

Shape suffixes: T tokens, L MoE layers of the stage, K top_k, R rows of the rank.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...dump import Dump, Sample
from ...errors import MismatchError
from ...kernels.replay import Copy, copy_rows
from ...layouts.packing import Packing
from ...layouts.ranks import Rank
from ...layouts.runs import Run
from ...routes import Bools, Routes
from .padding import TensorSpec, filler_ids
from .repeating import Repeats

__all__ = ["Packed", "Rank", "greatest_id", "pack"]

_OWN = TensorSpec()
_FLUSH_BYTES = 16 << 20  # routes held before they are copied, where a dump is read as it goes
Source = Dump | Sequence[Sample | Routes | None]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Packed:
    """What a rank's routers are given in one micro-batch.

    ids_LRK   ids_LRK[i] is the [R, K] replay tensor of layer layers_L[i], C order
    mask      bool, True where the row is a real route; False rows hold filler. [R], or [L, R]
              where some rows are missing in some layers only
    layers_L  0-based layers, chunk after chunk where stages are interleaved
    """

    ids_LRK: Any
    mask: Bools
    layers_L: tuple[int, ...]

    def __repr__(self) -> str:
        shape = tuple(np.shape(self.ids_LRK))
        return (
            f"<Packed: {len(self.layers_L)} MoE layers of {self.mask.shape[-1]:,} rows, "
            f"{self.filler_rows:,} of them filler, ids {shape}>"
        )

    @property
    def filler_rows(self) -> int:
        """Rows that hold filler in some layer."""
        real_R = self.mask if self.mask.ndim == 1 else self.mask.all(axis=0)
        return int((~real_R).sum())

    def mask_of(self, i: int) -> Bools:
        """The mask of the i-th layer, [R]."""
        mask_R: Bools = self.mask if self.mask.ndim == 1 else self.mask[i]
        return mask_R


_FIRST = Rank()


class _Shape(NamedTuple):
    layers_L: tuple[int, ...]
    num_experts: int
    top_k: int


def _routes_of(sample: Sample | Routes | None) -> Routes | None:
    return sample.routes if isinstance(sample, Sample) else sample


def _shape_of(routes: Source) -> _Shape:
    """What all samples must share: a dump says it, otherwise the first sample that has routes."""
    if isinstance(routes, Dump):
        return _Shape(routes.meta.layers_L, routes.meta.num_experts, routes.meta.top_k)
    for sample in routes:
        held = _routes_of(sample)
        if held is not None:
            return _Shape(held.layers_L, held.num_experts, held.top_k)
    raise MismatchError("no sample has routes: nothing to pack")


def greatest_id(routes: Source) -> int:
    """The greatest id of all rows that are there, 0 without any; reads every sample."""
    held = (_routes_of(sample) for sample in routes)
    return max((int(one.ids_TLK.max(initial=0)) for one in held if one is not None), default=0)


def _layers(packing: Packing, rank: Rank, spec: TensorSpec, shape: _Shape) -> list[int]:
    """The layers that are written, chunk after chunk."""
    layers = [n for chunk in packing.stage_layers(rank.pp, shape.layers_L) for n in chunk]
    return layers if spec.layers is None else [n for n in layers if n in spec.layers]


def _check(index: int, held: Routes, shape: _Shape, tokens: int) -> None:
    if (held.layers_L, held.num_experts, held.top_k) != shape:
        for name, expected in shape._asdict().items():
            if getattr(held, name) != expected:
                raise MismatchError(
                    f"sample {index}: got {name} {getattr(held, name)}, expected {expected}"
                )
    if held.stop > tokens:
        raise MismatchError(
            f"sample {index}: has a route at position {held.stop - 1}, but {tokens} tokens"
        )


class _Rows:
    """The tensors being filled, sample by sample."""

    def __init__(
        self, ids_LRK: NDArray[Any], columns: list[int], threads: int, *, holds_all: bool
    ) -> None:
        self.ids_LRK = ids_LRK
        self.columns = np.array(columns, np.uint64)
        self.threads = threads
        self._flush_bytes = sys.maxsize if holds_all else _FLUSH_BYTES
        self._there_R = np.zeros(ids_LRK.shape[1], np.bool_)
        self._holes: list[tuple[int, NDArray[np.int64]]] = []  # column, rows: missing there
        self._waiting: list[Copy] = []
        self._bytes = 0

    def take(self, held: Routes, run: Run) -> None:
        """Note a run for copying, and which of its rows are missing in which layer."""
        part = slice(run.position - held.start, run.position - held.start + run.size)
        self._there_R[run.rows] = True
        if held.missing_TL is not None:
            missing_TM = held.missing_TL[part][:, self.columns]
            for i in np.flatnonzero(missing_TM.any(axis=0)).tolist():
                self._holes.append((i, run.row + run.step * np.flatnonzero(missing_TM[:, i])))
        ids_TLK = held.ids_TLK[part]
        if self.ids_LRK.itemsize < ids_TLK.itemsize:  # ids that the batch has are smaller than E
            ids_TLK = ids_TLK.astype(self.ids_LRK.dtype)
        self._waiting.append(Copy(ids_TLK, run.row, run.step))
        self._bytes += self._waiting[-1].source_TLK.nbytes
        if self._bytes > self._flush_bytes and len(self.columns):
            self.flush()

    def flush(self) -> None:
        """Copy what was noted; the sources can be let go of then."""
        copy_rows(self._waiting, self.columns, self.ids_LRK, threads=self.threads)
        self._waiting, self._bytes = [], 0

    def mask(self) -> Bools:
        """Copy what is left, and return where routes are, [R] or [L, R]."""
        if not len(self.columns):
            return self._there_R
        self.flush()
        mask_LR = np.broadcast_to(self._there_R, self.ids_LRK.shape[:2])
        if self._holes:
            mask_LR = mask_LR.copy()
        for i, rows in self._holes:
            mask_LR[i, rows] = False
        return mask_LR if self._holes and (mask_LR != mask_LR[0]).any() else mask_LR[0]

    def fill(self, mask: Bools, filler_PK: NDArray[np.int64], shift: int) -> None:
        """Write filler where no route is.

        Each layer's filler starts one row further on, so that no expert is hit in all layers.
        """
        if not len(self.columns):
            return
        padding = np.flatnonzero(~mask) if mask.ndim == 1 else None
        rows_L = [
            np.flatnonzero(~mask[i]) if padding is None else padding
            for i in range(len(self.ids_LRK))
        ]
        turns = np.arange(max(map(len, rows_L)) + len(rows_L)) + shift
        filler = filler_PK.astype(self.ids_LRK.dtype)[turns % len(filler_PK)]
        for i, rows in enumerate(rows_L):
            self.ids_LRK[i, rows] = filler[i : i + len(rows)]


def pack(
    routes: Source,
    packing: Packing,
    rank: Rank = _FIRST,
    *,
    spec: TensorSpec = _OWN,
    out: Any = None,
    threads: int = 1,
) -> Packed:
    """A rank's replay tensors of one micro-batch.

    routes   a Dump, or Samples or Routes in memory, in packed order: as many as packing.lens.
             None stands for a sample without routes. A dump is read one sample at a time (twice for
             ROLL, whose dtype goes by the greatest id, unless ``spec`` has it).
    packing  a layout without plan; ``packing.share`` gives that of one micro-batch
    out      where to write: a C-ordered integer array or CPU torch tensor [L, R, K]; its dtype
             then is the tensor's

    Rows without a route (padding, the last token, missing rows) hold what ``spec`` says and are
    False in the mask. Raises MismatchError when samples, layers, K or lengths do not fit together,
    ValueError for a rank that is not there.
    """
    shape = _shape_of(routes)
    layers = _layers(packing, rank, spec, shape)
    columns = [shape.layers_L.index(layer) for layer in layers]
    runs: dict[int, list[Run]] = {}
    for run in packing.runs(rank.cp, rank.tp):
        runs.setdefault(run.sample, []).append(run)
    size = (len(layers), packing.num_rows(rank.tp), shape.top_k)
    if out is None:
        if spec.needs_greatest(packing):
            spec = replace(spec, greatest=greatest_id(routes))
        out = np.empty(size, spec.dtype_for(packing, shape.num_experts))
    ids_LRK = np.asarray(out)
    if ids_LRK.shape != size or not ids_LRK.flags.c_contiguous:
        raise MismatchError(f"out must be C-ordered {size}, got {ids_LRK.shape}")
    dtype = ids_LRK.dtype
    spec = replace(spec, dtype=dtype.name if dtype.isnative else str(dtype))
    spec.dtype_for(packing, shape.num_experts)
    tensors = _Rows(ids_LRK, columns, threads, holds_all=not isinstance(routes, Dump))
    policy = spec.policy(packing)
    repeats = Repeats(packing, rank, ids_LRK, columns) if policy == "repeat" else None
    count = 0
    for count, sample in enumerate(routes, 1):
        held = _routes_of(sample)
        if repeats is not None:
            repeats.take(count - 1, held)
        if count > len(packing.lens) or held is None:
            continue
        _check(count - 1, held, shape, packing.lens[count - 1])
        parts = (run.within(held.start, held.stop) for run in runs.get(count - 1, ()))
        for part in filter(None, parts):
            tensors.take(held, part)
    if count != len(packing.lens):
        raise MismatchError(f"got {count} samples, the packing has {len(packing.lens)}")
    mask = tensors.mask()
    if repeats is not None:
        repeats.finish()
    else:
        filler = filler_ids(policy, shape.num_experts, shape.top_k, spec.ep)
        tensors.fill(mask, filler, rank.cp * packing.tp + (rank.tp or 0))
    return Packed(out, mask, tuple(layers))
