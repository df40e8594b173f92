"""replay(..., prove=True): what the experts are called with, counted on the device."""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from routectl.errors import MismatchError, UnsupportedError
from routectl.forward.live import record, replay
from support import families
from support.forwards import checkpointing

from .test_nested import batch, forward, random_routes

pytestmark = pytest.mark.models

WAITS = ("_local_scalar_dense", "is_nonzero", "nonzero", "equal")


def block_of(model, layer=2):
    """A sparse block: gate and experts."""
    return model.model.layers[layer].mlp


def selects_again(block):
    """A block that calls its router, and takes its own top-k of the logits, as fused kernels do."""

    def run(hidden):
        rows = hidden.reshape(-1, hidden.shape[-1])
        logits, _, _ = block.gate(rows)
        weights, ids = logits.float().softmax(-1).topk(4)
        return block.experts(rows, ids, weights.to(rows.dtype)).reshape(hidden.shape)

    block.forward = run


def without_experts(block):
    """A block that calls its router and no experts."""
    block.forward = lambda hidden: (
        hidden + block.gate(hidden.reshape(-1, hidden.shape[-1]))[0].sum()
    )


def without_router(block):
    """A block that calls neither."""
    block.forward = lambda hidden: hidden


def test_a_block_that_selects_again_is_told():
    """Rows that reach the experts with other ids than were given are counted by layer."""
    model = families.tiny("qwen3_moe")
    selects_again(block_of(model))
    with record(model) as recorder:
        forward(model, 0)
    with replay(model, random_routes(0)):
        forward(model, 0)  # not seen without a proof
    said = r"^not replayed: layer 2: 1[34] rows with other experts than the 14 given$"
    with pytest.raises(MismatchError, match=said), replay(model, random_routes(0), prove=True):
        forward(model, 0)
    with replay(model, recorder.routes(), prove=True) as proof:
        forward(model, 0)  # its own routes: what it selects again is the same
    assert repr(proof) == "<Proof: 2 MoE layers, 28 of 28 given rows seen, 0 with other experts>"


def test_a_block_that_calls_no_experts_is_told():
    """Rows that never reached the experts are counted as unseen."""
    model = families.tiny("qwen3_moe")
    without_experts(block_of(model))
    said = "not replayed: layer 2: 28 of 28 given rows went by unseen: a fused kernel"
    with (
        pytest.raises(MismatchError, match=said),
        replay(model, random_routes(0) * 2, prove=True),
    ):
        [forward(model, seed) for seed in range(2)]


@pytest.mark.parametrize("prove", [False, True])
def test_a_router_that_does_not_run_is_told_at_once(prove):
    """Proof or not, a forward in which a router did not run is refused at its end, with the layer;
    by record as well."""
    model = families.tiny("qwen3_moe")
    without_router(block_of(model))
    said = r"layer 2 \(model\.layers\.2\.mlp\.gate\): its router did not run in this forward"
    with pytest.raises(UnsupportedError, match=said), replay(model, [None, None], prove=prove):
        forward(model, 0)
    with pytest.raises(UnsupportedError, match=said), record(model):
        forward(model, 0)


def test_what_a_backward_pass_computes_again_is_proven_too():
    """Other experts in a recomputation alone are told; its rows are not counted as seen twice."""
    model = families.tiny("qwen3_moe").train()
    checkpointing(model, {"use_reentrant": False})
    model.enable_input_require_grads()

    def step():
        model(input_ids=batch(0), use_cache=False).logits.float().square().sum().backward()

    with replay(model, random_routes(0), prove=True) as proof:
        step()
    assert proof.seen_L.tolist() == [14, 14]

    def other(module, args):
        if torch._C._current_graph_task_id() != -1:
            hidden, ids, weights = args
            return hidden, (ids + 1) % 16, weights
        return None

    block_of(model).experts.register_forward_pre_hook(other)
    said = "not replayed: layer 2: 14 rows with other experts than the 14 given"
    with pytest.raises(MismatchError, match=said), replay(model, random_routes(0), prove=True):
        step()


class _Waits(TorchDispatchMode):
    """Counts of the operations that wait for a device."""

    def __init__(self):
        super().__init__()
        self.seen = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__.partition(".")[0]
        if name in WAITS:
            self.seen[name] += 1
        return func(*args, **(kwargs or {}))


def test_nothing_in_the_forward_waits_for_the_device():
    """record, replay and the proof add no operation that would wait for a device."""
    model = families.tiny("qwen3_moe")
    with _Waits() as plain:
        forward(model, 0)
    with replay(model, random_routes(0), prove=True), record(model), _Waits() as waits:
        forward(model, 0)
    assert waits.seen == plain.seen
