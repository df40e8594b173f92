"""Calls of a live model under a probe, each with a tape of its own."""

import inspect
import threading
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from ...errors import UnsupportedError
from ..probe import Probe
from ..tape import Tape
from .recomputation import next_node
from .sequences import Batch, batch_of
from .wrappers import Inside

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


class _Open(threading.local):
    """The calls that run in a thread, the outermost first: (graph task, the call and its tape)."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, tuple[Call, ExitStack] | None]] = []


class ModelCalls:
    """The calls of a model, from ``start`` until ``stack`` is closed.

    A call inside a call is a part of it, but for one in a backward pass of its own.
    """

    def __init__(self, found: Inside, probe: Probe, listener: Listener) -> None:
        self._found, self._probe, self._listener = found, probe, listener
        self._open = _Open()
        self.stack = ExitStack()

    def start(self) -> None:
        """Put the probe and the hooks on the model."""
        self.stack.enter_context(self._probe)
        for module in self._found.called:
            for hook in (
                module.register_forward_pre_hook(self._before, with_kwargs=True),
                module.register_forward_hook(self._after, always_call=True),
            ):
                self.stack.callback(hook.remove)

    def _before(self, module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        task, calls = torch._C._current_graph_task_id(), self._open.calls
        nested = any(other == task for other, _ in calls)
        calls.append((task, None))
        if nested:
            return
        names = _names(module, self._found.s_major) if args else ()
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        batch = batch_of(given, s_major=self._found.s_major)
        tape = self._listener.begin(batch)
        if tape is not None:
            inner = ExitStack()
            inner.enter_context(self._probe.on(tape))
            calls[-1] = task, (Call(batch, tape, next_node()), inner)

    def _after(self, module: torch.nn.Module, args: Any, out: Any) -> None:
        opened = self._open.calls.pop()[1] if self._open.calls else None
        if opened is None:
            return  # left alone, or refused
        call, inner = opened
        inner.close()
        if out is not None:
            self._check(call)
        self._listener.end(call, out)

    def _check(self, call: Call) -> None:
        """Raise UnsupportedError where a router did not run in a whole forward."""
        gone = [at for at in self._found.routers if at.layer not in call.tape.rows]
        if gone:
            more = f", nor those of {len(gone) - 1} other layers" if len(gone) > 1 else ""
            raise UnsupportedError(
                f"layer {gone[0].layer} ({gone[0].name}): its router did not run in this forward"
                f"{more}: a fused kernel, compiled code or a replaced block goes around it"
            )


def _names(module: torch.nn.Module, s_major: bool) -> tuple[str, ...]:
    """The positional arguments of a model's forward, by its own signature where it names them."""
    names = tuple(inspect.signature(type(module).forward).parameters)[1:]
    if "input_ids" in names:
        return names
    return (
        ("input_ids", "position_ids", "attention_mask")
        if s_major
        else ("input_ids", "attention_mask", "position_ids", "past_key_values")
    )
