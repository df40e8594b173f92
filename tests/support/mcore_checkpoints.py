"""Checkpoints written by Megatron-Core 0.16.1 itself, on the CPU.

``python -m support.mcore_checkpoints FOLDER``, run in tests/, writes them; it is a program because
the writer of dist_checkpointing starts processes that import it again. Patched are the calls of
CUDA, and the pipeline rank that Megatron would be told; nothing of names, layouts or files.
"""

import argparse
import sys
import warnings
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from support.mcore import start_alone

__all__ = ["BIG", "DENSE_FIRST", "EXPERTS", "HIDDEN", "LEGACY", "TOP_K"]

HIDDEN, EXPERTS, TOP_K = 64, 16, 4
DENSE_FIRST = [0, 1, 1]
BIG = {"hidden_size": 256, "moe_ffn_hidden_size": 512, "num_moe_experts": 32}
LEGACY = {  # name: pp, vpp, options of the pipeline, moe_layer_freq of 8 layers
    "pp1": (1, 1, {}, [0, 1] * 4),
    "pp2": (2, 1, {"num_layers_in_first_pipeline_stage": 3}, [0, 0, 1, 1, 1, 0, 1, 1]),
    "vpp2": (2, 2, {}, [0, 1, 1, 0, 1, 1, 1, 1]),
}
OWN_NAMES = {"num_layers_in_first_pipeline_stage": "decoder_first_pipeline_num_layers"}


def config_for(layers, freq, **options):
    """A Megatron config of a bf16 model with sigmoid routers and float32 expert biases."""
    from megatron.core.transformer import TransformerConfig

    given = {
        "num_layers": layers,
        "hidden_size": HIDDEN,
        "num_attention_heads": 2,
        "ffn_hidden_size": 128,
        "moe_ffn_hidden_size": 32,
        "num_moe_experts": EXPERTS,
        "moe_router_topk": TOP_K,
        "add_bias_linear": False,
        "moe_layer_freq": freq,
        "moe_router_load_balancing_type": "none",
        "moe_router_score_function": "sigmoid",
        "moe_router_enable_expert_bias": True,
        "use_cpu_initialization": True,
        "params_dtype": torch.bfloat16,
        "bf16": True,
    }
    return TransformerConfig(**{**given, **options})


def gpt(config, pp_rank=0, **stage):
    """A GPTModel, or a chunk of one, with random expert biases."""
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.gpt_layer_specs import (
        get_gpt_decoder_block_spec,
        get_gpt_mtp_block_spec,
    )

    spec = get_gpt_decoder_block_spec(
        config, use_transformer_engine=False, pp_rank=pp_rank, vp_stage=stage.get("vp_stage")
    )
    mtp = None
    if config.mtp_num_layers:
        mtp = get_gpt_mtp_block_spec(config, spec, use_transformer_engine=False)
    model = GPTModel(
        config=config,
        transformer_layer_spec=spec,
        mtp_block_spec=mtp,
        vocab_size=64,
        max_sequence_length=32,
        **stage,
    )
    for name, tensor in model.named_buffers():
        if name.endswith("expert_bias"):
            tensor.copy_(torch.randn(tensor.shape))
    return model


def routers(model, pp_rank=0):
    """The decoder's routers: their 0-based layer, by Megatron's own offset, and their tensors."""
    from megatron.core.transformer.transformer_layer import get_transformer_layer_offset

    truth = {}
    offset = get_transformer_layer_offset(model.config, vp_stage=model.vp_stage, pp_rank=pp_rank)
    for number, layer in enumerate(model.decoder.layers, offset):
        router = getattr(layer.mlp, "router", None)
        if router is not None:
            truth[f"{number}.weight"] = router.weight.detach().clone()
            truth[f"{number}.expert_bias"] = router.expert_bias.clone()
    return truth


def save_dist(folder, model, iteration=7):
    """A torch_dist checkpoint with Megatron's tracker file."""
    from megatron.core import dist_checkpointing

    place = folder / f"iter_{iteration:07d}"
    place.mkdir(parents=True)
    args = argparse.Namespace(
        num_layers=model.config.num_layers, moe_router_topk=TOP_K, params_dtype=torch.bfloat16
    )
    state = {"model": model.sharded_state_dict(), "iteration": iteration, "args": args}
    dist_checkpointing.save(state, place)
    (folder / "latest_checkpointed_iteration.txt").write_text(f"{iteration}\n")
    torch.save(routers(model), folder / "truth.pt")


def save_dcp(folder, model):
    """What fsdp_dtensor and torch_dcp write: a nested state dict through torch's own DCP."""
    import torch.distributed.checkpoint as dcp

    place = folder / "iter_0000009"
    weights = {k: v for k, v in model.state_dict().items() if isinstance(v, torch.Tensor)}
    moments = {k: torch.zeros_like(v) for k, v in weights.items()}
    state = {"model": {"module": weights}, "optimizer": {"state": {"exp_avg": moments}}}
    dcp.save(state, storage_writer=dcp.FileSystemWriter(place), no_dist=True)
    torch.save(routers(model), folder / "truth.pt")


def save_legacy(folder, pp, vpp, options, freq):
    """mp_rank_* files as generate_state_dict makes them, of stages built one by one."""
    from megatron.core import parallel_state
    from megatron.core.transformer.enums import AttnBackend

    config = config_for(
        len(freq),
        freq,
        pipeline_model_parallel_size=pp,
        pipeline_dtype=torch.bfloat16,
        virtual_pipeline_model_parallel_size=vpp if vpp > 1 else None,
        **options,
    )
    known = {OWN_NAMES.get(k, k): v for k, v in options.items()}
    args = argparse.Namespace(
        num_layers=len(freq),
        pipeline_model_parallel_size=pp,
        moe_router_topk=TOP_K,
        virtual_pipeline_model_parallel_size=vpp if vpp > 1 else None,
        params_dtype=torch.bfloat16,
        attention_backend=AttnBackend.auto,
        betas=(0.9, 0.95),
        **known,
    )
    truth = {}
    for pp_rank in range(pp):
        state = {"args": args, "checkpoint_version": 3.0, "iteration": 12}
        for v in range(vpp):
            first, last = pp_rank == v == 0, pp_rank == pp - 1 and v == vpp - 1
            stage = {"pre_process": first, "post_process": last}
            with mock.patch.multiple(
                parallel_state,
                get_pipeline_model_parallel_rank=lambda rank=pp_rank: rank,
                get_pipeline_model_parallel_world_size=lambda: pp,
                get_virtual_pipeline_model_parallel_world_size=lambda: vpp if vpp > 1 else None,
            ):
                chunk = gpt(config, pp_rank, vp_stage=v if vpp > 1 else None, **stage)
                truth |= routers(chunk, pp_rank)
            state[f"model{v}" if vpp > 1 else "model"] = chunk.state_dict_for_save_checkpoint()
        state["rng_state"] = [
            {
                "np_rng_state": np.random.RandomState(0).get_state(),
                "torch_rng_state": torch.get_rng_state(),
            }
        ]
        rank = "mp_rank_00" + (f"_{pp_rank:03d}" if pp > 1 else "")
        place = folder / "iter_0000012" / rank
        place.mkdir(parents=True)
        torch.save(state, place / "model_optim_rng.pt")
    (folder / "latest_checkpointed_iteration.txt").write_text("12")
    torch.save(truth, folder / "truth.pt")


def main(folder):
    """Every checkpoint of the tests."""
    start_alone()
    save_dist(folder / "stacked", gpt(config_for(3, 1)))
    save_dist(folder / "dense_first", gpt(config_for(3, DENSE_FIRST)))
    save_dist(folder / "mtp", gpt(config_for(3, DENSE_FIRST, mtp_num_layers=1)))
    save_dist(folder / "big", gpt(config_for(4, 1, **BIG)))
    save_dcp(folder / "dcp", gpt(config_for(3, DENSE_FIRST)))
    for name, rest in LEGACY.items():
        save_legacy(folder / "legacy" / name, *rest)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    with (
        mock.patch.object(torch.cuda, "current_device", return_value=torch.device("cpu")),
        mock.patch.object(torch.cuda, "synchronize"),
        mock.patch.object(torch.Tensor, "cuda", lambda self, *_, **__: self),
    ):
        main(Path(sys.argv[1]))
