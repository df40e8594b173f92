"""What record and replay cost a training step.

    python tests/bench/bench_record.py [cost] [steps] [--full] [--pairs N] [--device cpu|cuda]

``cost``: processor microseconds a layer and a token that a block adds to forward, loss and
backward of a small random Qwen3-MoE, for 64 and 128 experts (top-8), 2 to 16 layers and 128 to
8,192 tokens, plain and gradient-checkpointed. ``steps``: the share of a step of over half a second.
Each figure is a median over pairs of a step without and a step with the block, in turns, the order
changing from pair to pair; the interval is the 95 % one of that median, by order statistics. A
compiled model is refused, which is said. Target: the upper end at most 2 % of a step over 0.5 s.
On the CPU it is processor time that is compared, which a busy machine moves least. Where two equal
steps differ by a tenth, whole steps cannot show 2 %: ``steps`` gives ``clocked`` too, the time in
the routers' calls and in entering and leaving the block, less that in the routers' calls of the
step beside it, in the same pairs. The backward of the routers is in the whole steps alone.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext

import torch
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

import routectl

SIZES = {
    "vocab_size": 1024,
    "hidden_size": 512,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "moe_intermediate_size": 256,
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "intermediate_size": 256,
}
SMALL = {
    **SIZES,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "moe_intermediate_size": 16,
    "vocab_size": 64,
}
GRID = (  # experts, layers, tokens, checkpointed
    *((64, 2, 128, False), (64, 16, 128, False), (64, 16, 128, True)),
    *((64, 4, 1024, False), (128, 4, 1024, False), (128, 4, 1024, True)),
    (64, 2, 8192, False),
)
FULL = (*GRID, (128, 2, 128, False), (128, 16, 128, False), (128, 16, 128, True))
FULL = (*FULL, (128, 2, 8192, False), (128, 2, 8192, True), (128, 16, 8192, False))
STEPS = ((64, 4, 256, False), (64, 4, 256, True))
BLOCKS = ("record", "replay", "replay, proven")


def model_of(sizes: dict, experts: int, layers: int, checkpointed: bool, device: str):
    """A random model in training."""
    torch.manual_seed(0)
    config = Qwen3MoeConfig(**{**sizes, "num_experts": experts, "num_hidden_layers": layers})
    model = Qwen3MoeForCausalLM(config).to(device).train()
    if checkpointed:
        named = "activation_checkpointing_enable", "gradient_checkpointing_enable"
        enable = next(name for name in named if hasattr(model, name))  # before 5.23
        getattr(model, enable)({"use_reentrant": False})
        model.enable_input_require_grads()
    return model


def stepper(model, tokens: int, device: str) -> Callable[[], None]:
    """Forward, loss and backward of one batch of sequences of 128 tokens, or of fewer."""
    width = min(tokens, 128)
    ids = torch.randint(0, model.config.vocab_size, (tokens // width, width), device=device)

    def step() -> None:
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        model.zero_grad()

    return step


def seconds(call: Callable[[], None], device: str) -> float:
    """Processor seconds of a call on the CPU, else seconds."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    begin = clock()
    call()
    if device != "cpu":
        torch.cuda.synchronize()
    return clock() - begin


def interval(values: list[float]) -> tuple[float, float, float]:
    """The median and its 95 % interval by order statistics."""
    ordered, count = sorted(values), len(values)
    reach = 0.98 * math.sqrt(count)
    low = max(math.floor(count / 2 - reach), 0)
    high = min(math.ceil(count / 2 + reach), count - 1)
    return statistics.median(ordered), ordered[low], ordered[high]


class RouterClock:
    """Seconds in the calls of a model's routers, with all that a block has put into them."""

    def __init__(self, model, device: str):
        self.spent = 0.0
        router = type(model.model.layers[0].mlp.gate)

        def clocked(module, *given, **named):
            done = []
            self.spent += seconds(
                lambda: done.append(torch.nn.Module.__call__(module, *given, **named)), device
            )
            return done[0]

        router.__call__ = clocked


def measured(shape: tuple, sizes: dict, names: tuple[str, ...], options) -> tuple[float, dict]:
    """The median step without a block, and by block the pairs' (without, with).

    Each of a pair is the seconds of a step in its block, and of them those in the routers' calls
    and in entering and leaving the block.
    """
    experts, layers, tokens, checkpointed = shape
    model = model_of(sizes, experts, layers, checkpointed, options.device)
    step = stepper(model, tokens, options.device)
    with routectl.record(model) as recorder:
        step()
    routes = recorder.routes()
    blocks = {
        "record": lambda: routectl.record(model),
        "replay": lambda: routectl.replay(model, routes),
        "replay, proven": lambda: routectl.replay(model, routes, prove=True),
    }

    clock = RouterClock(model, options.device)

    def under(block: Callable) -> tuple[float, float]:
        clock.spent, opened = 0.0, block()
        around = seconds(opened.__enter__, options.device)
        inside = seconds(step, options.device)
        around += seconds(lambda: opened.__exit__(None, None, None), options.device)
        return inside + around, clock.spent + around

    order = ["", *names]
    pairs: dict[str, list] = {name: [] for name in names}
    for number in range(options.pairs + 1):
        spent = {name: under(blocks.get(name, nullcontext)) for name in order}
        order = [*order[1:], order[0]] if number % 2 else order[::-1]
        for name in names if number else ():  # the first round is not counted
            pairs[name].append((spent[""], spent[name]))
    return statistics.median(plain[0] for plain, _ in pairs[names[0]]), pairs


def cost(options) -> None:
    """Microseconds a layer and a token."""
    print(f"microseconds a layer and a token, medians of {options.pairs} pairs [95 %]")
    print(f"{'experts':>7} {'layers':>6} {'tokens':>6} {'mode':<12} {'step':>8}  record, replay")
    for shape in FULL if options.full else GRID:
        experts, layers, tokens, checkpointed = shape
        plain, pairs = measured(shape, SMALL, BLOCKS[:2], options)
        cells = []
        for spent in pairs.values():
            scale = 1e6 / (layers * tokens)
            middle, low, high = interval([(b[0] - a[0]) * scale for a, b in spent])
            cells.append(f"{middle:6.2f} [{low:6.2f} {high:6.2f}]")
        mode = "checkpointed" if checkpointed else "plain"
        line = f"{experts:>7} {layers:>6} {tokens:>6} {mode:<12} {plain:7.3f} s"
        print(line, *cells, flush=True)
    try:
        with routectl.record(torch.compile(model_of(SMALL, 64, 2, False, options.device))):
            pass
    except routectl.UnsupportedError as refused:
        print(f"compiled: refused: {refused}")


def steps(options) -> None:
    """The share of steps of over half a second."""
    print(f"share of a step, medians of {options.pairs} pairs [95 %]; target: at most 2 %")
    for shape in STEPS:
        experts, layers, tokens, checkpointed = shape
        plain, pairs = measured(shape, SIZES, options.blocks, options)
        mode = ", checkpointed" if checkpointed else ""
        print(f"{tokens} tokens, {layers} layers, {experts} experts{mode}: {plain:.3f} s a step")
        for name, spent in pairs.items():
            for what, part in (("whole steps", 0), ("clocked", 1)):
                shares = [(b[part] - a[part]) / a[0] for a, b in spent]
                middle, low, high = interval(shares)
                print(f"  {name:<15}{what:<12}{middle:+7.2%} [{low:+.2%} {high:+.2%}]", flush=True)


def main() -> None:
    """Both parts, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help="cost, steps; both")
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--blocks", nargs="*", default=BLOCKS[:2], choices=BLOCKS)
    parser.add_argument("--full", action="store_true", help="more shapes: 20 minutes")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for part in (cost, steps):
        if not options.parts or part.__name__ in options.parts:
            part(options)


if __name__ == "__main__":
    main()
