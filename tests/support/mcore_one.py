"""A GPTModel of Megatron-Core on one rank, random routes for it, and what its routers select."""

import random

import numpy as np
import torch

from routectl.forward.routers import find_megatron_routers
from support.mcore_live import E, K
from support.mcore_ranks import build_chunks, config_of_ranks
from support.packs import routes_like

__all__ = ["FREQ", "LAYERS", "LENS", "S", "agrees", "forward", "model_of", "routes_of", "thd"]

FREQ, LAYERS = [0, 1, 1], (1, 2)
LENS = (5, 8, 3)
S = 8


def model_of(core, freq=FREQ, **options):
    """A GPTModel, and what its routers select in each call: (layer, recomputed, sets)."""
    core.Replay.clear_global_router_replay_instances()
    torch.manual_seed(0)
    config = config_of_ranks(core, len(freq), freq, **options)
    (model,) = build_chunks(core, config)
    seen = []

    def look(layer):
        def keep(_module, _args, output):
            again = torch._C._current_graph_task_id() != -1
            seen.append((layer, again, [set(np.flatnonzero(row)) for row in output[1].numpy()]))

        return keep

    for at in find_megatron_routers(model):
        at.module.register_forward_hook(look(at.layer))
    return model.train(), seen


def routes_of(seed=1, lens=LENS):
    """Random routes of the N - 1 first tokens of each sequence."""
    rng = random.Random(seed)
    return [routes_like(rng, n - 1, LAYERS, (K, E, None)) for n in lens]


def forward(model, lens=LENS, seed=1):
    """The output for a padded batch of random tokens."""
    tokens = torch.randint(0, 512, (len(lens), S), generator=torch.Generator().manual_seed(seed))
    return model(tokens, torch.arange(S).repeat(len(lens), 1), None)


def agrees(seen, routes):
    """Whether each call of a router selected the routes, S-major, where there are some."""
    for layer, _, rows in seen:
        for b, held in enumerate(routes):
            for position, ids_K in enumerate(held.ids_TLK[:, LAYERS.index(layer)]):
                if rows[position * len(routes) + b] != set(ids_K.tolist()):
                    return False
    return bool(seen)


def thd(core, lens, places=None):
    """Megatron's parameters of a packed micro-batch."""
    from megatron.core.packed_seq_params import PackedSeqParams

    ends, padded = (
        torch.tensor([0, *np.cumsum(sizes).tolist()], dtype=torch.int32)
        for sizes in (lens, places or lens)
    )
    return PackedSeqParams("thd", ends, ends, padded, padded, 64, 64)
