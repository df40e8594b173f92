"""Watch or steer what the routers of a live model select, without a change to its code.

A router's ``forward`` runs under a TorchFunctionMode, which sees the last top-k (or, for
sparsemixer, the two maxima) that it takes: scores with bias and group mask, and ids. To steer, the
ids of that call are replaced and its values are gathered from the same scores, without their group
mask, as Megatron-Core's RouterReplay does (0.16.1 ``moe_utils.py``); weights then follow from the
family's own code, with gradients. torch.compile and hub kernels go around this: leave them off.

Shape suffixes: T tokens, K top_k, E experts that the router chooses among, D hidden.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from types import TracebackType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from ..errors import UnsupportedError
from .routers import RouterAt
from .tape import Forced, LayerRows, Tape, read_selection, steer

__all__ = ["Probe"]

TOPK = (torch.topk, torch.Tensor.topk)
MAX = (torch.max, torch.Tensor.max)
FILL = (torch.masked_fill, torch.Tensor.masked_fill)


class Probe:
    """A context in which a model's routers write to, and are steered by, the tape in force.

    ``with probe, probe.on(tape): model(tokens)`` runs one sequence (any batch of rows counts as
    one). A tape holds for the thread that entered ``on``; without one the routers are left alone.
    Several probes may be on one model: each tape in force is given the ids that were used, and one
    at most may steer. On exit the model is as it was.

    ``again`` gives the tape of a router that runs inside a backward pass, where gradient
    checkpointing computes it once more: it is given the layer. A tape that was put in force inside
    that same backward pass comes first. Without ``again`` the tape in force holds everywhere.
    """

    def __init__(
        self, routers: Sequence[RouterAt], again: Callable[[int], Tape | None] | None = None
    ) -> None:
        self._routers = routers
        self._again = again
        self._held: ContextVar[tuple[Tape, int] | None] = ContextVar("tape", default=None)

    def __enter__(self) -> "Probe":
        for at in self._routers:
            if not isinstance(vars(at.module).get("forward"), _Watched | None):
                raise ValueError(f"{at.name}: its forward is already replaced")
        for at in self._routers:
            if "forward" not in vars(at.module):
                at.module.forward = _Watched(at, at.module.forward)
            vars(at.module)["forward"].probes.append((self, at.layer))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        for router in self._routers:
            watched = vars(router.module)["forward"]
            watched.probes.remove((self, router.layer))
            if not watched.probes:
                del router.module.forward

    @contextmanager
    def on(self, tape: Tape) -> Iterator[Tape]:
        """The tape is in force in this thread."""
        token = self._held.set((tape, torch._C._current_graph_task_id()))
        try:
            yield tape
        finally:
            self._held.reset(token)

    def tape(self, layer: int) -> Tape | None:
        """The tape of a router that runs now."""
        held, task = self._held.get(), torch._C._current_graph_task_id()
        if held is not None and (self._again is None or held[1] == task):
            return held[0]
        return None if self._again is None or task == -1 else self._again(layer)


class _Watched:
    """A router's forward with the probes that are on it."""

    def __init__(self, at: RouterAt, forward: Callable[..., Any]) -> None:
        self._at, self._forward = at, forward
        self._final: int | None = None  # which of its calls selects
        self.probes: list[tuple[Probe, int]] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        tapes = [(tape, layer) for probe, layer in self.probes if (tape := probe.tape(layer))]
        if not tapes:
            return self._forward(*args, **kwargs)
        before = [
            _asked_before(tape, layer, args[0] if args else kwargs["hidden_states"])
            if tape.input_rows or layer in tape.asked
            else (None, None)
            for tape, layer in tapes
        ]
        steering = [tape.forced[layer] for tape, layer in tapes if layer in tape.forced]
        if len(steering) > 1:
            raise ValueError(f"{self._at.name}: two replays at once on one model")
        if steering and self._final is None and self._at.selection == "topk":
            self._final = self._tried(args, kwargs)
        run = {"topk": self._by_topk, "argmax": self._by_argmax, "table": self._by_table}
        out, row = run[self._at.selection](
            lambda: self._forward(*args, **kwargs),
            steering[0] if steering else None,
            any(tape.want_margins for tape, _ in tapes),
        )
        for (tape, layer), (inputs_TD, gate_TK) in zip(tapes, before, strict=True):
            more = inputs_TD is not None or gate_TK is not None
            tape.rows[layer] = replace(row, inputs_TD=inputs_TD, gate_TK=gate_TK) if more else row
        return out

    def _tried(self, args: Any, kwargs: Any) -> int:
        """Which call selects, by a run on the first row where rows are all that it takes."""
        if args and all(part is None for part in (*args[1:], *kwargs.values())):
            args = args[0][:1], *args[1:]
        with torch.no_grad(), _Calls(TOPK) as calls:
            self._forward(*args, **kwargs)
        return _final(self._at, calls)

    def _by_topk(
        self, forward: Callable[[], Any], forced: Forced | None, margins: bool
    ) -> tuple[Any, LayerRows]:
        """The last top-k of K that the router takes selects; an earlier one is of its groups."""
        with _Calls(TOPK, self._final, forced) as calls:
            out = forward()
        if self._final is None:
            self._final = _final(self._at, calls)
        scores, live = calls.seen[self._final]
        groups = _groups(calls.seen[: self._final], scores) if margins else None
        return out, read_selection(scores, live, calls.used, groups=groups, margins=margins)

    def _by_argmax(
        self, forward: Callable[[], Any], forced: Forced | None, margins: bool
    ) -> tuple[Any, LayerRows]:
        """Each maximum gives one id; the first call has all the scores, the next mask the taken.

        Forced, the n-th maximum gives the n-th id of the row, while the threshold of sparsemixer
        stays that of the true maximum. Live ids are the top-k of the scores of the first call.
        """
        at = self._at
        with _Calls(MAX, -1, forced, at.top_k) as calls:
            out = forward()
        if len(calls.seen) != at.top_k:
            raise UnsupportedError(f"{at.name}: took {len(calls.seen)} maxima for {at.top_k} ids")
        scores = calls.seen[0][0]
        if forced is None:
            live = torch.cat([ids for _, ids in calls.seen], dim=-1)
        else:
            live = scores.topk(at.top_k, dim=-1).indices
        return out, read_selection(scores, live, calls.used, margins=margins)

    def _by_table(
        self, forward: Callable[[], Any], forced: Forced | None, margins: bool
    ) -> tuple[Any, LayerRows]:
        """The ids are a function of the token: nothing to force, no margin, no tie."""
        out = forward()
        ids_TK = out[2].reshape(-1, self._at.top_k)
        margin_T = torch.full(ids_TK.shape[:1], float("inf"), device=ids_TK.device)
        return out, LayerRows(ids_TK, None if forced is None else ids_TK, margin_T)


def _asked_before(
    tape: Tape, layer: int, hidden: torch.Tensor
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """What a tape wants of a router's input: its first rows, and what a gate makes of them."""
    rows_TD = hidden.detach().flatten(0, -2)
    return (
        rows_TD[: tape.input_rows].clone() if tape.input_rows else None,
        tape.asked[layer].read(rows_TD) if layer in tape.asked else None,
    )


class _Calls(TorchFunctionMode):
    """Calls of some functions in a router's forward: scores and ids; ``steered`` is replaced.

    steered is the number of the call that selects K ids at once, or -1 where each of the first
    top_k calls selects one.
    """

    def __init__(
        self,
        functions: tuple[object, ...],
        steered: int | None = None,
        forced: Forced | None = None,
        top_k: int = 0,
    ) -> None:
        super().__init__()
        self._functions = functions
        self._steered = steered
        self._forced = forced
        self._top_k = top_k
        self.seen: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.used: torch.Tensor | None = None
        self._masked: tuple[object, torch.Tensor] | None = None  # scores of kept groups, of all

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out: Any = func(*args, **(kwargs or {}))
        if func in FILL:
            self._masked = out, args[0]
        if func not in self._functions or isinstance(out, torch.Tensor):
            return out
        scores = args[0] if args else (kwargs or {})["input"]
        number = len(self.seen)
        self.seen.append((scores, out.indices))
        if self._forced is None:
            return out
        if self._steered == -1 and number < self._top_k:
            if self.used is None:
                live = scores.topk(self._top_k, dim=-1).indices
                self.used = steer(scores, live, self._forced)
            return type(out)((out.values, self.used[..., number : number + 1]))
        if self._steered == number:
            self.used = steer(scores, out.indices, self._forced)
            if self._masked is not None and scores is self._masked[0]:
                scores = self._masked[1]
            return type(out)((scores.gather(-1, self.used), self.used))
        return out


def _final(at: RouterAt, calls: _Calls) -> int:
    """The number of the call that selects."""
    found = [n for n, (_, ids) in enumerate(calls.seen) if ids.shape[-1] == at.top_k]
    if not found:
        taken = [tuple(ids.shape) for _, ids in calls.seen]
        raise UnsupportedError(f"{at.name}: takes no top-{at.top_k}: took {taken}")
    return found[-1]


def _groups(
    earlier: Sequence[tuple[torch.Tensor, torch.Tensor]], scores_TE: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Of the calls before the one that selects, the one that keeps some groups of each row.

    It has as many rows as scores_TE and fewer columns; the best experts of each group, from which
    group scores are made, are of more rows. None where no group is dropped.
    """
    for scores, ids in reversed(earlier):
        rows = scores.shape[:-1].numel()
        if rows == scores_TE.shape[:-1].numel() and (
            ids.shape[-1] < scores.shape[-1] < scores_TE.shape[-1]
        ):
            return scores, ids
    return None
