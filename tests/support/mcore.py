"""Megatron-Core 0.16.1's own routers, built and run on the CPU.

Patched are only torch.cuda.current_device, the kernel of Transformer Engine, which is absent, and
the pipeline rank that Megatron would be told; nothing of routing, replay or layouts.
"""

import contextlib
import warnings
from types import SimpleNamespace
from unittest import mock

import numpy as np
import torch

__all__ = [
    "HIDDEN",
    "UNFUSED",
    "build",
    "config_of",
    "experts_of",
    "hidden",
    "on_cpu",
    "replay",
    "start_alone",
]

HIDDEN = 16
UNFUSED = {  # options of a model that runs on the CPU, the same each time
    "gradient_accumulation_fusion": False,
    "bias_dropout_fusion": False,
    "masked_softmax_fusion": False,
    "persist_layer_norm": False,
    "attention_dropout": 0.0,
    "hidden_dropout": 0.0,
    "moe_token_dispatcher_type": "allgather",
}


def start_alone():
    """Begin as the one rank of a run: a process group of one, one thread, seed 0."""
    from megatron.core import parallel_state

    torch.set_num_threads(1)
    torch.manual_seed(0)
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    parallel_state.initialize_model_parallel()


@contextlib.contextmanager
def on_cpu():
    """What is used of Megatron-Core; its registry of routers is empty before and after."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that Transformer Engine is absent
        from megatron.core import __version__, parallel_state
        from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_block_spec
        from megatron.core.transformer import TransformerConfig
        from megatron.core.transformer.moe import moe_utils
        from megatron.core.transformer.moe.moe_layer import MoELayer
        from megatron.core.transformer.moe.router import TopKRouter
        from megatron.core.transformer.moe.router_replay import RouterReplay, RouterReplayAction
        from megatron.core.transformer.transformer_layer import get_transformer_layer_offset
    RouterReplay.clear_global_router_replay_instances()
    with (
        mock.patch.object(torch.cuda, "current_device", return_value=torch.device("cpu")),
        mock.patch.object(moe_utils, "te_general_gemm", None, create=True),
        torch.compiler.set_stance("force_eager"),
    ):
        yield SimpleNamespace(
            version=__version__,
            state=parallel_state,
            Config=TransformerConfig,
            Router=TopKRouter,
            MoELayer=MoELayer,
            Replay=RouterReplay,
            Action=RouterReplayAction,
            specs=get_gpt_decoder_block_spec,
            offset=get_transformer_layer_offset,
        )
    RouterReplay.clear_global_router_replay_instances()


def config_of(core, num_layers=5, pp=1, vpp=1, layout=None, **options):
    """A Megatron config with 32 experts, top-4, and routing replay; layer 0 is dense."""
    options = {"moe_layer_freq": [0] + [1] * (num_layers - 1), **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of defaults that are deprecated
        return core.Config(
            num_layers=num_layers,
            hidden_size=HIDDEN,
            num_attention_heads=2,
            ffn_hidden_size=32,
            moe_ffn_hidden_size=32,
            num_moe_experts=32,
            moe_router_topk=4,
            add_bias_linear=False,
            moe_router_load_balancing_type="none",
            moe_enable_routing_replay=True,
            pipeline_model_parallel_size=pp,
            pipeline_dtype=torch.float32,
            virtual_pipeline_model_parallel_size=vpp if vpp > 1 else None,
            pipeline_model_parallel_layout=layout,
            use_cpu_initialization=True,
            **options,
        )


def build(core, config, pp_rank=0):
    """A stage's routers in the order Megatron makes them; layer_number is 1-based, as there."""
    core.Replay.clear_global_router_replay_instances()
    groups = SimpleNamespace(tp=None, cp=None, tp_cp=None, tp_dp_cp=None)
    vpp = config.virtual_pipeline_model_parallel_size
    known = {
        "get_pipeline_model_parallel_rank": lambda: pp_rank,
        "get_virtual_pipeline_model_parallel_world_size": lambda: vpp,
    }
    routers = []
    for v in range(vpp or 1):
        stage = {"pp_rank": pp_rank, "vp_stage": None if vpp is None else v}
        with mock.patch.multiple(core.state, **known):
            block = core.specs(config, use_transformer_engine=False, **stage)
            begin = core.offset(config, **stage)
        for number, spec in enumerate(block.layer_specs, begin + 1):
            if spec.submodules.mlp.module is core.MoELayer:
                routers.append(core.Router(config, groups))
                routers[-1].set_layer_number(number)
    return routers


def replay(core, tensors):
    """Give every router its tensor, and have the next forward replay it."""
    core.Replay.set_replay_data(list(tensors))
    core.Replay.set_global_router_replay_action(core.Action.REPLAY_FORWARD)


def hidden(rows, seed=0, batch=1):
    """Hidden states [S, B, H] as a decoder layer gives them to its router."""
    return torch.randn(rows // batch, batch, HIDDEN, generator=torch.Generator().manual_seed(seed))


def experts_of(routing_map):
    """The experts of each row of a routing map, ascending."""
    return [np.flatnonzero(row).tolist() for row in routing_map.numpy()]
