"""Where each token of a packed micro-batch sits on each rank: index maps, integers only.

A micro-batch's samples are laid end to end, each padded by its framework's rule, perhaps with
padding after the last: the stream. Context parallelism (CP) gives each rank pieces of the stream,
sequence parallelism (SP) cuts a rank's rows into tp equal runs. Shape suffixes: R local rows.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["FRAMEWORKS", "Packing"]

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Rule:
    """How a framework pads and splits.

    order          zigzag: a rank has the r-th and the r-th last of 2 cp pieces of every sample;
                   contiguous: the r-th of cp pieces of the stream
    sample_to_tp   samples are padded to a multiple of tp too, not of the CP pieces alone
    sample_to_cp   samples are padded to whole CP pieces
    pads_total     the stream is padded to a multiple of cp x tp x pad_multiplier
    drops_last     the last token of a sample has no row: it has no route
    """

    order: str
    sample_to_tp: bool
    sample_to_cp: bool
    pads_total: bool
    drops_last: bool


_ALIGNED = _Rule("zigzag", True, True, pads_total=False, drops_last=False)
_CHUNKED = _Rule("zigzag", False, True, pads_total=True, drops_last=True)
# Sources: verl 0.9.1 preprocess_thd_engine; SkyRL align_token_metadata; NeMo-RL
# _shard_routed_experts_for_cp (multiple = 2 cp tp, or tp without CP); slime and miles
# prepare_routed_experts_for_routing_replay, zigzag and allgather_cp.
_RULES = {
    "verl": _ALIGNED,
    "skyrl": _ALIGNED,
    "nemo-rl": _ALIGNED,
    "verl-contiguous": _Rule("contiguous", True, True, pads_total=False, drops_last=False),
    "slime": _CHUNKED,
    "miles": _CHUNKED,
    "slime-allgather": _Rule("contiguous", False, False, pads_total=True, drops_last=True),
}
FRAMEWORKS = tuple(_RULES)
DEFAULT_PAD_MULTIPLIER = 128  # slime's and miles' data_pad_size_multiplier


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


@dataclass(frozen=True)
class Packing:
    """The THD layout of one micro-batch on its CP and TP ranks.

    lens            tokens of each sample, in packed order, at least 1 each
    framework       one of FRAMEWORKS
    tp, cp          tensor (and sequence) parallel size, context parallel size
    pad_multiplier  of slime and miles, which pad a rank's rows to tp x this; 128 when None

    Raises ValueError on sizes below 1, another framework, or a multiplier where none is used.
    """

    lens: Sequence[int]
    framework: str = "verl"
    tp: int = 1
    cp: int = 1
    pad_multiplier: int | None = None

    def __post_init__(self) -> None:
        if self.framework not in _RULES:
            raise ValueError(f"framework {self.framework!r} is not known: {', '.join(FRAMEWORKS)}")
        if self.pad_multiplier is not None and not self._rule.pads_total:
            raise ValueError(f"{self.framework} has no pad_multiplier")
        object.__setattr__(self, "lens", tuple(int(n) for n in self.lens))
        sizes = {"tp": self.tp, "cp": self.cp, "pad_multiplier": self.pad_multiplier}
        for name, size in {**sizes, **{f"lens[{i}]": n for i, n in enumerate(self.lens)}}.items():
            if size is not None and size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")

    @property
    def _rule(self) -> _Rule:
        return _RULES[self.framework]

    @property
    def alignment(self) -> int:
        """What every sample's length is padded to a multiple of."""
        pieces = self.cp if self._rule.order == "contiguous" or self.cp == 1 else 2 * self.cp
        tp = self.tp if self._rule.sample_to_tp else 1
        return tp * (pieces if self._rule.sample_to_cp else 1)

    @cached_property
    def cu_seqlens(self) -> Ints:
        """Cumulative token counts without padding, int64 [samples + 1]."""
        return np.cumsum([0, *self.lens])

    @cached_property
    def cu_seqlens_padded(self) -> Ints:
        """Where each sample begins in the stream, int64; total padding is one more sequence."""
        starts = np.cumsum([0, *(_round_up(n, self.alignment) for n in self.lens)])
        if not self._rule.pads_total:
            return starts
        multiple = self.cp * self.tp * (self.pad_multiplier or DEFAULT_PAD_MULTIPLIER)
        total = _round_up(int(starts[-1]), multiple)
        return starts if total == starts[-1] else np.append(starts, total)

    @property
    def num_local_rows(self) -> int:
        """Rows of a CP rank, before the SP split."""
        return int(self.cu_seqlens_padded[-1]) // self.cp

    @cached_property
    def _stream(self) -> Ints:
        """(sample, position) of every place in the stream, -1 -1 for padding; int64 [rows, 2]."""
        table = np.full((int(self.cu_seqlens_padded[-1]), 2), -1, np.int64)
        starts = self.cu_seqlens_padded[: len(self.lens)]
        for sample, (start, length) in enumerate(zip(starts, self.lens, strict=True)):
            rows = length - 1 if self._rule.drops_last else length
            table[start : start + rows, 0] = sample
            table[start : start + rows, 1] = np.arange(rows)
        return table

    def stream_positions(self, cp_rank: int = 0, tp_rank: int | None = None) -> Ints:
        """The places in the stream that a rank's rows are, int64 [R].

        With tp_rank None all rows of the CP rank, before the SP split; raises ValueError for a
        rank that is not there.
        """
        if not 0 <= cp_rank < self.cp or not 0 <= (tp_rank or 0) < self.tp:
            raise ValueError(f"no rank cp={cp_rank}, tp={tp_rank} in cp {self.cp} x tp {self.tp}")
        rows = self.num_local_rows
        if self._rule.order == "contiguous" or self.cp == 1:
            local = np.arange(cp_rank * rows, (cp_rank + 1) * rows)
        else:
            local = self._zigzag(cp_rank)
        if tp_rank is None:
            return local
        if rows % self.tp:
            raise ValueError(f"{rows} rows of a CP rank do not divide by tp {self.tp}")
        run = rows // self.tp
        return local[tp_rank * run : (tp_rank + 1) * run]

    def _zigzag(self, rank: int) -> Ints:
        """Per sample the rank-th and the rank-th last of 2 cp pieces; total padding in one."""
        parts = []
        edges = self.cu_seqlens_padded
        for start, end in itertools.pairwise(edges[: len(self.lens) + 1]):
            piece = int(end - start) // (2 * self.cp)
            parts += [np.arange(start + rank * piece, start + (rank + 1) * piece),
                      np.arange(end - (rank + 1) * piece, end - rank * piece)]  # fmt: skip
        if len(edges) > len(self.lens) + 1:
            piece = int(edges[-1] - edges[-2]) // self.cp
            parts.append(np.arange(edges[-2] + rank * piece, edges[-2] + (rank + 1) * piece))
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def local_rows(self, cp_rank: int = 0, tp_rank: int | None = None) -> Ints:
        """(sample, position) of each local row, -1 -1 for padding; int64 [R, 2].

        With tp_rank None all rows of the CP rank, before the SP split. Where the framework's
        replay tensor has no row for a sample's last token (slime, miles), that row is -1 -1 too.
        """
        return self._stream[self.stream_positions(cp_rank, tp_rank)]

    def runs(self, cp_rank: int = 0, tp_rank: int | None = None) -> list[tuple[int, int, int, int]]:
        """The rank's rows as slices: (row, sample, position, length), padding left out."""
        rows = self.local_rows(cp_rank, tp_rank)
        if not len(rows):
            return []
        steps = np.diff(rows, axis=0)
        begins = np.flatnonzero((steps[:, 0] != 0) | (steps[:, 1] != 1)) + 1
        edges = [0, *begins.tolist(), len(rows)]
        slices = [(a, *rows[a].tolist(), b - a) for a, b in itertools.pairwise(edges)]
        return [(row, sample, at, size) for row, sample, at, size in slices if sample >= 0]

    def pack(
        self,
        samples: Sequence[NDArray[Any]],
        cp_rank: int = 0,
        tp_rank: int | None = None,
        *,
        fill: int = 0,
    ) -> NDArray[Any]:
        """A rank's rows out of per-sample arrays [>= rows, ...]; padding rows hold ``fill``."""
        if len(samples) != len(self.lens):
            raise ValueError(f"got {len(samples)} samples, expected {len(self.lens)}")
        count = len(self.stream_positions(cp_rank, tp_rank))
        packed = np.full((count, *samples[0].shape[1:]), fill, samples[0].dtype)
        for row, sample, at, size in self.runs(cp_rank, tp_rank):
            packed[row : row + size] = samples[sample][at : at + size]
        return packed

    def unpack(self, parts: Sequence[NDArray[Any]], *, fill: int = 0) -> list[NDArray[Any]]:
        """The per-sample arrays [N, ...] out of all ranks' rows; padding rows are dropped.

        parts are the CP ranks' rows in order, or those of all (cp, tp) ranks, tp fastest. Tokens
        without a row hold ``fill``. Raises ValueError when a part has another row count.
        """
        split = len(parts) == self.cp * self.tp and self.tp > 1
        tp_ranks = range(self.tp) if split else (None,)
        ranks = [(c, t) for c in range(self.cp) for t in tp_ranks]
        if len(parts) != len(ranks):
            raise ValueError(f"got {len(parts)} parts, expected {self.cp} or {self.cp * self.tp}")
        samples = [np.full((n, *parts[0].shape[1:]), fill, parts[0].dtype) for n in self.lens]
        for part, rank in zip(parts, ranks, strict=True):
            count = len(self.stream_positions(*rank))
            if len(part) != count:
                raise ValueError(f"rank {rank}: got {len(part)} rows, expected {count}")
            for row, sample, at, size in self.runs(*rank):
                samples[sample][at : at + size] = part[row : row + size]
        return samples
