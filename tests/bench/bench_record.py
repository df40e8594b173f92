"""What recording the routes of a training step costs.

    python tests/bench/bench_record.py [--runs R] [--device cpu|cuda]

A random Qwen3-MoE, forward, loss and backward of one batch, with and without ``routectl.record``,
in turns. Target: at most 2 % more time.
"""

import argparse
import statistics
import time

import torch
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from routectl.forward.live import record

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


def main() -> None:
    """Print medians and the overhead."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=11)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=256)
    options = parser.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**SIZES)).to(options.device).train()
    ids = torch.randint(0, 1024, (options.batch, options.tokens), device=options.device)

    def step() -> float:
        begin = time.perf_counter()
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        model.zero_grad()
        if options.device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter() - begin

    step()
    times: dict[str, list[float]] = {"without": [], "with": []}
    for _ in range(options.runs):
        times["without"].append(step())
        with record(model):
            times["with"].append(step())
    middle = {name: statistics.median(spent) for name, spent in times.items()}
    pairs = [b / a - 1 for a, b in zip(times["without"], times["with"], strict=True)]
    shape = f"{options.batch} x {options.tokens} tokens, 8 layers, top-8 of 64, {options.device}"
    print(f"{shape}; medians of {options.runs} pairs")
    for name, spent in middle.items():
        print(f"  {name:<8}{spent:8.4f} s a step")
    print(f"  overhead of medians {middle['with'] / middle['without'] - 1:+.2%}")
    print(f"  median overhead of a pair {statistics.median(pairs):+.2%} (target 2 %)")


if __name__ == "__main__":
    main()
