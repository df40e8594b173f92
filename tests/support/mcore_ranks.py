"""GPTModels of Megatron-Core 0.16.1 on several ranks of this machine: processes, gloo, the CPU.

What stands in for what needs a GPU: ``CpuAttention`` for Transformer Engine's kernel of packed and
context parallel attention, ``CpuNorm`` for its norm, ``partitioned_indices`` for its function of
that name, and patches that move memory which Megatron asks CUDA for. Nothing of routers, replay,
layers, pipeline schedules or the split of sequences under TP + SP is replaced.
"""

import contextlib
import os
import signal
import tempfile
import traceback
import warnings
from datetime import timedelta
from pathlib import Path
from unittest import mock

import torch
import torch.distributed as dist

from support.mcore import UNFUSED, on_cpu

__all__ = ["CpuAttention", "build_chunks", "config_of_ranks", "megatron", "on_ranks", "topology"]

VOCAB, HIDDEN = 512, 16


def partitioned_indices(cu_seqlens, total, cp, rank):
    """Places of a CP rank's rows: Transformer Engine's thd_get_partitioned_indices, by its CUDA."""
    ends = [end // cp for end in cu_seqlens.tolist()]
    places = []
    for token in range(total // cp):
        seq = max(i for i, end in enumerate(ends[:-1]) if end <= token)
        half = (ends[seq + 1] - ends[seq]) // 2
        offset = token - ends[seq]
        piece = rank if offset < half else 2 * (cp - 1) - rank
        places.append(offset + ends[seq] * cp + half * piece)
    return torch.tensor(places)


class _Gathered(torch.autograd.Function):
    """What all ranks of a group have, end to end; gradients of all go back to whose it is."""

    @staticmethod
    def forward(ctx, mine, group):
        ctx.group, ctx.rows = group, len(mine)
        parts = [torch.empty_like(mine) for _ in range(group.size())]
        dist.all_gather(parts, mine.contiguous(), group=group)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient):
        gradient = gradient.contiguous()
        dist.all_reduce(gradient, group=ctx.group)
        begin = ctx.group.rank() * ctx.rows
        return gradient[begin : begin + ctx.rows], None


class CpuAttention(torch.nn.Module):
    """Causal attention inside each sequence, of rows [S, B, heads, width] or packed [T, ...]."""

    def __init__(self, config, *_args, **_options):
        super().__init__()
        from megatron.core import parallel_state

        self.group = parallel_state.get_context_parallel_group()
        self.scale = (config.hidden_size // config.num_attention_heads) ** -0.5

    def forward(self, query, key, value, _mask, *_args, packed_seq_params=None, **_options):
        """What Megatron's core attention gives: [S, B, hidden], or [T, hidden] packed."""
        packed = packed_seq_params is not None
        if packed:
            query, key, value = (one.unsqueeze(1) for one in (query, key, value))
        cp, rank, rows = self.group.size(), self.group.rank(), len(query)
        ends = packed_seq_params.cu_seqlens_q_padded if packed else torch.tensor([0, rows * cp])
        places = [partitioned_indices(ends, rows * cp, cp, c) for c in range(cp)]
        everywhere, here = torch.cat(places), places[rank]
        key, value = (_Gathered.apply(one, self.group) for one in (key, value))
        sequence_of = torch.bucketize(torch.arange(rows * cp), ends[1:], right=True)
        same = sequence_of[here][:, None] == sequence_of[everywhere][None]
        seen = same & (everywhere[None] <= here[:, None])
        scores = torch.einsum("sbhd,tbhd->bhst", query, key) * self.scale
        weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
        out = torch.einsum("bhst,tbhd->sbhd", weights, value)
        return out.flatten(2)[:, 0] if packed else out.flatten(2)


class CpuNorm(torch.nn.LayerNorm):
    """A layer norm whose gradients are marked as parts, as Transformer Engine's are under SP."""

    def __init__(self, config, hidden_size, eps=1e-5):
        super().__init__(hidden_size, eps)
        for weight in self.parameters():
            weight.sequence_parallel = config.sequence_parallel


@contextlib.contextmanager
def megatron():
    """Megatron-Core as ``on_cpu`` has it; what schedules, TP and CP ask CUDA for is moved here."""
    zeros = torch.zeros

    def zeros_here(*args, **options):
        return zeros(*args, **{**options, "device": "cpu"})

    with on_cpu() as core, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from megatron.core import utils
        from megatron.core.pipeline_parallel import schedules
        from megatron.core.tensor_parallel import random

        tex = mock.Mock(thd_get_partitioned_indices=partitioned_indices)
        nothing = contextlib.nullcontext()
        with (
            mock.patch.object(random.CudaRNGStatesTracker, "fork", return_value=nothing),
            mock.patch.object(torch.Tensor, "cuda", lambda self, *_, **__: self),
            mock.patch.object(torch.cuda, "synchronize"),
            mock.patch.object(random, "_get_cuda_rng_state", return_value=None),
            mock.patch.object(random, "_set_cuda_rng_state"),
            mock.patch.object(schedules.torch, "zeros", zeros_here),
            mock.patch.object(utils, "tex", tex, create=True),
            mock.patch.object(utils, "is_te_min_version", return_value=True),
        ):
            yield core


@contextlib.contextmanager
def topology(core, tp=1, cp=1, pp=1, vpp=1, ep=1):
    """Megatron's process groups for sizes, and no others."""
    core.state.initialize_model_parallel(
        tensor_model_parallel_size=tp,
        pipeline_model_parallel_size=pp,
        virtual_pipeline_model_parallel_size=vpp if vpp > 1 else None,
        context_parallel_size=cp,
        expert_model_parallel_size=ep,
        expert_tensor_parallel_size=tp,
    )
    try:
        yield
    finally:
        core.state.destroy_model_parallel()
        core.Replay.clear_global_router_replay_instances()


def config_of_ranks(core, layers, freq, *, tp=1, cp=1, pp=1, vpp=1, ep=1, **options):
    """A config of 8 experts, top-2, with sequence parallelism under TP, for the sizes of ranks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of defaults that are deprecated
        return core.Config(
            **UNFUSED,
            num_layers=layers,
            hidden_size=HIDDEN,
            num_attention_heads=4,
            ffn_hidden_size=16,
            moe_ffn_hidden_size=16,
            num_moe_experts=8,
            moe_router_topk=2,
            moe_layer_freq=freq,
            add_bias_linear=False,
            moe_router_load_balancing_type="none",
            moe_enable_routing_replay=True,
            tensor_model_parallel_size=tp,
            expert_tensor_parallel_size=tp,
            sequence_parallel=tp > 1,
            context_parallel_size=cp,
            pipeline_model_parallel_size=pp,
            virtual_pipeline_model_parallel_size=vpp if vpp > 1 else None,
            expert_model_parallel_size=ep,
            pipeline_dtype=torch.float32,
            use_cpu_initialization=True,
            variable_seq_lengths=False,
            overlap_p2p_comm=vpp > 1,  # as Megatron asks of two stages that are interleaved
            batch_p2p_comm=vpp == 1,
            # As Megatron's own training does; a send of gloo that still runs would lose its memory.
            deallocate_pipeline_outputs=pp > 1 and vpp == 1,
            **options,
        )


def build_chunks(core, config):
    """The GPTModels of this rank, one a virtual stage; with MTP layers as the config says."""
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_mtp_block_spec

    stages = config.virtual_pipeline_model_parallel_size
    chunks = []
    for stage in range(stages or 1):
        place = {"vp_stage": stage} if stages else {}
        spec = core.specs(config, use_transformer_engine=False, **place)
        for layer in spec.layer_specs:
            layer.submodules.self_attention.submodules.core_attention = CpuAttention
            layer.submodules.input_layernorm = layer.submodules.pre_mlp_layernorm = CpuNorm
        spec.layer_norm = CpuNorm
        if config.mtp_num_layers:
            mtp = get_gpt_mtp_block_spec(config, spec, use_transformer_engine=False)
            for layer in mtp.layer_specs:
                parts = layer.submodules
                parts.enorm = parts.hnorm = parts.layer_norm = CpuNorm
            place["mtp_block_spec"] = mtp
        ends = {"ignore_virtual": False, "vp_stage": stage} if stages else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of arguments that it leaves out itself
            chunks.append(
                GPTModel(
                    config,
                    spec,
                    vocab_size=VOCAB,
                    max_sequence_length=VOCAB,
                    pre_process=core.state.is_pipeline_first_stage(**ends),
                    post_process=core.state.is_pipeline_last_stage(**ends),
                    share_embeddings_and_output_weights=False,
                    **place,
                )
            )
    return chunks


def on_ranks(ranks, call):
    """Run ``call(rank)`` in so many processes that share a gloo group; what each returned.

    They are forks of this one, so that Megatron is loaded once. Raises RuntimeError with what the
    first that failed said.
    """
    with tempfile.TemporaryDirectory() as name:
        folder, children = Path(name), []
        for rank in range(ranks):
            pid = os.fork()
            if not pid:
                _be_rank(rank, ranks, folder, call)
            children.append(pid)
        if not _all_end_well(children):
            said = [path.read_text() for path in folder.glob("*.txt")]
            raise RuntimeError("\n".join(said) or "a rank ended without a word")
        return [torch.load(folder / f"{rank}.pt") for rank in range(ranks)]


def _all_end_well(children):
    """Wait for processes; where one fails the others, which wait for it, are ended."""
    left = set(children)
    while left:
        pid, status = os.waitpid(-1, 0)
        left.discard(pid)
        if status:
            for other in left:
                os.kill(other, signal.SIGKILL)
                os.waitpid(other, 0)
            return False
    return True


def _be_rank(rank, ranks, folder, call):
    """A forked process to its end."""
    status = 1
    try:
        torch.set_num_threads(1)
        store = dist.FileStore(str(folder / "store"), ranks)
        dist.init_process_group(
            "gloo", store=store, rank=rank, world_size=ranks, timeout=timedelta(minutes=3)
        )
        torch.save(call(rank), folder / f"{rank}.pt")
        dist.barrier()
        status = 0
    except Exception:  # noqa: BLE001 - told to the process that forked this one
        (folder / f"{rank}.txt").write_text(traceback.format_exc())
    finally:
        os._exit(status)
