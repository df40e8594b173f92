"""ROLL's packed batches in a GPTModel of Megatron-Core on four ranks, beside the same unpacked.

``python -m support.mcore_roll``, run in tests/, prints for each TP and CP size what its routers saw
and how far gradients are from those of the unpacked batch on one rank, as JSON. Packing follows
ROLL 8eb27cc2 ``MegatronInferStrategy._pack_sequences``, what is done around set_router_replay_data
its ``inner_forward_step``: forward, then backward, both with Megatron's own RouterReplay.
"""

import json
import math

import numpy as np
import torch
import torch.distributed as dist

from routectl.trainers.roll import set_router_replay_data
from support.mcore_live import FULL, E, K, Seen, mark
from support.mcore_ranks import VOCAB, build_chunks, config_of_ranks, megatron, on_ranks, topology

__all__ = ["SIZES"]

SIZES = [(1, 1), (1, 2), (1, 4), (2, 1), (2, 2), (4, 1)]
FREQ = [0, 1, 1]
LAYERS = [1, 2]
LENS = [21, 9, 30, 17]
S = 32


def batch_of():
    """ROLL's batch: tokens and mask [B, S], padded on the right, and routes [B, S, L, K]."""
    rng = np.random.default_rng(7)
    numbers = iter((rng.permutation(VOCAB - 1) + 1).tolist())
    tokens, mask = torch.zeros(len(LENS), S, dtype=torch.int64), torch.zeros(len(LENS), S)
    routes = torch.zeros(len(LENS), S, len(FREQ), K, dtype=torch.uint8)
    for b, n in enumerate(LENS):
        tokens[b, :n] = torch.tensor([next(numbers) for _ in range(n)])
        mask[b, :n] = 1
        ids = np.argsort(rng.random((n - 1, len(FREQ), E)), axis=2)[:, :, :K]
        routes[b, : n - 1] = torch.from_numpy(ids)
    labels = tokens.roll(-1, 1)
    weights = torch.from_numpy(rng.random((len(LENS), S))).float()
    for b, n in enumerate(LENS):
        weights[b, n - 1 :] = 0
    return tokens, mask.long(), routes, labels, weights


def packed_as_roll(tensors, lens, align, cp):
    """Sequences padded to a multiple of align, cut for this CP rank one by one, end to end."""
    from megatron.core.packed_seq_params import PackedSeqParams
    from megatron.core.utils import get_batch_on_this_cp_rank

    places = [-(-n // align) * align for n in lens]
    out = []
    for tensor in tensors:
        parts = []
        for row, n, size in zip(tensor, lens, places, strict=True):
            whole = torch.nn.functional.pad(row[:n], (0, size - n))[None]
            parts.append(get_batch_on_this_cp_rank({"it": whole})["it"] if cp > 1 else whole)
        out.append(torch.cat(parts, 1))
    ends = torch.tensor([0, *np.cumsum(places).tolist()], dtype=torch.int32)
    longest = max(places)
    return out, PackedSeqParams("thd", ends, ends, ends, ends, longest, longest)


def gradients(core, model, loss):
    """Gradients of a loss summed over all tokens, as Megatron sums them over TP and CP ranks."""
    loss.backward()
    found = {}
    for name, weight in model.named_parameters():
        gradient = weight.grad.clone()
        if getattr(weight, "sequence_parallel", False):
            dist.all_reduce(gradient, group=core.state.get_tensor_model_parallel_group())
        dist.all_reduce(gradient, group=core.state.get_context_parallel_group())
        found[name] = gradient
        weight.grad = None
    return found


def shard(whole, like, rank):
    """The part of a weight that a TP rank has: along the one axis that is shorter there."""
    for axis, (full, part) in enumerate(zip(whole.shape, like.shape, strict=True)):
        if full != part:
            return whole.narrow(axis, rank * part, part)
    return whole


def unpacked(core, batch):
    """Weights and gradients of the padded batch on one rank; targets are written out by hand."""
    tokens, _, routes, labels, weights = batch
    with topology(core):
        torch.manual_seed(0)
        config = config_of_ranks(core, len(FREQ), FREQ)
        (model,) = build_chunks(core, config)
        mark(model)
        state = {name: weight.detach().clone() for name, weight in model.named_parameters()}
        rows = torch.arange(K).expand(S, len(LENS), K).clone()
        for layer, instance in zip(LAYERS, core.Replay.global_router_replay_instances, strict=True):
            target = rows.clone()
            for b, n in enumerate(LENS):
                target[: n - 1, b] = routes[b, : n - 1, layer].long()
            instance.set_target_indices(target.reshape(-1, K))
        core.Replay.set_global_router_replay_action(core.Action.REPLAY_FORWARD)
        places = torch.arange(S).repeat(len(LENS), 1)
        losses = model(tokens, places, None, labels=labels)
        return state, gradients(core, model, (losses * weights).sum())


def run_sizes(core, tp, cp, batch, state, wanted, *, guide=False, shift=0):
    """One size on one rank: rows seen, and how far gradients are from unpacked ones at most."""
    tokens, mask, routes, labels, weights = batch
    sizes = {"tp": tp, "cp": cp}
    with topology(core, **sizes):
        config = config_of_ranks(core, len(FREQ), FREQ, **sizes, **FULL)
        (model,) = build_chunks(core, config)
        rank = core.state.get_tensor_model_parallel_rank()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                weight.copy_(shard(state[name], weight, rank))
        seen = Seen()
        seen.watch(model.train())
        for b, n in enumerate(LENS):
            for position in range(n - 1):
                for layer in LAYERS:
                    key = (int(tokens[b, position]), layer)
                    seen.expected[key] = set(routes[b, position, layer].tolist())
        align = 2 * cp * tp if cp > 1 else tp
        align = align if guide else math.lcm(16, align)
        places = torch.arange(S).repeat(len(LENS), 1)
        given, params = packed_as_roll((tokens, labels, weights, places), LENS, align, cp)
        core.Replay.set_global_router_replay_action(core.Action.REPLAY_FORWARD)
        options = {"packed_seq_params": params} if guide else {}
        set_router_replay_data((routes + shift) % E, mask, config, None, **options)
        losses = model(given[0], given[3], None, labels=given[1], packed_seq_params=params)
        core.Replay.set_global_router_replay_action(core.Action.REPLAY_BACKWARD)
        ours = gradients(core, model, (losses * given[2]).sum())
        apart = max(
            float((gradient - shard(wanted[name], gradient, rank)).abs().max())
            / float(wanted[name].abs().max())
            for name, gradient in ours.items()
        )
        left = sum(
            len(one.replay_backward_list) for one in core.Replay.global_router_replay_instances
        )
        core.Replay.clear_global_router_replay_action()
        return {**seen.counts, "apart": apart, "left": left}


def run_rank(core):
    """All sizes on one rank by ROLL's rule and by its guide's, then other routes as a control."""
    batch = batch_of()
    state, wanted = unpacked(core, batch)
    found = []
    for tp, cp in SIZES:
        for guide in (False, True) if cp > 1 else (False,):
            case = run_sizes(core, tp, cp, batch, state, wanted, guide=guide)
            found.append({"tp": tp, "cp": cp, "shift": 0, **case})
    control = run_sizes(core, 2, 2, batch, state, wanted, shift=1)
    return [*found, {"tp": 2, "cp": 2, "shift": 1, **control}]


def main():
    """A line of JSON for each size."""
    with megatron() as core:
        results = on_ranks(4, lambda rank: run_rank(core))
    for parts in zip(*results, strict=True):
        print(json.dumps({key: [part[key] for part in parts] for key in parts[0]}))


if __name__ == "__main__":
    main()
