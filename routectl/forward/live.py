"""Record what the routers of a model select while it trains, and make them select given routes.

R2's record phase and R3's rule, for any torch model of transformers or Megatron-Core in eager mode.
Shape suffixes: L MoE layers, T tokens, K top_k, R rows of a router.
"""

import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from ..dump import Sample
from ..errors import MismatchError, UnsupportedError
from ..routes import Routes
from .calls import Call, ModelCalls
from .generation import recording_generate
from .probe import Probe
from .recomputation import Forward, Forwards, in_backward, in_function
from .recorder import Recorder
from .routers import RouterAt, find_megatron_routers, find_routers
from .sequences import Batch, split_batch
from .tape import Forced, Tape

__all__ = ["Recorder", "record", "replay"]


@contextmanager
def record(model: torch.nn.Module, *, graphs_only: bool = False) -> Iterator[Recorder]:
    """Record every forward of ``model`` in the block, training or not.

    With graphs_only only those with gradients enabled: what a loss is computed from, not what
    scores or generates.

    Ids leave the device without a synchronisation in the forward. What gradient checkpointing
    computes again in the backward is not recorded again. Inside ``replay`` the ids that it forced
    are recorded. Eager mode only: torch.compile and fused routers go around it. Raises
    UnsupportedError for a model whose routers cannot be found.
    """
    routers, s_major = _routers_of(model)
    recorder = Recorder(routers)
    probe = Probe(routers, again=lambda layer: None)
    calls = ModelCalls(model, probe, _Recording(recorder, graphs_only), s_major=s_major)
    with calls.stack:
        calls.start()
        if hasattr(model, "generate") and not graphs_only:
            calls.stack.enter_context(_generate_recorded(model, recorder))
        yield recorder
    recorder.drain()


@contextmanager
def replay(model: torch.nn.Module, routes: Sequence[Routes | None]) -> Iterator[None]:
    """Make the routers of ``model`` select the given routes: those of each sequence, in order.

    The sequences are those of the forwards in the block, as ``record`` counts them: a forward that
    fails takes none. Weights come from the live scores, with gradients to the router, as in
    Megatron-Core's RouterReplay. Rows that are missing, or None for a sequence, stay live. What
    gradient checkpointing computes again, in whichever order and also after the block, is given
    the routes of the forward that it is a part of; what it computes again of forwards outside the
    block is left alone. Raises MismatchError for routes of other layers, K or lengths, or for more
    sequences than routes, UnsupportedError where the forward cannot be told, and TypeError for
    what are no routes.
    """
    routers, s_major = _routers_of(model)
    replaying = _Replaying(routers, _checked(routes))
    probe = Probe(routers, again=replaying.again)
    replaying.open(ModelCalls(model, probe, replaying, s_major=s_major))
    try:
        yield
    finally:
        unseen = replaying.close()
    if unseen:
        raise UnsupportedError(
            "the model was called inside a reentrant checkpoint whose backward pass has not been: "
            "call backward inside the block, or checkpoint with use_reentrant=False"
        )


class _Recording:
    """Forwards of a model that a recorder takes."""

    def __init__(self, recorder: Recorder, graphs_only: bool) -> None:
        self._recorder, self._graphs_only = recorder, graphs_only

    def begin(self, batch: Batch) -> Tape | None:
        """A tape, but for what a backward pass computes again."""
        if in_backward() or (self._graphs_only and not torch.is_grad_enabled()):
            return None
        self._recorder.expect(batch)
        return Tape(want_margins=False)

    def end(self, call: Call, out: Any) -> None:
        """What succeeded is taken."""
        if out is not None:
            self._recorder.take(call.batch, call.tape, out)


class _Lease:
    """Something that is there for as long as it is held."""


class _Replaying:
    """Forwards of a model whose routers are given routes.

    Hooks and probe stay on the model until the block has ended and no graph of its forwards is
    left, whose backward pass could compute a part of it again.
    """

    def __init__(self, routers: tuple[RouterAt, ...], routes: Sequence[Routes | None]) -> None:
        self._routers, self._routes = routers, list(routes)
        self._used = self._given = 0  # sequences of the forwards so far, and of the one that runs
        self._forwards = Forwards()
        self._unheld: list[Forward] = []  # of no graph yet: inside a reentrant checkpoint
        self._lease: _Lease | None = _Lease()

    def open(self, calls: ModelCalls) -> None:
        """Begin; ``calls`` end with the last graph."""
        calls.start()
        weakref.finalize(self._lease, calls.stack.close).atexit = False

    def close(self) -> int:
        """No forward comes any more; of how many a recomputation would go by unseen."""
        self._forwards.close()
        self._lease = None
        unseen = sum(not forward.recomputed for forward in self._unheld)
        self._unheld.clear()
        return unseen

    def begin(self, batch: Batch) -> Tape | None:
        """A tape with the routes of the next sequences, or of those that are computed again."""
        if in_backward():
            forward = self._forwards.of_batch(batch, self._unheld)
            if forward is None:
                return None
            forward.recomputed = True
            return Tape(forward.forced, want_margins=False)
        if self._lease is None:
            return None  # the block has ended
        if batch.past:
            raise UnsupportedError(
                "replay of a forward that goes on from a cache: replay whole sequences"
            )
        forced, self._given = _forced(batch, self._routers, self._routes[self._used :])
        return Tape(forced, want_margins=False)

    def end(self, call: Call, out: Any) -> None:
        """The routes of what succeeded are used, and what can be computed again is kept."""
        if out is None:
            return
        forward = Forward(call.batch, call.tape.forced, self._lease)
        held = self._forwards.add(forward, call.first_node, out)
        if in_backward():
            return
        self._used += self._given
        if not held and in_function():
            self._unheld.append(forward)

    def again(self, layer: int) -> Tape | None:
        """The tape of a router that a backward pass computes again."""
        forward = self._forwards.of_router()
        if forward is None:
            return None
        forward.recomputed = True
        return Tape(forward.forced, want_margins=False)


@contextmanager
def _generate_recorded(model: Any, recorder: Recorder) -> Iterator[None]:
    """The model's ``generate`` is one whose steps are recorded."""
    before = vars(model).get("generate")
    defaults = getattr(model, "generation_config", None)
    model.generate = recording_generate(recorder, model.generate, defaults)
    try:
        yield
    finally:
        if before is None:
            del model.generate
        else:
            model.generate = before


def _routers_of(model: torch.nn.Module) -> tuple[tuple[RouterAt, ...], bool]:
    """The routers, and whether their rows are s-major.

    Raises TypeError for what is no module, and UnsupportedError for one of neither library.
    """
    kind = type(model).__name__
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"got {kind}, expected a model: a torch.nn.Module")
    found = find_megatron_routers(model)
    if not found and not hasattr(model, "config"):
        raise UnsupportedError(
            f"{kind} has no router: expected a model of transformers, with its config, or one of "
            "Megatron-Core with a TopKRouter"
        )
    return (found, True) if found else (find_routers(model), False)


def _checked(routes: Iterable[Routes | None]) -> list[Routes | None]:
    """The routes of each sequence. Raises TypeError for anything else, before a forward."""
    if isinstance(routes, Routes):
        raise TypeError("got Routes, expected a list with those of each sequence")
    given = list(routes)
    for place, held in enumerate(given):
        if held is not None and not isinstance(held, Routes):
            more = ": pass sample.routes" if isinstance(held, Sample) else ""
            raise TypeError(
                f"routes[{place}]: got {type(held).__name__}, expected Routes or None{more}"
            )
    return given


def _forced(
    batch: Batch, routers: tuple[RouterAt, ...], left: Sequence[Routes | None]
) -> tuple[dict[int, Forced], int]:
    """The next sequences' routes, laid out as the rows of a batch; and how many these are."""
    ids_BS, mask_BS, positions_BS = (None if t is None else t.cpu() for t in batch.tensors)
    assert ids_BS is not None
    host = Batch(ids_BS, mask_BS, positions_BS, batch.s_major)
    rows = batch.input_ids_BS.numel()
    top_k = routers[0].top_k
    ids_LRK = np.zeros((len(routers), rows, top_k), np.int64)
    missing_LR = np.ones((len(routers), rows), np.bool_)
    layers = tuple(at.layer for at in routers)
    parts = split_batch(host)
    if len(parts) > len(left):
        raise MismatchError("there are more sequences than routes to replay")
    for part, held in zip(parts, left, strict=False):
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
    forced = {
        layer: Forced(*(torch.from_numpy(a).to(device) for a in (ids_RK, missing_R)))
        for layer, ids_RK, missing_R in zip(layers, ids_LRK, missing_LR, strict=True)
    }
    return forced, len(parts)
