"""Time of router-input replay against the product of the same hidden states and weights alone.

    python tests/bench/bench_router_inputs.py [--tokens 8192] [--runs 7] [--threads 1]

The product is done in the dtype of the recipe's logits, converting what is stored, as the router
does; both go over the same chunks and are run in turns. Ratios of medians.
"""

import argparse
import statistics
import time

import torch

from routectl.ops.predict.replay_inputs import CHUNK_BYTES, LayerRouter, replay_inputs
from routectl.routers.from_config import recipe_from_config
from routectl.routers.recipe import Recipe

SHAPES = (  # name, config, hidden size
    (
        "Qwen3-30B-A3B",
        {
            "model_type": "qwen3_moe",
            "num_hidden_layers": 4,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "norm_topk_prob": True,
        },
        2048,
    ),
    (
        "DeepSeek-V3",
        {
            "model_type": "deepseek_v3",
            "num_hidden_layers": 5,
            "first_k_dense_replace": 3,
            "n_routed_experts": 256,
            "num_experts_per_tok": 8,
        },
        7168,
    ),
    (
        "gpt-oss-120b",
        {
            "model_type": "gpt_oss",
            "num_hidden_layers": 4,
            "num_local_experts": 128,
            "num_experts_per_tok": 4,
        },
        2880,
    ),
)


def product(recipe: Recipe, router: LayerRouter, states: torch.Tensor) -> None:
    """The logits' product alone, in the chunks that replay uses."""
    dtype = torch.float32 if recipe.logits_dtype == "float32" else router.weight_ED.dtype
    weight = router.weight_ED.to(dtype).t()
    chunk = max(1, CHUNK_BYTES // (4 * max(states.shape[1], 8 * recipe.columns)))
    for begin in range(0, states.shape[0], chunk):
        torch.mm(states[begin : begin + chunk].to(dtype), weight)


def timed(function) -> float:
    """Seconds of one call."""
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def main() -> None:
    """Print a line a shape and dtype."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print("model          dtype     product s  replay s  ratio  tokens/s per layer")
    for name, config, size in SHAPES:
        recipe = recipe_from_config(config, name)
        for dtype in (torch.bfloat16, torch.float32):
            generator = torch.Generator().manual_seed(0)
            states = torch.randn(args.tokens, size, generator=generator).to(dtype)
            weight = torch.randn(recipe.columns, size, generator=generator) * size**-0.5 * 2
            bias = torch.randn(recipe.columns, generator=generator) * 0.1
            router = LayerRouter(
                weight.to(dtype),
                bias.to(dtype) if recipe.linear_bias else None,
                bias if recipe.expert_bias else None,
            )
            pairs = [
                (
                    timed(lambda r=recipe, w=router, s=states: product(r, w, s)),
                    timed(lambda r=recipe, w=router, s=states: replay_inputs(r, {0: w}, {0: s})),
                )
                for _ in range(args.runs + 1)
            ][1:]
            base, ours = (statistics.median(column) for column in zip(*pairs, strict=True))
            ratio = statistics.median(ours / base for base, ours in pairs)
            print(
                f"{name:14} {str(dtype)[6:]:9} {base:9.4f} {ours:9.4f} {ratio:6.2f} "
                f"{args.tokens / ours:12,.0f}"
            )


if __name__ == "__main__":
    main()
