"""Record what the routers of a model select while it trains: R2's record phase.

For any torch model of transformers or Megatron-Core in eager mode.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ...errors import UnsupportedError
from ..probe import Probe
from ..tape import Tape
from .calls import Call, ModelCalls
from .generation import recorded_generate
from .recomputation import in_backward
from .recorder import Recorder
from .sequences import Batch
from .wrappers import Inside, inside

__all__ = ["record"]


@contextmanager
def record(model: torch.nn.Module, *, graphs_only: bool = False) -> Iterator[Recorder]:
    """Record every forward of ``model`` in the block, training or not.

    With graphs_only only those with gradients enabled: what a loss is computed from, not what
    scores or generates.

    Ids leave the device without a synchronisation in the forward. What gradient checkpointing
    computes again in the backward is not recorded again. Inside ``replay`` the ids that it forced
    are recorded; blocks nest in any order. ``model`` may be in DDP, FSDP (1 or 2), Megatron-Core's
    wrappers or a peft model. Eager mode only. Raises UnsupportedError for a model whose routers
    cannot be found, that is compiled, or whose rank has a part of the tokens, and at the end of a
    forward in which a router did not run.
    """
    found = inside(model)
    _refuse_parts(found)
    recorder = Recorder(found.routers)
    probe = Probe(found.routers, again=lambda layer: None)
    calls = ModelCalls(found, probe, _Recording(recorder, graphs_only))
    with calls.stack:
        calls.start()
        if hasattr(found.model, "generate") and not graphs_only:
            calls.stack.enter_context(recorded_generate(found.model, recorder))
        yield recorder
    recorder.drain()


def _refuse_parts(found: Inside) -> None:
    """Raise UnsupportedError where a rank's routers see a part of the tokens."""
    if not found.s_major:
        return
    config: Any = found.routers[0].module.config
    for name, size in (
        ("context_parallel_size", getattr(config, "context_parallel_size", 1)),
        ("sequence_parallel", config.sequence_parallel and config.tensor_model_parallel_size),
    ):
        if size > 1:
            raise UnsupportedError(
                f"{name} over {size} ranks: a router sees a part of the tokens: record on a rank "
                "that has whole sequences"
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
