"""Models in what trainers put around them, on gloo; run with -m under torchrun, one proof a rank.

python -m torch.distributed.run --nproc-per-node 2 -m support.wrapped
"""

import os
import sys
from functools import partial

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.nn.parallel import DistributedDataParallel

from routectl import Routes
from routectl.forward.live import record, replay
from support import families
from support.forwards import checkpointing

__all__ = ["WRAPPED", "check_wrapped", "tokens_of", "trained"]

LAYERS = (1, 2)


def _ddp(model):
    return DistributedDataParallel(model)


def _fsdp(model, original):
    """torch's first: each decoder layer, then the whole."""
    policy = ModuleWrapPolicy({type(model.model.layers[0])})
    options = {"use_orig_params": original, "device_id": torch.device("cpu")}
    return FullyShardedDataParallel(model, auto_wrap_policy=policy, **options)


def _fsdp2(model, routers):
    """torch's second, which changes the model in place; each router of its own where asked."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in model.model.layers:
        if routers and hasattr(layer.mlp, "gate"):
            fully_shard(layer.mlp.gate, mesh=mesh)
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


WRAPPED = {
    "ddp": _ddp,
    "fsdp1": partial(_fsdp, original=True),
    "fsdp1 flat": partial(_fsdp, original=False),
    "fsdp2": partial(_fsdp2, routers=False),
    "fsdp2 routers": partial(_fsdp2, routers=True),
}


def tokens_of(rank):
    """A rank's token ids, two sequences."""
    return torch.randint(3, 100, (2, 7), generator=torch.Generator().manual_seed(rank))


def _routes(rank):
    """Random routes of a rank's sequences."""
    rng = np.random.default_rng(rank)
    ids = [rng.permutation(16)[:4] for _ in range(2 * 7 * len(LAYERS))]
    return [Routes(part, LAYERS, 16) for part in np.array(ids, np.uint8).reshape(2, 7, 2, 4)]


def trained(wrap=lambda model: model, *, checkpointed=False):
    """A training model in a wrapper."""
    model = families.tiny("qwen3_moe").train()
    if checkpointed:
        checkpointing(model, {"use_reentrant": False})
        model.enable_input_require_grads()
    return wrap(model)


def _step(model, rank, routes):
    """The recorder, the proof and the logits of one step along given routes."""
    with replay(model, routes, prove=True) as proof, record(model) as recorder:
        logits = model(input_ids=tokens_of(rank), use_cache=False).logits
        logits.float().square().mean().backward()
    return recorder, proof, logits.detach()


def _first_router_grad(model):
    """The whole gradient of the first router, wherever its parts are; None of flat parameters."""
    if isinstance(model, FullyShardedDataParallel):
        if not model._use_orig_params:
            return None  # torch does not give gradients of flat parameters
        with FullyShardedDataParallel.summon_full_params(model, with_grads=True):
            return _router(model).weight.grad.clone()
    grad = _router(model).weight.grad
    return grad.full_tensor() if hasattr(grad, "full_tensor") else grad


def _router(model):
    return next(part for part in model.modules() if type(part).__name__.endswith("TopKRouter"))


def check_wrapped(kind, *, checkpointed):
    """Routes recorded, replayed and proven in a wrapper are those without it, and the gradient of
    a router is the mean over ranks of those without it."""
    here, ranks = dist.get_rank(), range(dist.get_world_size())
    plain = trained()
    with record(plain) as live:
        plain(input_ids=tokens_of(here), use_cache=False)
    wrapped = trained(WRAPPED[kind], checkpointed=checkpointed)
    with record(wrapped) as recorder, torch.no_grad():
        wrapped(input_ids=tokens_of(here), use_cache=False)
    assert _same(recorder.routes(), live.routes())
    recorder, proof, logits = _step(wrapped, here, _routes(here))
    assert _same(recorder.routes(), _routes(here))
    assert proof.given_L.tolist() == proof.seen_L.tolist() == [14, 14]
    grads = []
    for rank in ranks:
        plain.zero_grad()
        _, _, expected = _step(plain, rank, _routes(rank))
        grads.append(_router(plain).weight.grad.clone())
        assert rank != here or torch.equal(logits, expected)
    mean = torch.stack(grads).mean(0)
    found = _first_router_grad(wrapped)
    if found is not None:
        assert (found - mean).abs().max() <= 2e-6 * mean.abs().max()


def _same(one, two):
    """The same experts of each row, in whichever order."""
    return len(one) == len(two) and all(
        np.array_equal(np.sort(a.ids_TLK), np.sort(b.ids_TLK))
        for a, b in zip(one, two, strict=True)
    )


def main():
    """Every wrapper on every rank.

    fully_shard keeps its process group, and gloo's threads with it, beyond destroy_process_group:
    one that lets go of a tensor while Python 3.11 finalizes is unwound, and aborts the process
    ("terminate called without an active exception"). So it ends without finalizing.
    """
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    for kind in WRAPPED:
        for checkpointed in (False, True):
            check_wrapped(kind, checkpointed=checkpointed)
            print(f"rank {dist.get_rank()} of {dist.get_world_size()}: {kind}, {checkpointed}")
    dist.barrier()  # nobody ends while another still asks it
    dist.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__" and "RANK" in os.environ:
    main()
