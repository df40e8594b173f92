"""Which forward of a model a backward pass computes again, and with it the routes it was given.

Gradient checkpointing runs parts of a forward once more while a node of that forward's autograd
graph is evaluated: the node of a reentrant checkpoint (of torch, Megatron-Core and others), or any
node whose saved tensors a checkpoint without reentry dropped. Autograd numbers the nodes of a
thread as they are made, so that a node's number lies in the span of numbers of the forward that
made it. Nothing is told by the order of backward passes.

A checkpoint inside a reentrant one runs in a backward pass inside the backward pass, on nodes that
the outer recomputation made. Nodes under evaluation are therefore a stack: the outermost is of a
forward, the inner ones were made in this thread while the outer ones were evaluated.
"""

import sys
import threading
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import BackwardCFunction, Function

from ...errors import UnsupportedError
from ..tape import Forced
from .sequences import Batch

__all__ = ["Forward", "Forwards", "in_backward", "in_function", "next_node"]

_BACKWARD = BackwardCFunction.apply.__code__
_FORWARD = Function.apply.__func__.__code__  # type: ignore[attr-defined]
_UNKNOWN = (
    "a backward pass computes a router again, and which forward it was in cannot be told: forwards "
    "ran in several threads, or no output of that forward is held any more"
)


@dataclass(eq=False, slots=True, weakref_slot=True)
class Forward:
    """A forward of the model: what it was called with, and what its routers were made to select.

    Its graph holds it, so that it is there for as long as a backward pass can come. lease is what
    must be there as long.
    """

    batch: Batch
    forced: Mapping[int, Forced]
    lease: object
    recomputed: bool = False


@dataclass(frozen=True, slots=True)
class _Span:
    """The numbers of the nodes that a forward made, and where it made them."""

    begin: int
    end: int
    thread: int
    in_backward: bool
    forward: "weakref.ref[Forward]"


def in_backward() -> bool:
    """Whether this thread evaluates a node of an autograd graph."""
    return torch._C._current_graph_task_id() != -1


def in_function() -> bool:
    """Whether this is called by the forward of a torch.autograd.Function."""
    return any(frame.f_code is _FORWARD for frame in _frames())


class Forwards:
    """The forwards of a model while a block is open, by the autograd nodes that they made."""

    def __init__(self) -> None:
        self._spans: list[_Span] = []
        self._threads: set[int] = set()
        self._since, self._until = next_node(), sys.maxsize

    def close(self) -> None:
        """No forward is added any more but those that are computed again."""
        self._until = next_node()

    def add(self, forward: Forward, begin: int, out: Any) -> bool:
        """A forward is done, its first node had the number ``begin``; whether a graph holds it."""
        held = False
        for tensor in _tensors(out):
            if tensor.grad_fn is not None:
                held_by: Any = tensor.grad_fn
                held_by.metadata[id(self)] = forward
                held = True
        if (end := next_node()) > begin:
            here, again = threading.get_ident(), in_backward()
            self._spans.append(_Span(begin, end, here, again, weakref.ref(forward)))
            self._threads |= set() if again else {here}
        return held

    def of_router(self) -> Forward | None:
        """The forward that the router which runs in this backward pass is a part of.

        None where the backward pass is of something else: a forward outside the block. Raises
        UnsupportedError where this cannot be told.
        """
        outer, *inner = _evaluated()
        here = threading.get_ident()
        for node in reversed(inner):
            for span in self._made(node):
                if span.thread == here:
                    return _held(span)
        spans = [span for span in self._made(outer) if not span.in_backward]
        if not spans and any(self._made(node) for node in inner):
            raise UnsupportedError(_UNKNOWN)  # of another thread, where numbers are others
        if spans and len(self._threads) > 1:
            raise UnsupportedError(_UNKNOWN)
        return _held(spans[0]) if spans else None

    def of_batch(self, batch: Batch, more: list[Forward]) -> Forward | None:
        """The forward that is computed again as a whole: called with the same tokens.

        more are forwards that no graph holds. None where the backward pass is of a graph outside
        the block. Raises UnsupportedError where none or several were called so.
        """
        alive = [forward for span in self._spans if (forward := span.forward()) is not None]
        found = [forward for forward in (*alive, *more) if _same_inputs(forward.batch, batch)]
        if found and all(_same_routes(found[0].forced, other.forced) for other in found):
            return found[0]
        if not found and not self._since <= _evaluated()[0]._sequence_nr() < self._until:
            return None
        what = "several forwards with other routes" if found else "no forward"
        raise UnsupportedError(
            f"the model is called in a backward pass with the tokens of {what} of this block: "
            "which routes it must be given cannot be told; checkpoint its layers instead"
        )

    def _made(self, node: Any) -> list[_Span]:
        """The spans that a node's number lies in, one of a thread at most; the latest first."""
        number = node._sequence_nr()
        return [span for span in reversed(self._spans) if span.begin <= number < span.end]


def next_node() -> int:
    """The number of the next autograd node that this thread makes."""
    return int(torch._C._autograd._get_sequence_nr())


def _evaluated() -> list[Any]:
    """The autograd nodes that this thread evaluates, the outermost first; at least one.

    Those of Python stand in its stack as calls of ``BackwardCFunction.apply``.
    """
    found = [frame.f_locals["self"] for frame in _frames() if frame.f_code is _BACKWARD]
    found.reverse()
    node = torch._C._current_autograd_node()
    if node is not None and (not found or node._sequence_nr() != found[-1]._sequence_nr()):
        found.append(node)
    if not found:
        raise UnsupportedError("a router runs in a backward pass, but in no node of its graph")
    return found


def _held(span: _Span) -> Forward:
    if (forward := span.forward()) is None:
        raise UnsupportedError(_UNKNOWN)
    return forward


def _frames() -> Iterator[Any]:
    frame = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back  # type: ignore[assignment]


def _tensors(out: Any) -> Iterator[torch.Tensor]:
    """The tensors of what a model returned."""
    if isinstance(out, torch.Tensor):
        yield out
    elif isinstance(out, Mapping):
        yield from _tensors(tuple(out.values()))
    elif isinstance(out, list | tuple):
        for part in out:
            yield from _tensors(part)


def _same_inputs(one: Batch, two: Batch) -> bool:
    return all(
        a is b or (a is not None and b is not None and a.shape == b.shape and torch.equal(a, b))
        for a, b in zip(one.tensors, two.tensors, strict=True)
    )


def _same_routes(one: Mapping[int, Forced], two: Mapping[int, Forced]) -> bool:
    return one.keys() == two.keys() and all(
        a is b or (a is not None and b is not None and torch.equal(a, b))
        for layer in one
        for a, b in (
            (one[layer].ids_TK, two[layer].ids_TK),
            (one[layer].missing_T, two[layer].missing_T),
        )
    )
