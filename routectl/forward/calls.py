"""Calls of a live model under a probe, each with a tape of its own."""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from .probe import Probe
from .recomputation import next_node
from .sequences import Batch, batch_of
from .tape import Tape

__all__ = ["Call", "Listener", "ModelCalls"]


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """A call of a model: its batch, its tape, and the number of its first autograd node."""

    batch: Batch
    tape: Tape
    first_node: int


class Listener(Protocol):
    """What is asked of a call before it runs, and told of it after."""

    def begin(self, batch: Batch) -> Tape | None:
        """The tape of a call; None to leave it alone."""

    def end(self, call: Call, out: Any) -> None:
        """A call that had a tape gave ``out``; None where it failed."""


class ModelCalls:
    """The calls of a model, from ``start`` until ``stack`` is closed."""

    def __init__(
        self, model: torch.nn.Module, probe: Probe, listener: Listener, *, s_major: bool
    ) -> None:
        self._model, self._probe, self._s_major = model, probe, s_major
        self._listener = listener
        self._open: list[tuple[Call, ExitStack] | None] = []
        self.stack = ExitStack()

    def start(self) -> None:
        """Put the probe and the hooks on the model."""
        self.stack.enter_context(self._probe)
        for hook in (
            self._model.register_forward_pre_hook(self._before, with_kwargs=True),
            self._model.register_forward_hook(self._after, always_call=True),
        ):
            self.stack.callback(hook.remove)

    def _before(self, module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        self._open.append(None)
        batch = batch_of(args, kwargs, s_major=self._s_major)
        tape = self._listener.begin(batch)
        if tape is not None:
            inner = ExitStack()
            inner.enter_context(self._probe.on(tape))
            self._open[-1] = Call(batch, tape, next_node()), inner

    def _after(self, module: torch.nn.Module, args: Any, out: Any) -> None:
        opened = self._open.pop() if self._open else None
        if opened is None:
            return  # left alone, or refused
        call, inner = opened
        inner.close()
        self._listener.end(call, out)
