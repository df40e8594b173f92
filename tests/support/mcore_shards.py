"""GPTModels under tensor and sequence parallelism whose routers replay given routes, on 4 ranks.

``python -m support.mcore_shards`` prints a JSON line a case, each field by rank: routing maps of
TopKRouter itself, row by row, beside the routes of the tokens that the rank has.
"""

import json

import numpy as np
import torch

from routectl import Rank, Routes
from routectl.errors import UnsupportedError
from routectl.forward.live import record, replay
from support.mcore_ranks import build_chunks, config_of_ranks, megatron, on_ranks, topology

__all__ = ["CASES"]

BATCH, TOKENS = 3, 8
CASES = {
    "tp2": {"tp": 2},
    "tp2-recomputed": {
        "tp": 2,
        "recompute_granularity": "full",
        "recompute_method": "uniform",
        "recompute_num_layers": 1,
    },
    "tp4": {"tp": 4},
    "tp2-ddp": {"tp": 2},
    "tp1": {"tp": 1},
}


def _routes(layers):
    """Random routes of a batch, of all layers."""
    rng = np.random.default_rng(5)
    ids = [rng.permutation(8)[:2] for _ in range(BATCH * TOKENS * len(layers))]
    ids = np.array(ids, np.uint8).reshape(BATCH, TOKENS, len(layers), 2)
    return [Routes(part, layers, 8) for part in ids]


def _in_ddp(model):
    """Megatron-Core's own DistributedDataParallel."""
    from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig

    return DistributedDataParallel(model.config, DistributedDataParallelConfig(), model)


def _forward(model):
    """Logits of the batch."""
    ids = torch.arange(BATCH * TOKENS).reshape(BATCH, TOKENS) + 3
    return model(ids, torch.arange(TOKENS).expand(BATCH, TOKENS), None)


def _watched(model):
    """Lists of (layer, map [R, E]) of routers from now on: of forwards, of recomputations."""
    seen = ([], [])

    def see(router, args, out):
        again = torch._C._current_graph_task_id() != -1
        seen[again].append((router.layer_number - 1, out[1]))

    for part in model.modules():
        if type(part).__name__ == "TopKRouter":
            part.register_forward_hook(see)
    return seen


def _wrong(maps, routes, tp, size):
    """Rows whose map is not the route of the token that stands there, s-major, and all rows."""
    rows = TOKENS * BATCH // size
    wrong = total = 0
    for layer, map_RE in maps:
        for row, taken_E in enumerate(map_RE):
            s, b = divmod(tp * rows + row, BATCH)
            column = routes[b].layers_L.index(layer)
            wrong += sorted(routes[b].ids_TLK[s, column]) != np.flatnonzero(taken_E).tolist()
            total += 1
    return int(wrong), total


def _refused(call):
    """What is said of a call that must be refused."""
    try:
        call().__enter__()
    except UnsupportedError as error:
        return str(error)
    return ""


def _case(core, name):
    """A case on this rank."""
    options = CASES[name]
    tp = options["tp"]
    with topology(core, tp=tp):
        torch.manual_seed(0)
        (model,) = build_chunks(core, config_of_ranks(core, 3, [0, 1, 1], **options))
        model = _in_ddp(model.train()) if name.endswith("ddp") else model.train()
        own = core.state.get_tensor_model_parallel_rank()
        routes, (forward, again) = _routes((1, 2)), _watched(model)
        wider = _routes((0, 1, 2))  # a model of more layers: this one is a stage of it
        with replay(model, routes, rank=Rank(tp=own), prove=True) as proof:
            _forward(model).square().mean().backward()
        found = {
            "case": name,
            "wrong": _wrong(forward + again, routes, own, tp)[0],
            "control": _wrong(forward, routes, (own + 1) % tp, tp)[0],
            "rows": _wrong(forward, routes, own, tp)[1],
            "again": _wrong(again, routes, own, tp)[1],
            "seen": proof.seen_L.tolist(),
            "given": proof.given_L.tolist(),
            "other": proof.other_L.tolist(),
        }
        forward.clear()
        with torch.no_grad(), replay(model, wider, rank=Rank(tp=own), prove=True):
            _forward(model)
        found["wrong_stage"] = _wrong(forward, wider, own, tp)[0]
        found["without"] = _refused(lambda: replay(model, routes))
        found["another"] = _refused(lambda: replay(model, routes, rank=Rank(tp=(own + 1) % tp)))
        found["beyond"] = _refused(lambda: replay(model, routes, rank=Rank(tp=tp)))
        found["record"] = _refused(lambda: record(model))
        return found


def _rank(core, name):
    return lambda rank: _case(core, name)


def main():
    """A line a case."""
    with megatron() as core:
        for name in CASES:
            found = on_ranks(4 if CASES[name]["tp"] > 1 else 1, _rank(core, name))
            print(json.dumps({key: [one[key] for one in found] for key in found[0]}))


if __name__ == "__main__":
    main()
