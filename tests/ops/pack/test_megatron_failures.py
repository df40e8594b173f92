"""What Megatron-Core 0.16.1 does with replay tensors that routectl does not write for it."""

import random

import numpy as np
import pytest
import torch

from routectl import Packing, Pipeline, Rank, TensorSpec, pack
from support.mcore import build, config_of, hidden, on_cpu, replay
from support.packs import routes_like

pytestmark = pytest.mark.trainers


@pytest.fixture
def core():
    """Megatron-Core on the CPU, its registry of routers cleared before and after."""
    with on_cpu() as found:
        yield found


def forward(core, tensor):
    """One router's map for a replay tensor."""
    router = build(core, config_of(core))[0]
    router.router_replay.set_target_indices(torch.from_numpy(np.ascontiguousarray(tensor)))
    router.router_replay.set_router_replay_action(core.Action.REPLAY_FORWARD)
    return router(hidden(12))[1]


def batch(**spec):
    """A batch with 3 padding rows out of 12."""
    held = routes_like(random.Random(2), 9, (1,), (4, 32, None))
    return pack([held], Packing([10], "megatron", cp=1, tp=4), spec=TensorSpec(**spec))


def test_zero_padding_is_silent(core):
    """Zero padding leaves rows with one expert instead of K, and no error is raised."""
    packed = batch(padding="zero")
    counts = forward(core, packed.ids_LRK[0]).sum(1).tolist()
    assert counts == [4] * 9 + [1] * 3
    assert forward(core, batch().ids_LRK[0]).sum(1).tolist() == [4] * 12


@pytest.mark.parametrize("dtype", ["int16", "uint8", "int8", "uint16"])
def test_narrow_ids_raise_in_gather(core, dtype):
    """Tensors narrower than int32, as engines write them, raise in torch.gather."""
    with pytest.raises(RuntimeError, match="int"):
        forward(core, batch(dtype=dtype).ids_LRK[0])


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_wide_ids_are_taken(core, dtype):
    """int32 and int64 tensors are replayed."""
    assert forward(core, batch(dtype=dtype).ids_LRK[0]).sum().item() == 48


def test_minus_one_raises(core):
    """Minus-one padding, which some trainers' own routers know, raises in Megatron's."""
    with pytest.raises(RuntimeError, match="out of bounds"):
        forward(core, batch(padding="minus-one").ids_LRK[0])


def test_too_few_rows_are_silent(core):
    """A tensor of fewer rows leaves the last tokens without any expert, and nothing is said."""
    counts = forward(core, batch().ids_LRK[0][:6]).sum(1).tolist()
    assert counts == [4] * 6 + [0] * 6


def test_the_number_of_tensors(core):
    """A tensor for each local MoE layer, no more: all layers at once are refused."""
    build(core, config_of(core, pp=5), 2)
    held = routes_like(random.Random(3), 4, (1, 2, 3, 4), (4, 32, None))
    packed = pack([held], Packing([5], "megatron"))
    with pytest.raises(ValueError, match="does not match instances"):
        replay(core, map(torch.from_numpy, packed.ids_LRK))
    packed = pack([held], Packing([5], "megatron", pipeline=Pipeline(5, 5)), Rank(pp=2))
    replay(core, map(torch.from_numpy, packed.ids_LRK))
