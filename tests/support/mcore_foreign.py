"""What verl 0.9.1 and ms-swift 4.6 give Megatron's routers, beside what routectl gives them.

``python -m support.mcore_foreign``, run in tests/, calls the trainers' own set_router_replay_data
on four ranks, on the micro-batch that set_replay packs from its cu_seqlens, and prints rows of
each size as JSON: those with a route, those of them that are not the trainer's, and all. The files
are run alone, beside Megatron's real process groups, for what they import is not installed.
"""

import json
import logging
from functools import cache
from types import SimpleNamespace
from typing import Optional

import numpy as np
import torch

from routectl.trainers.micro_batches import RankPlace, pack_thd
from support.foreign import definitions, load_file
from support.mcore_ranks import config_of_ranks, megatron, on_ranks, topology

__all__ = ["SIZES", "verl"]

SIZES = [(1, 1), (1, 2), (1, 4), (2, 1), (2, 2), (4, 1)]
FREQ, LAYERS = [0, 1, 1, 1], (1, 2, 3)
E, K = 8, 2
LENS = [21, 9, 30, 17]


def routes_of():
    """Routes [N, L, K] of each sequence in all layers, the last token's zeros, as verl has them."""
    rng = np.random.default_rng(11)
    found = []
    for n in LENS:
        ids = np.argsort(rng.random((n, len(FREQ), E)), axis=2)[..., :K]
        ids[-1] = 0
        found.append(torch.from_numpy(ids).to(torch.int16))
    return found


@cache
def verl():
    """verl's router_replay_utils and router_replay_patch."""
    device = {"is_npu_available": False, "get_device_name": lambda: "cpu"}
    model = {"CausalLMOutputForPPO": None}
    stubs = {"verl.utils.device": device, "verl.utils.model": model}
    util = load_file("verl", "models/mcore/util.py", stubs)
    util.logger = SimpleNamespace(warning_once=lambda message: None)  # verl adds warning_once
    patch = load_file("verl", "utils/megatron/router_replay_patch.py", {})
    stubs["verl.models.mcore.util"] = vars(util)
    stubs["verl.utils.megatron.router_replay_patch"] = vars(patch)
    return load_file("verl", "utils/megatron/router_replay_utils.py", stubs), patch


@cache
def swift():
    """ms-swift's router_replay_utils, with mcore_bridge's split_cp_inputs."""
    from megatron.core import parallel_state

    names = {"torch": torch, "mpu": parallel_state, "Optional": Optional}
    split = definitions("mcore_bridge", "utils/megatron_utils.py", ["split_cp_inputs"], names)
    stubs = {
        "swift.utils": {"get_logger": logging.getLogger},
        "swift.utils.torch_utils": {"get_current_device": lambda: "cpu"},
        "mcore_bridge": vars(split),
    }
    return load_file("swift", "megatron/utils/router_replay_utils.py", stubs)


def by_verl(config, routes):
    """Targets of verl's own routers, and the places of each sequence."""
    utils, patch = verl()
    patch.RouterReplay.router_instances.clear()
    instances = [patch.RouterReplay() for _ in LAYERS]
    nested = torch.nested.as_nested_tensor(routes, layout=torch.jagged)
    utils.set_router_replay_data(nested, None, config, 0)
    tp, cp = config.tensor_model_parallel_size, config.context_parallel_size
    align = 2 * cp * tp if cp > 1 else tp
    return instances, [-(-n // align) * align for n in LENS]


def by_swift(core, config, routes):
    """Targets of Megatron's routers by ms-swift, and the places of each sequence with its tail."""
    from megatron.core.packed_seq_params import PackedSeqParams

    core.Replay.clear_global_router_replay_instances()
    instances = [core.Replay() for _ in LAYERS]
    tp, cp = config.tensor_model_parallel_size, config.context_parallel_size
    piece = 2 * cp if cp > 1 else 1
    places = [-(-n // piece) * piece for n in LENS]
    whole = tp * piece  # a tail that CP can cut, which ms-swift's own multiple need not be
    places.append(-(-sum(places) // whole) * whole - sum(places))
    places = [n for n in places if n]
    rows = [
        torch.nn.functional.pad(part.long(), (0, 0, 0, 0, 0, n - len(part)))
        for part, n in zip([*routes, routes[0][:0]], places, strict=False)
    ]
    ends = torch.tensor([0, *np.cumsum(places).tolist()], dtype=torch.int32)
    params = PackedSeqParams("thd", ends, ends, ends, ends, 64, 64)
    local = swift().get_local_topk_idx_for_current_rank(torch.cat(rows)[None], config, params)
    swift().set_router_replay_data(local, config)
    return instances, places


def compare(core, trainer, tp, cp):
    """One trainer and size on one rank."""
    routes = routes_of()
    with topology(core, tp=tp, cp=cp):
        config = config_of_ranks(core, len(FREQ), FREQ, tp=tp, cp=cp)
        config.sequence_parallel = True  # the trainers scatter for SP whatever TP is
        theirs = by_verl(config, routes) if trainer == "verl" else by_swift(core, config, routes)
        instances, places = theirs
        place = RankPlace.here(config)
        ours = pack_thd([part[:-1] for part in routes], place, LAYERS, places)
        real = torch.from_numpy(ours.mask)
        wrong = 0
        for ids_RK, instance in zip(torch.from_numpy(ours.ids_LRK), instances, strict=True):
            assert ids_RK.shape == instance.target_topk_idx.shape
            apart = (ids_RK.long() != instance.target_topk_idx).any(1)
            wrong += int((apart & real).sum())
        return {"real": int(real.sum()), "wrong": wrong, "rows": len(real)}


def by_groups_of_its_own(core):
    """CP size and rank where a micro-batch has a CP size of its own, of ranks that share CP 4."""
    from megatron.core.packed_seq_params import PackedSeqParams

    with topology(core, cp=4):
        config = config_of_ranks(core, len(FREQ), FREQ, cp=4)
        groups = [torch.distributed.new_group(ranks) for ranks in ([0, 1], [2, 3])]
        group = groups[torch.distributed.get_rank() // 2]
        place = RankPlace.here(config, PackedSeqParams("thd", local_cp_size=2, cp_group=group))
        alone = RankPlace.here(config, PackedSeqParams("thd", local_cp_size=1))
        return {"cp": [place.cp, alone.cp], "rank": [place.rank.cp, alone.rank.cp]}


def main():
    """A line of JSON for each trainer and size."""
    cases = [(trainer, *sizes) for trainer in ("verl", "ms-swift") for sizes in SIZES]
    with megatron() as core:
        results = on_ranks(
            4, lambda rank: [*(compare(core, *one) for one in cases), by_groups_of_its_own(core)]
        )
    for i, (trainer, tp, cp) in enumerate(cases):
        parts = [rank[i] for rank in results]
        sums = {key: [part[key] for part in parts] for key in parts[0]}
        print(json.dumps({"trainer": trainer, "tp": tp, "cp": cp, **sums}))
    print(json.dumps([rank[-1] for rank in results]))


if __name__ == "__main__":
    main()
