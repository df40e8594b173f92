"""Router traces of Megatron-Core: what each router was given and selected, call by call.

A folder with, for each rank r: ``router_trace_rank<r>.jsonl``, a record a call of a router, and as
far as asked for ``hidden_states_rank<r>.bin`` [tokens, D] and ``logits_rank<r>.bin`` [tokens, E],
bfloat16, each record's at its byte offset, and ``router_state_rank<r>.pt`` with weights, expert
biases and score functions. Source: megatron-core 0.19.2 (transformer/moe/router_trace.py,
RouterTracer). Shape suffixes: T tokens, D hidden size, E experts, K top_k.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import msgspec

from ..errors import FormatError, UnsupportedError
from ..files.reading import open_regular
from ..limits import check_budget, limits
from .infos import Piece, TensorInfo

__all__ = [
    "RouterTrace",
    "TraceBatch",
    "TraceRecord",
    "is_trace",
    "read_trace",
    "trace_files",
    "trace_tensor",
]

_NAME = re.compile(r"router_trace_rank(\d{1,6})\.jsonl")
_HEAD = re.compile(rb'\{"step": -?\d{1,18}, "stage": "pre_dispatch", "block": "')
_BLOCKS = ("decoder", "mtp")
_MOST_LAYERS = 10_000


class _Line(msgspec.Struct):
    """A record as it is written; the decoder's layers alone are read."""

    step: int
    block: str
    layer: int
    rank: int
    num_tokens: int
    topk: int
    top_indices: list[list[int]]
    hs_offset: int | None = None
    hs_bytes: int | None = None
    hs_shape: list[int] | None = None
    logit_offset: int | None = None
    logit_bytes: int | None = None
    logit_shape: list[int] | None = None


@dataclass(frozen=True, slots=True)
class TraceRecord:
    """A call of a router: where its line is, and where in the sidecars its tensors begin, if any.

    hidden, logits   (first byte, columns), of tokens x columns bfloat16.
    """

    tokens: int
    top_k: int
    offset: int
    size: int
    hidden: tuple[int, int] | None
    logits: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class TraceBatch:
    """A forward: one micro-batch of a step; its records by 0-based layer, all of one length."""

    step: int
    number: int
    records: Mapping[int, TraceRecord]

    @property
    def tokens(self) -> int:
        """T."""
        return next(iter(self.records.values())).tokens


@dataclass(frozen=True, slots=True)
class RouterTrace:
    """The trace of one rank. ``hooked`` tells that a forward hook wrote it, and no engine.

    A hook numbers layers as the rank's modules are numbered, from 0 in each pipeline stage, and has
    ids in ascending order; an engine's recorder has the model's layer numbers.
    """

    path: Path
    rank: int
    layers: tuple[int, ...]
    top_k: int
    hooked: bool
    batches: tuple[TraceBatch, ...]
    skipped: tuple[str, ...]

    @property
    def num_experts(self) -> int | None:
        """E by the columns of the logits, where they are there."""
        first = self.batches[0].records[self.layers[0]].logits
        return None if first is None else first[1]

    @property
    def has_inputs(self) -> bool:
        """Whether hidden states of every call are there."""
        return all(r.hidden is not None for b in self.batches for r in b.records.values())

    def sidecar(self, name: str) -> Path:
        """A file beside it of the same rank: hidden_states, logits or router_state."""
        ends = "pt" if name == "router_state" else "bin"
        return self.path.with_name(f"{name}_rank{self.rank}.{ends}")


def is_trace(head: bytes) -> bool:
    """Whether the first bytes of a file are those of a trace."""
    return _HEAD.match(head) is not None


def trace_files(path: Path) -> list[Path]:
    """The traces in a folder, by rank, or the one that a path names; empty where there is none."""
    if path.is_dir():
        found = {int(m[1]): one for one in path.iterdir() if (m := _NAME.fullmatch(one.name))}
        return [found[rank] for rank in sorted(found)]
    if path.suffix != ".jsonl" or not path.is_file():
        return []
    with open_regular(path) as stream:
        return [path] if is_trace(stream.read(128)) else []


def _lines(path: Path) -> Iterator[tuple[_Line, bytes, int, str]]:
    """Each record, with its line, where that begins, and where that is in words."""
    decoder = msgspec.json.Decoder(_Line)
    most = limits().line
    with open_regular(path) as stream:
        offset = 0
        while line := stream.readline(most + 1):
            where = f"{path}: byte {offset}"
            check_budget("line", len(line), f"{where}: bytes of a line")
            try:
                found = decoder.decode(line)
            except (ValueError, RecursionError) as error:
                raise FormatError(f"{where}: no record of a router trace: {error}") from None
            if found.block not in _BLOCKS or not 0 <= found.layer < _MOST_LAYERS:
                raise FormatError(f"{where}: block {found.block[:20]!a}, layer {found.layer}")
            yield found, line, offset, where
            offset += len(line)


def _side(
    found: tuple[int | None, int | None, list[int] | None], tokens: int, end: int, where: str
) -> tuple[int, int] | None:
    """(first byte, columns) of a tensor in a sidecar of ``end`` bytes; None where there is none."""
    offset, size, shape = found
    if offset is None or size is None or shape is None:
        return None
    if len(shape) != 2 or shape[0] != tokens or size != 2 * shape[0] * shape[1] or offset < 0:
        raise FormatError(f"{where}: a sidecar's shape {shape} of {size} bytes, {tokens} tokens")
    if offset + size > end:
        raise FormatError(f"{where}: a sidecar ends at byte {end}, expected {offset + size} bytes")
    return offset, shape[1]


@dataclass(slots=True)
class _Calls:
    """What is learnt of a trace, line by line. A call is its record and a digest of its ids."""

    path: Path
    by_step: dict[int, dict[int, list[tuple[TraceRecord, bytes]]]] = field(default_factory=dict)
    ranks: set[int] = field(default_factory=set)
    top_ks: set[int] = field(default_factory=set)
    ends: dict[str, int] = field(default_factory=dict)
    told: bool = False
    ascending: bool = True
    mtp: int = 0

    def add(self, line: _Line, text: bytes, offset: int, where: str) -> None:
        """One record; raises FormatError where it does not hold what it says."""
        self.ranks.add(line.rank)
        if line.block == "mtp":
            self.mtp += 1
            return
        rows, tokens = line.top_indices, line.num_tokens
        if len(rows) != tokens or not tokens or any(len(row) != line.topk for row in rows):
            raise FormatError(f"{where}: not {tokens} rows of {line.topk} ids")
        self.top_ks.add(line.topk)
        self.told = self.told or line.hs_offset is not None or line.logit_offset is not None
        self.ascending = self.told or (self.ascending and all(row == sorted(row) for row in rows))
        hidden = (line.hs_offset, line.hs_bytes, line.hs_shape)
        logits = (line.logit_offset, line.logit_bytes, line.logit_shape)
        record = TraceRecord(
            tokens,
            line.topk,
            offset,
            len(text),
            _side(hidden, tokens, self._end(f"hidden_states_rank{line.rank}.bin"), where),
            _side(logits, tokens, self._end(f"logits_rank{line.rank}.bin"), where),
        )
        mark = blake2b(text[text.find(b'"top_indices"') :], digest_size=16).digest()
        self.by_step.setdefault(line.step, {}).setdefault(line.layer, []).append((record, mark))

    def _end(self, name: str) -> int:
        """The bytes of a sidecar; 0 where it is not there."""
        if name not in self.ends:
            side = self.path.with_name(name)
            self.ends[name] = side.stat().st_size if side.is_file() else 0
        return self.ends[name]


def read_trace(path: Path, model_layers: Sequence[int] | None = None) -> RouterTrace:
    """The trace of one rank, from one pass over its lines; of sidecars nothing is read.

    The n-th call of a layer within a step is of the step's n-th micro-batch. One whose ids are all
    those of an earlier one of the step is a recomputation, is left out and named in ``skipped``, as
    records of MTP are. ``model_layers`` are the model's 0-based MoE layers, where they are known.

    Raises FormatError on damage and where a micro-batch has not all layers, UnsupportedError where
    nothing tells what its layer numbers count.
    """
    calls = _Calls(path)
    for line, text, offset, where in _lines(path):
        calls.add(line, text, offset, where)
    if not calls.by_step or len(calls.ranks) != 1 or len(calls.top_ks) != 1:
        what = f"{len(calls.by_step)} steps of ranks {sorted(calls.ranks)}"
        raise FormatError(
            f"{path}: a router trace of {what} with top_k {sorted(calls.top_ks)}, expected one of "
            "each"
        )
    numbers = sorted({layer for step in calls.by_step.values() for layer in step})
    hooked = calls.ascending
    if not calls.told and calls.top_ks == {1}:
        hooked = _of_one_id(numbers, model_layers, path)
    shift = 0 if hooked else 1
    if numbers[0] < shift:
        raise FormatError(f"{path}: layer 0 in a trace whose layers count from 1")
    skipped = [f"{path}: {calls.mtp} records of MTP"] if calls.mtp else []
    batches = tuple(_batches(calls.by_step, numbers, shift, path, skipped))
    layers = tuple(number - shift for number in numbers)
    rank, top_k = calls.ranks.pop(), calls.top_ks.pop()
    return RouterTrace(path, rank, layers, top_k, hooked, batches, tuple(skipped))


def _of_one_id(numbers: list[int], model_layers: Sequence[int] | None, path: Path) -> bool:
    """Whether layers count from 0, where rows of one id do not tell who wrote them."""
    if numbers[0] == 0:
        return True
    known = set(model_layers or ())
    fits = [known.issuperset(number - shift for number in numbers) for shift in (0, 1)]
    if fits[0] == fits[1]:
        raise UnsupportedError(
            f"{path}: top_k is 1, and nothing tells whether layers {numbers} count from 0 (a hook) "
            "or from 1 (an engine)",
            hint="--model says which layers are MoE; sidecars tell that a hook wrote it",
        )
    return fits[0]


def _batches(
    calls: Mapping[int, Mapping[int, list[tuple[TraceRecord, bytes]]]],
    numbers: list[int],
    shift: int,
    path: Path,
    skipped: list[str],
) -> Iterator[TraceBatch]:
    """The micro-batches of all steps, without those that are recomputed."""
    for step, by_layer in calls.items():
        counts = {layer: len(by_layer.get(layer, ())) for layer in numbers}
        if len(set(counts.values())) != 1:
            raise FormatError(
                f"{path}: step {step}: calls by layer are {counts}, expected one number: cut short?"
            )
        seen: dict[tuple[bytes, ...], int] = {}
        for n in range(counts[numbers[0]]):
            found = {layer: by_layer[layer][n] for layer in numbers}
            earlier = seen.setdefault(tuple(mark for _, mark in found.values()), n)
            if earlier != n:
                skipped.append(f"{path}: step {step}: forward {n} is {earlier} again (recomputed)")
                continue
            records = {layer - shift: record for layer, (record, _) in found.items()}
            if len({record.tokens for record in records.values()}) != 1:
                raise FormatError(f"{path}: step {step}: forward {n}: layers of several lengths")
            yield TraceBatch(step, len(seen) - 1, records)


def trace_tensor(trace: RouterTrace, layer: int, name: str = "hidden_states") -> TensorInfo:
    """All calls of a layer as one stored tensor [T, D], of their sidecar; ``logits`` are [T, E].

    Raises FormatError where a call has none, or calls are not of one width.
    """
    pieces, row, widths, file = [], 0, set(), trace.sidecar(name)
    for batch in trace.batches:
        record = batch.records[layer]
        side = record.hidden if name == "hidden_states" else record.logits
        if side is None:
            raise FormatError(f"{trace.path}: step {batch.step}: layer {layer}: no {name}")
        begin, width = side
        widths.add(width)
        shape = (record.tokens, width)
        pieces.append(Piece(file, begin, 2 * record.tokens * width, (row, 0), shape))
        row += record.tokens
    if len(widths) != 1:
        raise FormatError(f"{trace.path}: layer {layer}: {name} of widths {sorted(widths)}")
    shape = (row, widths.pop())
    return TensorInfo(f"layer.{layer}", "BF16", shape, 2 * shape[0] * shape[1], tuple(pieces))
