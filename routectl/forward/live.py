"""Record what the routers of a model select while it trains, and make them select given routes.

R2's record phase and R3's rule, for any torch model of transformers or Megatron-Core in eager mode.
Shape suffixes: L MoE layers, T tokens, K top_k, R rows of a router.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..dump import Dump, DumpMeta, Sample, key_of
from ..errors import MismatchError
from ..routes import Routes, ids_dtype
from .host import HostCopies, HostCopy
from .probe import Probe
from .routers import RouterAt, find_megatron_routers, find_routers
from .sequences import Batch, batch_of, split_batch
from .tape import Forced, Tape

__all__ = ["Recorder", "record", "replay"]


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    """One forward of the model, on its way to the host: what it was called with, and its ids.

    Nothing of the device is held, so that a long recording takes host memory alone.
    """

    s_major: bool
    parts: tuple[HostCopy | None, ...]
    ids_LRK: HostCopy

    def arrived(self) -> Batch:
        """The batch on the host."""
        ids, mask, positions = (None if part is None else part.get() for part in self.parts)
        assert ids is not None
        return Batch(ids, mask, positions, self.s_major)


@dataclass(slots=True, eq=False)
class Recorder:
    """What the routers selected, forward by forward. Reading it waits for copies under way.

    One sequence of a forward is one sample: the tokens that the attention mask keeps, cut where
    packed positions begin again at 0.
    """

    routers: tuple[RouterAt, ...]
    _calls: list[_Call] = field(default_factory=list)
    _copies: HostCopies = field(default_factory=HostCopies)

    @property
    def layers(self) -> tuple[int, ...]:
        """0-based number of each MoE layer."""
        return tuple(at.layer for at in self.routers)

    def take(self, batch: Batch, tape: Tape) -> None:
        """Send a finished forward to the host, without waiting for the device."""
        narrow = torch.uint8 if self.num_experts <= 256 else torch.int16
        ids_LRK = torch.stack([tape.rows[at.layer].ids_TK.to(narrow) for at in self.routers])
        parts = tuple(None if t is None else self._copies.put(t) for t in batch.tensors)
        self._calls.append(_Call(batch.s_major, parts, self._copies.put(ids_LRK)))

    @property
    def num_experts(self) -> int:
        """E, zero and skip experts included where the family has them."""
        return max(at.num_choices for at in self.routers)

    def samples(self) -> Iterator[Sample]:
        """The recorded sequences in order, with their token ids and routes (a row for each token).

        Raises MismatchError where a router saw other rows than the batch has tokens, as under
        context or sequence parallelism.
        """
        self._copies.drain()
        for call in self._calls:
            batch = call.arrived()
            ids_LRK = call.ids_LRK.get().numpy().view(ids_dtype(self.num_experts))
            if ids_LRK.shape[1] != batch.input_ids_BS.numel():
                raise MismatchError(
                    f"routers saw {ids_LRK.shape[1]} rows of {batch.input_ids_BS.numel()} tokens: "
                    "record on a rank that has whole sequences"
                )
            for part in split_batch(batch):
                ids_TLK = np.ascontiguousarray(ids_LRK[:, part.rows_T].transpose(1, 0, 2))
                routes = Routes(ids_TLK, self.layers, self.num_experts)
                none = np.zeros(0, np.int32)
                yield Sample(
                    routes,
                    prompt_ids=part.token_ids_T,
                    response_ids=none,
                    prompt_length=len(part.token_ids_T),
                    response_length=0,
                )

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
        from ..formats.native.container import write_native

        dump = self.dump()
        return write_native(dump, dump.meta, Path(path), force=force)


@contextmanager
def record(model: torch.nn.Module) -> Iterator[Recorder]:
    """Record every forward of ``model`` in the block, training or not.

    Ids leave the device without a synchronisation in the forward. What gradient checkpointing
    computes again in the backward is not recorded again. Eager mode only: torch.compile and fused
    routers go around it. Raises UnsupportedError for a model whose routers cannot be found.
    """
    routers, s_major = _routers_of(model)
    recorder = Recorder(routers)
    with _Calls(model, routers, s_major) as calls:
        calls.after = recorder.take
        yield recorder
    recorder._copies.drain()


@contextmanager
def replay(model: torch.nn.Module, routes: Sequence[Routes | None]) -> Iterator[None]:
    """Make the routers of ``model`` select the given routes: those of each sequence, in order.

    The sequences are those of the forwards in the block, as ``record`` counts them. Weights come
    from the live scores, with gradients to the router, as in Megatron-Core's RouterReplay. Rows
    that are missing, or None for a sequence, stay live. What gradient checkpointing computes again
    is given the same routes, backward passes being in the order of the forwards. Raises
    MismatchError for routes of other layers, K or lengths, or for more sequences than routes.
    """
    routers, s_major = _routers_of(model)
    left = deque(routes)
    with _Calls(model, routers, s_major) as calls:
        calls.before = lambda batch: _forced(batch, routers, left)
        yield


class _Calls:
    """Forwards of a model under a probe, each with a tape of its own.

    A router that runs inside a backward pass is being computed again: it is given the tape of the
    oldest forward that it has not been given yet.
    """

    def __init__(
        self, model: torch.nn.Module, routers: tuple[RouterAt, ...], s_major: bool
    ) -> None:
        self._model, self._s_major = model, s_major
        self._probe = Probe(routers, again=self._again)
        self._stack = ExitStack()
        self._one: list[tuple[Batch, ExitStack, Tape]] = []
        self._given: dict[int, deque[Tape]] = {at.layer: deque() for at in routers}
        self.before: Any = lambda batch: {}
        self.after: Any = None

    def __enter__(self) -> "_Calls":
        self._stack.enter_context(self._probe)
        for hook in (
            self._model.register_forward_pre_hook(self._begin, with_kwargs=True),
            self._model.register_forward_hook(self._end, always_call=True),
        ):
            self._stack.callback(hook.remove)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _begin(self, module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        batch = batch_of(args, kwargs, s_major=self._s_major)
        tape = Tape(self.before(batch), want_margins=False)
        inner = ExitStack()
        inner.enter_context(self._probe.on(tape))
        self._one.append((batch, inner, tape))

    def _end(self, module: torch.nn.Module, args: Any, out: Any) -> None:
        if not self._one:
            return  # _begin refused the call
        batch, inner, tape = self._one.pop()
        inner.close()
        if out is None:
            return  # the forward failed
        if tape.forced and torch.is_grad_enabled():
            for waiting in self._given.values():
                waiting.append(tape)
        if self.after is not None:
            self.after(batch, tape)

    def _again(self, layer: int) -> Tape | None:
        waiting = self._given[layer]
        return Tape(waiting.popleft().forced, want_margins=False) if waiting else None


def _routers_of(model: torch.nn.Module) -> tuple[tuple[RouterAt, ...], bool]:
    """The routers, and whether their rows are s-major."""
    found = find_megatron_routers(model)
    return (found, True) if found else (find_routers(model), False)


def _forced(
    batch: Batch, routers: tuple[RouterAt, ...], left: "deque[Routes | None]"
) -> dict[int, Forced]:
    """The next sequences' routes, laid out as the rows of a batch."""
    ids_BS, mask_BS, positions_BS = (None if t is None else t.cpu() for t in batch.tensors)
    assert ids_BS is not None
    host = Batch(ids_BS, mask_BS, positions_BS, batch.s_major)
    rows = batch.input_ids_BS.numel()
    top_k = routers[0].top_k
    ids_LRK = np.zeros((len(routers), rows, top_k), np.int64)
    missing_LR = np.ones((len(routers), rows), np.bool_)
    layers = tuple(at.layer for at in routers)
    for part in split_batch(host):
        if not left:
            raise MismatchError("there are more sequences than routes to replay")
        held = left.popleft()
        if held is None:
            continue
        tokens = len(part.rows_T)
        if held.layers_L != layers or held.top_k != top_k or held.stop > tokens:
            raise MismatchError(
                f"routes do not fit: got layers {held.layers_L}, top-{held.top_k}, {held.stop} "
                f"rows; expected {layers}, top-{top_k}, {tokens} tokens"
            )
        target = part.rows_T[held.start : held.stop]
        ids_LRK[:, target] = held.ids_TLK.transpose(1, 0, 2)
        missing_LR[:, target] = False if held.missing_TL is None else held.missing_TL.T
    device = batch.input_ids_BS.device
    return {
        layer: Forced(*(torch.from_numpy(a).to(device) for a in (ids_RK, missing_R)))
        for layer, ids_RK, missing_R in zip(layers, ids_LRK, missing_LR, strict=True)
    }
