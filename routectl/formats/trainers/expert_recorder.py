"""Dumps of SGLang's expert_distribution recorder: forward passes as sequences, or counts alone.

Source: SGLang 0.5.23 (eplb/expert_distribution.py). Mode ``per_token`` keeps of each forward pass
its flat input ids and positions, the lengths of its prefills, and physical ids int32 [W, T, 8], -1
behind K; which request a token is of is not there. ``per_pass`` keeps counts of physical experts,
``stat`` those of logical ones.
Shape suffixes: T tokens of a pass, W layers as written, K top_k, P physical experts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import FormatError
from ...pickled.torch_files import MappedTensor
from ..experts.maps import MAP, ExpertMap, expert_map_of
from ..wire.sample import WireSample
from .fields import numbers_in, tokens_in

__all__ = ["Recording", "has_ids", "is_recording", "own_map", "read_recording"]

LAST = f"last_{MAP}"
_IDS = "topk_ids_of_layer"
_MIXED = (
    3  # ForwardMode of model_executor/forward_batch_info.py; running sequences are prefills of 1
)
_READ = (1, 2, _MIXED, 4, 7, 8)  # extend, decode, mixed, idle, prebuilt, split prefill


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """The sequences of a per_token dump, their physical ids, and the pass that made each row.

    experts  the map that held when the file was written
    steps    of each sequence, the forward pass of each of its rows, int64 [T]
    """

    wires: list[WireSample]
    experts: ExpertMap
    steps: list[NDArray[np.int64]]


@dataclass(slots=True, eq=False)
class _Sequence:
    """What is known of a sequence so far: tokens from ``start`` on, rows of each, passes."""

    start: int
    prompt: list[NDArray[np.int32]] = field(default_factory=list)
    response: list[NDArray[np.int32]] = field(default_factory=list)
    rows: list[NDArray[Any]] = field(default_factory=list)
    passes: list[int] = field(default_factory=list)

    @property
    def stop(self) -> int:
        return self.start + len(self.passes)

    def add(self, one: "_Pass", part: slice, *, prompt: bool) -> None:
        ids_WTK = one.ids_WTK[:, part]
        (self.prompt if prompt else self.response).append(one.tokens[part])
        self.rows.append(ids_WTK.transpose(1, 0, 2))
        self.passes += [one.number] * ids_WTK.shape[1]


@dataclass(frozen=True, slots=True, eq=False)
class _Pass:
    """One forward pass: its tokens, where each stands, how they are cut into prefills."""

    number: int
    mode: int
    tokens: NDArray[np.int32]
    positions: NDArray[np.int32]
    prefills: list[int]
    ids_WTK: NDArray[Any]


def is_recording(doc: Any) -> bool:
    """Whether a torch file is one of the recorder's, of any mode."""
    if not isinstance(doc, Mapping):
        return False
    return (isinstance(doc.get("records"), list) and LAST in doc) or "logical_count" in doc


def has_ids(doc: Mapping[str, Any]) -> bool:
    """Whether it has ids, as mode per_token keeps them; of no records nobody knows."""
    first = next(iter(doc.get("records", ())), None)
    return "logical_count" not in doc and not (isinstance(first, Mapping) and _IDS not in first)


def own_map(doc: Mapping[str, Any], path: Path) -> ExpertMap:
    """The map that held when the file was written."""
    return expert_map_of(doc[LAST], f"{path}: {LAST}")


def read_recording(doc: Mapping[str, Any], path: Path) -> Recording:
    """The sequences of a per_token dump; counts alone are for ``experts.counts``.

    A prefill begins a sequence, or goes on with one whose rows end where it starts. Tokens of a
    decode pass are in the order of its batch, from which sequences leave and to whose end they
    come: each goes on with the one that it must be of. Where it may be of several, and where a
    prefix was in the cache, what is told of a row are its position and its experts.
    """
    experts = own_map(doc, path)
    passes = [_pass_of(one, f"{path}: records[{i}]") for i, one in enumerate(doc["records"])]
    passes.sort(key=lambda one: one.number)
    width = max((one.ids_WTK.shape[0] for one in passes), default=0)
    if not passes or any(one.ids_WTK.shape[0] != width for one in passes):
        raise FormatError(f"{path}: no forward passes of one number of layers")
    top_k = max(_slots(one.ids_WTK) for one in passes)
    batch = _Batch()
    for one in passes:
        try:
            batch.go_on(one)
        except FormatError as error:
            raise FormatError(f"{path}: {error}") from None
    found = batch.found
    wires = [_wire(one, f"{path}: sequence {i}", top_k) for i, one in enumerate(found)]
    return Recording(wires, experts, [np.array(one.passes, np.int64) for one in found])


def _pass_of(record: Any, where: str) -> _Pass:
    if not isinstance(record, Mapping) or not isinstance(record.get(_IDS), MappedTensor):
        raise FormatError(f"{where}: no {_IDS}, expected a record of mode per_token")
    ids = numbers_in(record[_IDS], f"{where}: {_IDS}")
    tokens = tokens_in(record.get("input_ids"), f"{where}: input_ids")
    positions = tokens_in(record.get("positions"), f"{where}: positions")
    number, lens = record.get("forward_pass_id"), record.get("extend_seq_lens")
    if ids.ndim != 3 or ids.dtype.kind != "i" or ids.shape[1:2] != tokens.shape:
        raise FormatError(
            f"{where}: {_IDS}: got {ids.dtype} {ids.shape}, expected [layers, "
            f"{len(tokens)} tokens, slots]"
        )
    prefills = [] if lens is None else tokens_in(lens, f"{where}: extend_seq_lens").tolist()
    if type(number) is not int or number < 0 or positions.shape != tokens.shape:
        raise FormatError(f"{where}: got pass {number!r:.20} and {len(positions)} positions")
    if sum(prefills) > len(tokens):
        raise FormatError(f"{where}: prefills of {sum(prefills)} tokens, of {len(tokens)}")
    mode = record.get("forward_mode", 1 if prefills else 2)
    if mode not in _READ:
        raise FormatError(f"{where}: forward mode {mode!r:.20}: passes of speculative decoding")
    return _Pass(number, mode, tokens, positions, prefills, ids)


def _slots(ids_WTK: NDArray[Any]) -> int:
    """K: the slots up to the last that any row has an id in."""
    used = np.flatnonzero((ids_WTK != -1).any(axis=(0, 1)))
    return int(used[-1]) + 1 if used.size else 0


@dataclass(slots=True, eq=False)
class _Batch:
    """The sequences that run, in the order of the engine's batch, and all that were found.

    ``chunked`` is the last prefill, which the next pass of prefills may go on with.
    """

    running: list[_Sequence] = field(default_factory=list)
    found: list[_Sequence] = field(default_factory=list)
    chunked: _Sequence | None = None

    def go_on(self, one: _Pass) -> None:
        """One more forward pass."""
        lens = list(one.prefills)
        while one.mode == _MIXED and lens[-1:] == [1]:
            lens.pop()  # a running sequence's token
        behind, new = 0, []
        for i, count in enumerate(lens):
            if count:
                new.append(self._prefilled(one, slice(behind, behind + count), first=i == 0))
                behind += count
        running = [it for it in self.running if all(it is not other for other in new)]
        if behind < len(one.tokens):
            running = self._decoded(one, behind, running)
        if new:
            self.chunked = new[-1]
        elif self.chunked is not None and self.chunked.response:
            self.chunked = None
        self.running = [*running, *new]

    def _prefilled(self, one: _Pass, part: slice, *, first: bool) -> _Sequence:
        start = int(one.positions[part.start])
        if (np.diff(one.positions[part]) != 1).any():
            raise FormatError(f"forward pass {one.number}: a prefill whose positions do not follow")
        chunked = self.chunked
        if first and start and chunked is not None and chunked.stop == start:
            sequence = chunked
        else:
            sequence = _Sequence(start)
            self.found.append(sequence)
        sequence.add(one, part, prompt=True)
        return sequence

    def _decoded(self, one: _Pass, behind: int, running: list[_Sequence]) -> list[_Sequence]:
        """Those that run on: one a token, in its order."""
        found = []
        for place, known in enumerate(_goes_on(one.positions[behind:].tolist(), running), behind):
            sequence = known
            if sequence is None:
                sequence = _Sequence(int(one.positions[place]))
                self.found.append(sequence)
            sequence.add(one, slice(place, place + 1), prompt=False)
            found.append(sequence)
        return found


def _goes_on(positions: Sequence[int], batch: Sequence[_Sequence]) -> list[_Sequence | None]:
    """Which sequence of a batch each token goes on with, in order; None where several may be.

    Taken from the front and from the back, as early and as late as it can be: where both are the
    same sequence, there is no other.
    """
    early = _matched(positions, batch)
    late = _matched(list(positions)[::-1], list(batch)[::-1])[::-1]
    return [a if a is b else None for a, b in zip(early, late, strict=True)]


def _matched(positions: Sequence[int], batch: Sequence[_Sequence]) -> list[_Sequence | None]:
    found: list[_Sequence | None] = []
    left = 0
    for position in positions:
        at = next((i for i in range(left, len(batch)) if batch[i].stop == position), None)
        found.append(None if at is None else batch[at])
        left = left if at is None else at + 1
    return found


def _wire(one: _Sequence, where: str, top_k: int) -> WireSample:
    """A sequence with a row for each of its tokens; of a cached prefix nothing but the length."""
    empty = np.zeros(0, np.int32)
    prompt = np.concatenate([empty, *one.prompt])
    response = np.concatenate([empty, *one.response])
    whole = one.start == 0
    return WireSample(
        where=where,
        payload=np.concatenate(one.rows)[..., :top_k],
        start=one.start,
        prompt_ids=prompt if whole else None,
        response_ids=response if whole else None,
        prompt_length=one.start + len(prompt),
        response_length=len(response),
        cached_tokens=one.start if one.prompt and one.start else None,
        any_rows=True,
        engine="sglang",
    )
