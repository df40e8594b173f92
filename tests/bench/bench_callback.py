"""What RoutesCallback costs a step of transformers' Trainer, in the thread that trains.

    python tests/bench/bench_callback.py [--steps S] [--rounds R]

A random Qwen3-MoE (8 layers, 64 experts, top-8), one sequence a step. Trainers with and without the
callback take turns; what is compared is processor time of the training thread, so that a thread
that compares on another core is in no figure but its own. Torch runs in one thread.
"""

import argparse
import statistics
import tempfile
import time
from typing import Any

import torch
from bench_record import SIZES
from transformers import (
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from routectl.forward.live import record
from routectl.trainers.transformers import RoutesCallback


class Watch(TrainerCallback):
    """Processor seconds of this thread, step by step, and those of the callback watched."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.ends: list[float] = []
        self._begin = 0.0

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """A step begins when the last has ended, callbacks and all."""
        now = time.thread_time()
        if self._begin:
            self.steps.append(now - self._begin)
        self._begin = now


class Timed(RoutesCallback):
    """The callback, with the processor time of its part in the training thread."""

    watch: Watch

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """As it is."""
        begin = time.thread_time()
        super().on_step_end(*args, **kwargs)
        self.watch.ends.append(time.thread_time() - begin)


def main() -> None:
    """Print medians, and the overhead of pairs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=256)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**SIZES)).train()
    rows = [torch.randint(0, 1024, (options.tokens,)) for _ in range(options.steps)]
    with record(model) as recorder, torch.no_grad():
        for ids in rows:
            model(input_ids=ids[None])
    rollout = recorder.dump()
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            folder, per_device_train_batch_size=1, max_steps=options.steps, use_cpu=True,
            learning_rate=0.0, report_to=[], save_strategy="no", logging_steps=1000,
            disable_tqdm=True, bf16=False, optim="sgd",
        )  # fmt: skip

        def run(with_routes: bool) -> Watch:
            data = [{"input_ids": ids, "labels": ids} for ids in rows]
            watch = Watch()
            trainer = Trainer(model=model, args=settings, train_dataset=data, callbacks=[watch])
            if with_routes:
                routes = Timed(trainer, rollout)
                routes.watch = watch
                trainer.add_callback(routes)
            trainer.train()
            return watch

        run(True)
        found = [(run(False), run(True)) for _ in range(options.rounds)]
    without, with_it = (
        [statistics.median(w.steps) for w in side] for side in zip(*found, strict=True)
    )
    ends = statistics.median(s for _, w in found for s in w.ends)
    pairs = sorted(b / a - 1 for a, b in zip(without, with_it, strict=True))
    print(f"step without       {statistics.median(without) * 1e3:8.1f} ms of the training thread")
    print(f"step with          {statistics.median(with_it) * 1e3:8.1f} ms")
    print(f"of that on_step_end {ends * 1e3:7.2f} ms")
    print(
        f"overhead           {statistics.median(pairs):+8.1%} ({pairs[0]:+.1%} to {pairs[-1]:+.1%})"
    )


if __name__ == "__main__":
    main()
