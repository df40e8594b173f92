"""Checkpoints of Megatron-Core 0.16.1 with what its routers were given and selected, on the CPU.

``python mcore_replay.py FOLDER`` writes, for each of VARIANTS, a checkpoint, the router inputs of a
forward of its GPTModel, and the ids in its routing maps; it is a program for the reason that
mcore_checkpoints.py gives. Patched is what that and mcore.py patch: nothing of routing or files.
"""

import argparse
import contextlib
import dataclasses
import sys
import warnings
from pathlib import Path
from unittest import mock

import torch
from safetensors.torch import save_file

from support.mcore import UNFUSED, on_cpu, start_alone
from support.mcore_checkpoints import EXPERTS, HIDDEN, config_for, gpt

__all__ = ["LENGTH", "SAMPLES", "VARIANTS"]

LENGTH, SAMPLES = 24, 3
SOFTMAX = {"moe_router_score_function": "softmax", "moe_router_enable_expert_bias": False}
GROUPS = {"moe_router_num_groups": 4, "moe_router_group_topk": 2}
EXACT = {"params_dtype": torch.float32, "bf16": False}
VARIANTS = {  # name: how it is saved, moe_layer_freq, options beside sigmoid + expert bias
    "post_softmax": ("common.pt", 1, SOFTMAX),
    "pre_softmax": ("common.pt", [0, 1, 1], {**SOFTMAX, "moe_router_pre_softmax": True}),
    "groups": (
        "common.pt",
        [0, 1, 1],
        {**GROUPS, "moe_router_topk_scaling_factor": 2.5, "moe_router_dtype": "fp64"},
    ),
    "linear_bias": ("common.pt", [0, 1, 1], {"add_bias_linear": True, **EXACT}),
    "common_state": ("common_state", [0, 1, 1], {"moe_router_dtype": "fp32"}),
    "torch_dcp": ("dcp", [0, 1, 1], GROUPS),
    "legacy": ("legacy", [0, 1, 1], {"moe_router_dtype": "fp32"}),
}


def arguments(config):
    """What of Megatron's argument list is about routing: its names are those of its config."""
    routing = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if field.name.startswith("moe_")
    }
    return argparse.Namespace(
        num_layers=config.num_layers,
        num_experts=config.num_moe_experts,
        add_bias_linear=config.add_bias_linear,
        params_dtype=config.params_dtype,
        **routing,
    )


def save(place, how, model):
    """A checkpoint of a model and its arguments, in one of Megatron's forms."""
    from megatron.core import dist_checkpointing
    from megatron.core.dist_checkpointing.mapping import ShardedObject

    place.mkdir(parents=True)
    common = {"args": arguments(model.config), "iteration": 5}
    if how == "common.pt":
        dist_checkpointing.save({"model": model.sharded_state_dict(), **common}, place)
    elif how == "common_state":  # as 0.19 and later call the same writer
        held = ShardedObject("common_state", common, (1,), (0,))
        dist_checkpointing.save({"model": model.sharded_state_dict(), "common": held}, place)
        (place / "common.pt").unlink()
    elif how == "dcp":
        import torch.distributed.checkpoint as dcp

        weights = {k: v for k, v in model.state_dict().items() if isinstance(v, torch.Tensor)}
        state = {"model": {"module": weights}, **common}
        dcp.save(state, storage_writer=dcp.FileSystemWriter(place), no_dist=True)
    else:
        state = {"model": model.state_dict_for_save_checkpoint(), **common}
        (place / "mp_rank_00").mkdir()
        torch.save(state, place / "mp_rank_00" / "model_optim_rng.pt")


def run(model, folder):
    """Forward random tokens; write what routers were given, and what they selected."""
    inputs, ids = {}, {}

    def hook(layer):
        def keep(_module, args, output):
            rows = SAMPLES * LENGTH  # given are [S, B, D]; rows of the map are s-major
            inputs[f"layer.{layer}"] = args[0].detach().transpose(0, 1).reshape(rows, -1)
            chosen = output[1].view(LENGTH, SAMPLES, -1).transpose(0, 1).reshape(rows, -1)
            ids[str(layer)] = chosen.nonzero()[:, 1].view(rows, -1)

        return keep

    for number, layer in enumerate(model.decoder.layers):
        if hasattr(layer.mlp, "router"):
            layer.mlp.router.register_forward_hook(hook(number))
    tokens = torch.randint(0, 64, (SAMPLES, LENGTH))
    mask = torch.triu(torch.ones(LENGTH, LENGTH, dtype=torch.bool), 1)[None, None]
    with torch.no_grad():
        model(tokens, torch.arange(LENGTH).expand(SAMPLES, LENGTH), mask)
    ends = torch.arange(SAMPLES + 1) * LENGTH
    shared = {name: states.contiguous() for name, states in inputs.items()}
    save_file({**shared, "cu_seqlens": ends}, folder / "inputs.safetensors")
    torch.save(ids, folder / "ids.pt")


def main(folder):
    """Every variant."""
    start_alone()
    for name, (how, freq, options) in VARIANTS.items():
        config = config_for(3, freq, **UNFUSED, **options)
        model = gpt(config).to(config.params_dtype).eval()  # as Float16Module does
        for layer in model.decoder.layers:
            if router := getattr(layer.mlp, "router", None):
                router.weight.data = torch.randn(EXPERTS, HIDDEN).mul(0.3).to(config.params_dtype)
                if router.expert_bias is not None:  # float32, whatever the weights are
                    router.expert_bias = torch.randn(EXPERTS) * 0.2
                if router.bias is not None:
                    router.bias.data = torch.randn(EXPERTS)
        save(folder / name / "iter_0000005", how, model)
        run(model, folder / name)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    with on_cpu():
        from megatron.core.tensor_parallel.random import CudaRNGStatesTracker

        with (
            mock.patch.object(CudaRNGStatesTracker, "fork", return_value=contextlib.nullcontext()),
            mock.patch.object(torch.cuda, "synchronize"),
            mock.patch.object(torch.Tensor, "cuda", lambda self, *_, **__: self),
        ):
            main(Path(sys.argv[1]))
