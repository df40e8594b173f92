"""Make the routers of a live model select given routes: R2's and R3's rule.

For any torch model of transformers or Megatron-Core in eager mode.
Shape suffixes: N tokens of a sequence, L MoE layers, K top_k.
"""

import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ...errors import MismatchError, UnsupportedError
from ...layouts.ranks import Rank
from ..probe import Probe
from ..routers import RouterAt
from ..tape import Tape
from .calls import Call, ModelCalls
from .given import Given, LaidOut, RowSlice, checked_routes, lay_out_batch, row_slice_of
from .proof import Proof, watched_experts
from .recomputation import Forward, Forwards, in_backward, in_function
from .sequences import Batch
from .tokens import GivenRoutes
from .wrappers import inside

__all__ = ["replay"]


@contextmanager
def replay(
    model: torch.nn.Module,
    routes: Iterable[Given],
    *,
    rank: Rank | None = None,
    prove: bool = False,
) -> Iterator[Proof | None]:
    """Make the routers of ``model`` select the given routes: those of each sequence, in order.

    The sequences are those of the forwards in the block, as ``record`` counts them: a forward that
    fails takes none, and one of each sequence must come. Of a sequence: Routes, a Sample, integers
    [N, L, K] of the model's MoE layers (a row of -1 is missing), or None. Weights come from the
    live scores, with gradients to the router, as in Megatron-Core's RouterReplay. Rows that are
    missing, or None for a sequence, stay live. What gradient checkpointing computes again, in
    whichever order and also after the block, is given the routes of the forward that it is a part
    of; what it computes again of forwards outside the block is left alone.

    ``model`` may be in DDP, FSDP (1 or 2), Megatron-Core's wrappers or a peft model. ``rank`` is
    this rank's place where a Megatron-Core model has a part of the tokens (sequence parallelism:
    ``tp``) or of the layers (a pipeline stage). With ``prove`` the block gives a Proof: what the
    experts of each layer are called with is compared on the device, and said at the end.

    A Sample with token ids is held against ``input_ids``, with ``prove`` or without: each route
    must stand at its own token, and a batch in another order, or padding without attention_mask,
    is refused before the forward. Routes and arrays carry no tokens: nothing tells where they land.

    Raises TypeError for what are no routes; MismatchError for routes of other layers, K or lengths,
    at other tokens, for more sequences than routes or fewer, and where the proof fails;
    UnsupportedError for a model that is compiled or wrapped in what is not known, and where the
    forward cannot be told.
    """
    found = inside(model)
    part = row_slice_of(found.routers, rank, megatron=found.s_major)
    proof = Proof(found.routers) if prove else None
    replaying = _Replaying(found.routers, checked_routes(routes, found.routers), part, proof)
    probe = Probe(found.routers, again=replaying.again)
    calls = ModelCalls(found, probe, replaying)
    if proof is not None:
        calls.stack.enter_context(watched_experts(found.model, found.routers, probe, proof))
    replaying.open(calls)
    failed = True
    try:
        yield proof
        failed = False
    finally:
        replaying.close(quiet=failed)


class _Lease:
    """Something that is there for as long as it is held."""


class _Replaying:
    """Forwards of a model whose routers are given routes.

    Hooks and probe stay on the model until the block has ended and no graph of its forwards is
    left, whose backward pass could compute a part of it again.
    """

    def __init__(
        self,
        routers: tuple[RouterAt, ...],
        routes: Sequence[GivenRoutes],
        part: RowSlice,
        proof: Proof | None,
    ) -> None:
        self._routers, self._routes, self._part, self._proof = routers, routes, part, proof
        self._used = 0  # sequences of the forwards so far
        self._given: LaidOut | None = None  # of the forward that runs
        self._forwards = Forwards()
        self._unheld: list[Forward] = []  # of no graph yet: inside a reentrant checkpoint
        self._lease: _Lease | None = _Lease()

    def open(self, calls: ModelCalls) -> None:
        """Begin; ``calls`` end with the last graph."""
        calls.start()
        weakref.finalize(self._lease, calls.stack.close).atexit = False

    def close(self, *, quiet: bool) -> None:
        """No forward comes any more. Unless quiet, as after an error, raises UnsupportedError where
        a recomputation would go by unseen, and MismatchError for routes that were not replayed.
        """
        self._forwards.close()
        self._lease = None
        unseen = sum(not forward.recomputed for forward in self._unheld)
        self._unheld.clear()
        if quiet:
            return
        if unseen:
            raise UnsupportedError(
                "the model was called inside a reentrant checkpoint whose backward pass has not "
                "been: call backward inside the block, or checkpoint with use_reentrant=False"
            )
        if self._used != (given := len(self._routes)):
            raise MismatchError(
                f"routes are left over: the forwards in the block were of {self._used} sequences, "
                f"{given} were given; compiled code, and a forward that is not a call of this "
                "model, go by unseen"
            )
        if self._proof is not None:
            self._proof.check()

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
        self._given = lay_out_batch(batch, self._routers, self._routes[self._used :], self._part)
        return Tape(self._given.forced, want_margins=False)

    def end(self, call: Call, out: Any) -> None:
        """The routes of what succeeded are used, and what can be computed again is kept."""
        if out is None:
            return
        forward = Forward(call.batch, call.tape.forced, self._lease)
        held = self._forwards.add(forward, call.first_node, out)
        if in_backward():
            return
        assert self._given is not None
        self._used += self._given.sequences
        if self._proof is not None:
            self._proof.add(self._given.given_L, call.tape)
        if not held and in_function():
            self._unheld.append(forward)

    def again(self, layer: int) -> Tape | None:
        """The tape of a router that a backward pass computes again."""
        forward = self._forwards.of_router()
        if forward is None:
            return None
        forward.recomputed = True
        return Tape(forward.forced, want_margins=False)
