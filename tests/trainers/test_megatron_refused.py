"""What set_replay refuses, in one line that says what is wrong and what to do."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from routectl import Packing, Routes, pack
from routectl.dump import Sample
from routectl.errors import MismatchError, UnsupportedError
from routectl.forward.routers import find_megatron_routers
from routectl.trainers.megatron import set_replay
from support.mcore_live import E, K
from support.mcore_one import LAYERS, LENS, S, agrees, forward, model_of, routes_of, thd
from support.packs import routes_like

pytestmark = [
    pytest.mark.trainers,
    pytest.mark.filterwarnings("ignore:.*tp_group is None"),  # Megatron's own calls
]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"moe_router_load_balancing_type": "sinkhorn"}, "sinkhorn selects without"),
        ({"moe_router_fusion": True}, "moe_router_fusion selects inside a kernel"),
    ],
)
def test_routers_that_do_not_ask(core, options, said):
    """A router whose selection goes past RouterReplay is refused by the option."""
    model, _ = model_of(core)
    for at in find_megatron_routers(model):
        for name, value in options.items():
            at.module.config = replace(at.module.config)
            setattr(at.module.config, name, value)
    with pytest.raises(UnsupportedError, match=said):
        set_replay(model, routes_of(), seq_length=S)


def test_no_router_replay(core):
    """Without the flag the flag is named."""
    model, _ = model_of(core)
    find_megatron_routers(model)[0].module.router_replay = None
    with pytest.raises(UnsupportedError, match=r"layers\.1\.mlp\.router has no .*--moe-enable-rou"):
        set_replay(model, routes_of(), seq_length=S)
    with pytest.raises(UnsupportedError, match="no chunk has a TopKRouter"):
        set_replay(torch.nn.Linear(2, 2), routes_of(), seq_length=S)
    with pytest.raises(TypeError, match=r"chunk 0: got int, expected a torch\.nn\.Module"):
        set_replay([3], routes_of(), seq_length=S)


def test_other_layers_and_experts(core):
    """Layers, experts and top-k of routes must be the model's."""
    model, _ = model_of(core)
    rng = random.Random(1)
    for shape, said in (
        (((1,), (K, E, None)), r"MoE layers \(1,\), the model \(1, 2\)"),
        ((LAYERS, (K, 16, None)), "experts 16, the model 8"),
        ((LAYERS, (3, E, None)), "top_k 3, the model 2"),
    ):
        routes = [routes_like(rng, n - 1, *shape) for n in LENS]
        with pytest.raises(MismatchError, match=f"sequence 0: routes have {said}"):
            set_replay(model, routes, seq_length=S)
    packed = pack([routes_like(rng, 4, (0, 1), (K, E, None))], Packing([4], "megatron"))
    with pytest.raises(MismatchError, match=r"\[1, 2\], the packed routes layers \[0, 1\]: no"):
        set_replay(model, packed)
    packed = pack([routes_like(rng, 4, LAYERS, (3, E, None))], Packing([4], "megatron"))
    with pytest.raises(MismatchError, match="selects 2 experts, the routes have 3"):
        set_replay(model, packed)


def test_arrays(core):
    """Shapes, ids and rows that were not captured are told by sequence, token and layer."""
    model, _ = model_of(core)
    good = [held.ids_TLK.astype(np.int16) for held in routes_of()]
    for change, kind, said in (
        (lambda ids: ids[:, :, :1], MismatchError, "2 layers of 1 experts, the model 2 MoE"),
        (lambda ids: ids[0], TypeError, "expected Routes, a Sample or integers"),
        (lambda ids: ids.astype(float), TypeError, "got float64"),
        (lambda ids: ids + 8, MismatchError, "the model has 8"),
        (lambda ids: ids - 9, MismatchError, "expert -9, the model has 8"),
        (lambda ids: ids * 0, MismatchError, "token 0 has expert 0 twice in layer 1"),
    ):
        with pytest.raises(kind, match=said):
            set_replay(model, [good[0], change(good[1]), good[2]], seq_length=S)


def test_token_counts(core):
    """Sequences, and tokens of each, are those of the micro-batch."""
    model, _ = model_of(core)
    routes = routes_of()
    with pytest.raises(MismatchError, match="give seq_length, its S"):
        set_replay(model, routes)
    with pytest.raises(MismatchError, match="sequence 1: 7 tokens with routes, 4 in"):
        set_replay(model, routes, seq_length=4)
    with pytest.raises(MismatchError, match="have 2 sequences, the routes are of 3"):
        set_replay(model, routes, thd(core, LENS[:2]))
    with pytest.raises(MismatchError, match="tokens 0 to 3, the micro-batch has 8 tokens"):
        set_replay(model, routes, thd(core, (8, 5, 3), [8, 8, 8]))
    sample = Sample(routes[0], prompt_length=2, response_length=4)
    with pytest.raises(MismatchError, match="the sample has 6 tokens, packed_seq_params 5"):
        set_replay(model, [sample, *routes[1:]], thd(core, LENS, [8, 8, 8]))
    with pytest.raises(MismatchError, match="packed_seq_params are sbhd, expected thd"):
        set_replay(model, routes, replace(thd(core, LENS), qkv_format="sbhd"))


def test_rows_that_are_not_there(core):
    """A missing row has no live fallback in RouterReplay; None stands for padding alone."""
    model, seen = model_of(core)
    routes = routes_of()
    missing = np.zeros(routes[1].ids_TLK.shape[:2], bool)
    missing[3, 1] = True
    holed = Routes(routes[1].ids_TLK, LAYERS, E, missing_TL=missing)
    with pytest.raises(UnsupportedError, match="sequence 1: token 3 has no route in layer 2"):
        set_replay(model, [routes[0], holed, routes[2]], seq_length=S)
    with pytest.raises(MismatchError, match=r"sequence 0: <Sample.* has no routes"):
        set_replay(model, [Sample(None), *routes[1:]], seq_length=S)
    with pytest.raises(MismatchError, match="no sequence of the micro-batch has routes"):
        set_replay(model, [None] * 3, seq_length=S)
    set_replay(model, [None, *routes[1:]], seq_length=S)
    forward(model)
    assert not agrees(seen, routes)
    assert all(len(row) == K for _, _, rows in seen for row in rows)


def test_virtual_stages(core):
    """Chunks come in order, and only the one that runs where several micro-batches are set."""
    chunks = [model_of(core)[0] for _ in range(2)]
    routes = routes_of()
    for stage, chunk in enumerate(chunks):
        chunk.vp_stage = stage
    with pytest.raises(MismatchError, match=r"virtual stages \[1, 0\]: give them in order"):
        set_replay(chunks[::-1], routes, seq_length=S)
    set_replay(chunks, routes, seq_length=S)
    forward(chunks[0])
    with pytest.raises(MismatchError, match=r"a chunk still waits .* the one chunk"):
        set_replay(chunks, routes, seq_length=S)
    forward(chunks[1])
    set_replay(chunks[1], routes, seq_length=S)
