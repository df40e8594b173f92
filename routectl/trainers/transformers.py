"""transformers' Trainer and TRL's: a step's routes beside those of the rollout it trains on."""

import copy
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from ..dump import Dump, DumpMeta, Sample, key_of
from ..errors import MismatchError
from ..forward.live import Recorder, record
from ..model import facts_from_config
from ..ops.diff.diff import DiffOptions, DiffResult, diff_as
from ..reports.ci.scalars import metrics

if TYPE_CHECKING:
    from ..keys import SampleKey
    from ..model import ModelFacts

__all__ = ["RoutesCallback"]

_WAITING = 4  # comparisons under way; one more waits for the oldest
_KEPT = (
    *("mismatch", "overlap", "token_mismatch", "coverage", "unmatched"),
    *("rows", "rows_mismatched", "rows_missing"),
)


class RoutesCallback(TrainerCallback):
    """Logs how far each step's routes are from the rollout's, as ``routectl/...`` scalars.

    ::

        routes = RoutesCallback(trainer, "rollout.parquet")
        trainer.add_callback(routes)

    rollout  a dump, the path of one, or samples with token ids and routes; where rollouts come as
             training goes on, give each batch to ``rollout`` instead
    every    compare each so many steps
    tokens   all, prompt, or response
    layers   whether to log the mismatch of each layer beside that of the worst

    What is compared are the forwards that build a graph, those of the loss: old and reference
    log-probs and evaluation are left out. Sequences are matched by all of their token ids. Ids
    leave the device without a synchronisation, and a thread compares; a step's figures are logged
    at the end of a later one, under the step that they are of, and the last at the end of the
    epoch. Only the first process records: its figures are those of its own sequences. Raises
    MismatchError for rollouts without token ids, and at the end of a step when no sequence was ever
    in a rollout; UnsupportedError, as training begins, for a model whose routers cannot be found.
    Scalars: docs/metrics.md.
    """

    def __init__(
        self,
        trainer: Any,
        rollout: "Dump | str | Path | Iterable[Sample] | None" = None,
        *,
        every: int = 1,
        tokens: str = "all",
        layers: bool = False,
    ) -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}")
        self._trainer, self._every, self._layers = trainer, every, layers
        self._options = DiffOptions("tokens", tokens, None, 0)
        self._rollout: _Rollout | None = None
        self._recorder: Recorder | None = None
        self._stack = ExitStack()
        self._threads: ThreadPoolExecutor | None = None
        self._under_way: deque[tuple[int, Future[DiffResult | int]]] = deque()
        self._matched = False
        if rollout is not None:
            self.rollout(rollout)

    def rollout(self, source: "Dump | str | Path | Iterable[Sample]") -> None:
        """What the next steps train on: a dump, the path of one, or samples.

        Takes the place of what was there before. Raises MismatchError for samples without token
        ids, FormatError for what cannot be read, and TypeError for what are no samples.
        """
        facts = facts_from_config(self._trainer.model.config.to_dict(), "the trainer's model")
        self._rollout = _Rollout(_opened(source, facts))

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
    ) -> None:
        """Begin to record, in the first process."""
        self._close()
        self._matched = False
        if state.is_world_process_zero:
            self._threads = ThreadPoolExecutor(1, "routectl")
            self._stack.callback(self._threads.shutdown)
            self._recorder = self._stack.enter_context(record(model, graphs_only=True))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Compare what the step recorded, beside training; log what earlier steps came to."""
        if self._recorder is None or self._threads is None:
            return
        taken = self._recorder.detach()
        if state.global_step % self._every == 0:
            if self._rollout is None:
                self._close()
                raise MismatchError(
                    "no rollout was given: RoutesCallback(trainer, rollout), or "
                    "routes.rollout(samples) before the step ends"
                )
            found = self._threads.submit(_compared, self._rollout, taken, self._options)
            self._under_way.append((state.global_step, found))
        self._tell(state, wait=False)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Wait for every comparison and log it, while the loggers are open."""
        self._tell(state, wait=True)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop to record; what is left is logged."""
        self._tell(state, wait=True)
        self._close()

    def _close(self) -> None:
        """Let go of the model and of the thread."""
        self._recorder = self._threads = None
        self._under_way.clear()
        self._stack.close()

    def _tell(self, state: Any, *, wait: bool) -> None:
        """Log the comparisons that are done, and with ``wait`` those that are not.

        The trainer goes on to nothing when one fails, so the model is let go of then.
        """
        waiting = self._under_way
        try:
            while waiting and (wait or len(waiting) > _WAITING or waiting[0][1].done()):
                self._log(*waiting.popleft(), state)
        except BaseException:
            self._close()
            raise

    def _log(self, step: int, found: "Future[DiffResult | int]", state: Any) -> None:
        """One step's scalars to the loggers and to the history, under that step."""
        result = found.result()
        if isinstance(result, int):
            if not self._matched:
                raise MismatchError(
                    f"step {step}: none of its {result} sequences has the tokens of a rollout: "
                    "is it the rollout that the step trains on, cut where the trainer cuts?"
                )
            scalars = {"routectl/tokens": 0.0, "routectl/unmatched": float(result)}
        else:
            self._matched = True
            scalars = _scalars(result, layers=self._layers)
        trainer = self._trainer
        told = copy.copy(state)
        told.global_step = step
        trainer.state.log_history.append({**scalars, "step": step})
        trainer.callback_handler.on_log(trainer.args, told, trainer.control, dict(scalars))


def _scalars(result: DiffResult, *, layers: bool) -> dict[str, float]:
    """What is logged of a comparison, by name."""
    found = metrics(result)
    scalars = {f"routectl/{n}": found[f"routectl/{n}"] for n in _KEPT if f"routectl/{n}" in found}
    each = {n: rate for n, rate in found.items() if n.startswith("routectl/mismatch/layer_")}
    scalars["routectl/tokens"] = float(result.num_tokens)
    if each:
        scalars["routectl/mismatch/worst_layer"] = max(each.values())
    return scalars | each if layers else scalars


def _opened(source: "Dump | str | Path | Iterable[Sample]", facts: "ModelFacts") -> Dump:
    """A dump of what a user calls rollouts."""
    if isinstance(source, Dump):
        return source
    if isinstance(source, str | Path):
        from ..jobs.library.opening import open_dump

        return open_dump(source, model=facts)
    samples = list(source)
    for place, one in enumerate(samples):
        if not isinstance(one, Sample) or one.routes is None:
            raise TypeError(
                f"rollout[{place}]: got {type(one).__name__}, expected a Sample with routes"
            )
    layers = next((s.routes.layers_L for s in samples if s.routes is not None), facts.layers)
    sizes = (layers, facts.num_experts, facts.top_k)
    return _dump(DumpMeta("rollout", "memory", *sizes, facts_source=facts.source), samples)


def _dump(meta: DumpMeta, samples: Sequence[Sample]) -> Dump:
    """Samples as a dump."""
    keys = [key_of(s.sample_id, s.prompt_ids, s.response_ids) for s in samples]
    return Dump(meta, keys, samples.__getitem__)


class _Rollout:
    """Rollouts by their tokens."""

    def __init__(self, dump: Dump) -> None:
        self.dump = dump
        self._places: dict[bytes, list[int]] = {}
        for place, key in enumerate(dump.keys):
            if key.tokens is None:
                raise MismatchError(
                    f"{dump.meta.path}: sample {place} has no token ids: a step's sequences are "
                    "matched to rollouts by their tokens"
                )
            self._places.setdefault(key.tokens, []).append(place)

    def partners(self, keys: "Sequence[SampleKey]") -> list[int | None]:
        """The place of each sequence's rollout: of several with the same tokens, in turn."""
        seen: dict[bytes, int] = {}
        found: list[int | None] = []
        for key in keys:
            tokens = key.tokens or b""
            places = self._places.get(tokens)
            found.append(None if places is None else places[seen.get(tokens, 0) % len(places)])
            seen[tokens] = seen.get(tokens, 0) + 1
        return found


def _compared(rollout: _Rollout, taken: Recorder, options: DiffOptions) -> DiffResult | int:
    """A step's sequences beside their rollouts; how many these are when none has one."""
    recorded = taken.dump()
    partners = rollout.partners(recorded.keys)
    old = [rollout.dump[place] for place in partners if place is not None]
    if not old:
        return len(partners)
    return diff_as(_dump(rollout.dump.meta, old), recorded, options)
