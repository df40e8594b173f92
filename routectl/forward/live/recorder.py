"""What was recorded of a live model, as samples, a dump or a file.

Shape suffixes: L MoE layers, T tokens, K top_k, R rows of a router.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...dump import Dump, DumpMeta, Sample, key_of
from ...errors import MismatchError, UnsupportedError
from ...files.places import place_of
from ...routes import Routes, ids_dtype
from ..routers import RouterAt
from ..tape import Tape
from .host import HostCopies, HostCopy
from .sequences import Batch, split_batch
from .streams import Generated, RecordedForward, Stream, Streams, join_steps

__all__ = ["Recorder"]


@dataclass(slots=True, eq=False, repr=False)
class Recorder:
    """What the routers selected, forward by forward. Reading it waits for copies under way.

    One sequence of a forward is one sample: the tokens that the attention mask keeps, cut where
    packed positions begin again at 0. Forwards that go on from a cache are of the same sequences:
    one sample each, of every token that was fed. A sequence that ``generate`` made has prompt and
    response; its last token, which was not fed, has no row.
    """

    routers: tuple[RouterAt, ...]
    _streams: list[Stream] = field(default_factory=list)
    _caches: Streams = field(default_factory=Streams)
    _going_on: Stream | None = None  # the stream of the forward that runs
    _copies: HostCopies = field(default_factory=HostCopies)

    def __repr__(self) -> str:
        forwards = sum(self.steps())
        return (
            f"<Recorder: {forwards:,} forwards, {len(self.layers)} MoE layers, "
            f"K {self.routers[0].top_k}, E {self.num_experts}>"
        )

    @property
    def layers(self) -> tuple[int, ...]:
        """0-based number of each MoE layer."""
        return tuple(at.layer for at in self.routers)

    @property
    def num_experts(self) -> int:
        """E, zero and skip experts included where the family has them."""
        return max(at.num_choices for at in self.routers)

    def expect(self, batch: Batch) -> None:
        """A forward begins. Raises UnsupportedError where it goes on from a cache that is not
        known.
        """
        self._going_on = self._caches.open(batch)

    def take(self, batch: Batch, tape: Tape, out: Any = None) -> None:
        """Send a finished forward to the host, without waiting for the device."""
        narrow = torch.uint8 if self.num_experts <= 256 else torch.int16
        ids_LRK = torch.stack([tape.rows[at.layer].ids_TK.to(narrow) for at in self.routers])
        tensors = (batch.input_ids_BS, None, None) if batch.past else batch.tensors
        parts = tuple(None if t is None else self._copies.put(t) for t in tensors)
        stream, self._going_on = self._going_on, None
        if stream is None:
            self._streams.append(stream := Stream())
        stream.steps.append(
            RecordedForward(batch.past, batch.s_major, parts, self._copies.put(ids_LRK))
        )
        if batch.past:
            stream.mask_BP = None if batch.mask_BP is None else self._copies.put(batch.mask_BP)
            stream.generated = None
        else:
            stream.mask_BP = parts[1]
        self._caches.keep(stream, batch, out)

    def put(self, tensor: torch.Tensor) -> HostCopy:
        """A tensor on its way to the host."""
        return self._copies.put(tensor)

    def steps(self) -> list[int]:
        """How many forwards each stream has so far."""
        return [len(stream.steps) for stream in self._streams]

    def generated(self, before: list[int], done: Generated) -> None:
        """The forwards that came since ``before`` are those of a ``generate``.

        Without a cache each of them is of all tokens so far, and the last is kept. Raises
        UnsupportedError where they are of several caches.
        """
        before = before + [0] * (len(self._streams) - len(before))
        made = [s for s, steps in zip(self._streams, before, strict=True) if len(s.steps) > steps]
        if len(made) > 1 and all(stream.cache is None for stream in made):
            self._streams = [s for s in self._streams if s not in made[:-1]]
            made = made[-1:]
        if len(made) > 1:
            raise UnsupportedError(
                f"generate ran forwards of {len(made)} caches: which are of its "
                "sequences is not known"
            )
        for stream in made:
            stream.generated = done

    def detach(self) -> "Recorder":
        """What was recorded so far, for another thread to read; this one goes on with nothing."""
        taken = Recorder(self.routers, self._streams, _copies=self._copies)
        self._streams, self._caches, self._copies = [], Streams(), HostCopies()
        return taken

    def samples(self) -> Iterator[Sample]:
        """The recorded sequences in order, with their token ids and routes (a row for each token
        that was fed; of a generated sequence for each but the last).

        Raises MismatchError where a router saw other rows than the batch has tokens, as under
        context or sequence parallelism.
        """
        self._copies.drain()
        dtype = ids_dtype(self.num_experts)
        for stream in self._streams:
            for step in stream.steps:
                tokens = step.arrived().input_ids_BS.numel()
                if (rows := step.ids_LRK.get().shape[1]) != tokens:
                    raise MismatchError(
                        f"routers saw {rows} rows of {tokens} tokens: record on a rank that has "
                        "whole sequences"
                    )
            if stream.generated is None and len(stream.steps) == 1:
                yield from self._whole(stream.steps[0], dtype)
                continue
            for told in join_steps(stream, dtype):
                routes = Routes(told.ids_TLK, self.layers, self.num_experts)
                yield _sample(routes, told.prompt_ids_T, told.response_ids_T)

    def _whole(self, step: RecordedForward, dtype: Any) -> Iterator[Sample]:
        """The sequences of one forward."""
        ids_LRK = step.ids_LRK.get().numpy().view(dtype)
        for part in split_batch(step.arrived()):
            ids_TLK = np.ascontiguousarray(ids_LRK[:, part.rows_T].transpose(1, 0, 2))
            routes = Routes(ids_TLK, self.layers, self.num_experts)
            yield _sample(routes, part.token_ids_T, np.zeros(0, np.int32))

    def routes(self) -> list[Routes]:
        """The routes of the recorded sequences, in order."""
        return [sample.routes for sample in self.samples() if sample.routes is not None]

    def dump(self) -> Dump:
        """What was recorded so far, in memory."""
        samples = list(self.samples())
        meta = DumpMeta(
            "recorded",
            "memory",
            self.layers,
            self.num_experts,
            self.routers[0].top_k,
            engine="record",
            facts_source="the model",
        )
        keys = [key_of(None, s.prompt_ids, s.response_ids) for s in samples]
        return Dump(meta, keys, samples.__getitem__)

    def write(self, path: str | Path, *, force: bool = False) -> int:
        """Write what was recorded as a native file; returns the number of samples."""
        from ...formats.native.container import write_native

        dump = self.dump()
        return write_native(dump, dump.meta, place_of(path), force=force)

    def drain(self) -> None:
        """Wait for copies under way."""
        self._copies.drain()


def _sample(
    routes: Routes, prompt_ids_T: NDArray[np.int32], response_ids_T: NDArray[np.int32]
) -> Sample:
    return Sample(
        routes,
        prompt_ids=prompt_ids_T,
        response_ids=response_ids_T,
        prompt_length=len(prompt_ids_T),
        response_length=len(response_ids_T),
    )
