"""set_replay in GPTModels of Megatron-Core on one rank: what it takes, holds and lets go."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from routectl import Packing, Rank, pack
from routectl.dump import Sample
from routectl.errors import MismatchError
from routectl.forward.routers import find_megatron_routers
from routectl.trainers.megatron import set_replay
from support.foreign import HAVE_VERL
from support.mcore_foreign import verl
from support.mcore_live import FULL, K
from support.mcore_one import LAYERS, LENS, S, agrees, forward, model_of, routes_of, thd

PAGE = Path(__file__).parent.parent.parent / "docs" / "trainers" / "megatron.md"
pytestmark = [
    pytest.mark.trainers,
    pytest.mark.filterwarnings("ignore:.*tp_group is None"),  # Megatron's own calls
]


def test_forward_and_recomputation_take_the_routes_and_nothing_stays(core):
    """Forward and recomputed rows are the routes; then routers are native and hold nothing."""
    model, seen = model_of(core, **FULL)
    routes = routes_of()
    set_replay(model, routes, seq_length=S)
    output = forward(model)
    assert [again for _, again, _ in seen] == [False, False]
    output.square().sum().backward()
    assert [again for _, again, _ in seen[2:]] == [True, True]
    assert agrees(seen, routes)
    for instance in core.Replay.global_router_replay_instances:
        assert instance.router_replay_action is None
        assert instance.target_topk_idx is None
        assert instance.replay_backward_list == []
    seen.clear()
    with torch.no_grad():
        forward(model)
    assert not agrees(seen, routes)


def test_micro_batches_are_told_apart_in_any_order(core):
    """Backward passes in another order than the forwards recompute each its own routes."""
    model, seen = model_of(core, **FULL)
    batches = [routes_of(seed) for seed in range(3)]
    outputs = []
    for routes in batches:
        set_replay(model, routes, seq_length=S)
        outputs.append(forward(model))
    for i in (1, 2, 0):
        seen.clear()
        outputs[i].sum().backward()
        assert agrees(seen, batches[i])


def test_a_forward_without_a_backward_leaves_nothing(core):
    """Log-probs under no_grad before a training step do not get into its recomputation."""
    model, seen = model_of(core, **FULL)
    first, second = routes_of(1), routes_of(2)
    with torch.no_grad():
        set_replay(model, first, seq_length=S)
        forward(model)
    assert agrees(seen, first)
    set_replay(model, second, seq_length=S)
    seen.clear()
    forward(model).sum().backward()
    assert len(seen) == 4
    assert agrees(seen, second)


def test_a_forward_that_fails_leaves_nothing(core):
    """After an error in the forward the next micro-batch is set as if nothing had been."""
    model, seen = model_of(core)
    routes = routes_of()
    set_replay(model, routes, seq_length=S)
    with pytest.raises(MismatchError, match="has 8 rows on this rank, its routes 24"):
        forward(model, lens=LENS[:1])
    assert model._forward_hooks == {}
    set_replay(model, routes_of(3), seq_length=S)
    set_replay(model, routes, seq_length=S)  # one that never ran is let go
    seen.clear()
    forward(model)
    assert agrees(seen, routes)


def test_what_routes_may_be(core):
    """Routes, Samples, arrays and tensors of the MoE layers or of all, and Packed: the same."""
    model, seen = model_of(core)
    routes = routes_of()
    ids = [held.ids_TLK for held in routes]
    padded = [np.concatenate([np.full_like(one[:, :1], 7), one], axis=1) for one in ids]
    packing = Packing(LENS, "megatron", form="bshd", seq_len=S)
    samples = [
        Sample(held, prompt_length=1, response_length=n - 1)
        for held, n in zip(routes, LENS, strict=True)
    ]
    forms = {
        "routes": routes,
        "samples": samples,
        "arrays": [one.astype(np.int64) for one in ids],
        "all layers": padded,
        "tensors": [torch.from_numpy(one) for one in ids],
        "packed": pack(routes, packing, Rank()),
    }
    for name, form in forms.items():
        seen.clear()
        set_replay([model], form, seq_length=S)
        forward(model)
        assert agrees(seen, routes), name


def test_packed_micro_batches_say_where_sequences_are(core):
    """Routes follow cu_seqlens_q_padded, whatever it pads to, with padding after the last."""
    model, seen = model_of(core)
    routes = routes_of()
    for places in ((5, 8, 3), (8, 8, 8), (6, 10, 4, 12)):
        params = thd(core, (*LENS, *([12] if len(places) > 3 else [])), list(places))
        seen.clear()
        set_replay(model, routes, params)
        total = sum(places)
        tokens = torch.randint(0, 512, (1, total))
        model(tokens, torch.arange(total)[None] % 64, None, packed_seq_params=params)
        starts = np.cumsum([0, *places])
        for layer, _, rows in seen:
            assert all(len(row) == K for row in rows)
            for b, held in enumerate(routes):
                own = rows[starts[b] : starts[b] + held.num_tokens]
                column = LAYERS.index(layer)
                assert own == [set(ids_K.tolist()) for ids_K in held.ids_TLK[:, column]]


def test_the_lines_of_the_page(core):
    """The forward step that docs/trainers/megatron.md shows replays the routes of a micro-batch."""
    model, seen = model_of(core, **FULL)
    lines = re.search(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)[1]
    routes, total = routes_of(), sum(LENS)
    batch = {"tokens": torch.arange(total)[None], "position_ids": torch.arange(total)[None]}
    made = {"get_batch": lambda it: (batch, routes, next(it)), "loss_function": torch.sum}
    exec(lines, made)
    output, loss = made["forward_step"](iter([thd(core, LENS)]), model)
    loss(output).backward()
    assert len(seen) == 4
    for layer, _, rows in seen:
        wanted = [held.ids_TLK[:, LAYERS.index(layer)].tolist() for held in routes]
        starts = np.cumsum([0, *LENS])
        for start, ids in zip(starts, wanted, strict=False):
            assert rows[start : start + len(ids)] == [set(row) for row in ids]


def test_wrappers_are_seen_through(core):
    """A chunk inside wrappers is found, as DDP and Float16Module hold it in ``module``."""

    class Wrapper(torch.nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, *args):
            return self.module(*args)

    model, seen = model_of(core, **FULL)
    routes = routes_of()
    wrapped = Wrapper(Wrapper(model))
    set_replay(wrapped, routes, seq_length=S)
    forward(wrapped).sum().backward()
    assert len(seen) == 4
    assert agrees(seen, routes)


@pytest.mark.skipif(not HAVE_VERL, reason="verl is not installed")
def test_verls_own_router_replay(core):
    """Routers that verl has patched keep a class, actions and queues of their own: all are set."""
    model, seen = model_of(core, **FULL)
    replays = [verl()[1].RouterReplay() for _ in LAYERS]
    for at, replay in zip(find_megatron_routers(model), replays, strict=True):
        at.module.router_replay = replay
    batches = [routes_of(seed) for seed in range(2)]
    outputs = []
    for routes in batches:
        set_replay(model, routes, seq_length=S)
        outputs.append(forward(model))
        assert agrees(seen, routes)
        seen.clear()
    outputs[1].sum().backward()
    assert agrees(seen, batches[1])
    left = [len(one.replay_backward_list + one.replay_backward_mask_list) for one in replays]
    assert left == [0, 0]


def test_mtp_layers_select_by_themselves(core):
    """The router of an MTP layer, which no engine records, has no target, forward or recomputed."""
    model, seen = model_of(core, mtp_num_layers=1, **FULL)
    (extra,) = (m for name, m in model.mtp.named_modules() if name.endswith("mlp.router"))
    actions = []
    extra.register_forward_hook(
        lambda router, *_: actions.append(router.router_replay.router_replay_action)
    )
    routes = routes_of()
    set_replay(model, routes, seq_length=S)
    tokens, places = torch.arange(24).view(3, S), torch.arange(S).repeat(3, 1)
    out = model(tokens, places, None, labels=tokens, loss_mask=torch.ones(3, S))
    out.sum().backward()
    assert len(seen) == 4
    assert agrees(seen, routes)
    assert len(actions) >= 1
    assert set(actions) == {None}


def test_dense_layers_need_nothing(core):
    """A chunk without a MoE layer, of a model that has some, is left alone."""
    model, _ = model_of(core, freq=[0, 0])
    set_replay(model, routes_of(), seq_length=S)
    forward(model)


@pytest.mark.parametrize("wrap", [lambda out: {"logits": out}, lambda out: [None, (out, 3)]])
def test_outputs_of_any_form(core, wrap):
    """A model that gives a dict, or more than one output, is recomputed with its routes, too."""

    class Model(torch.nn.Module):
        def __init__(self, decoder):
            super().__init__()
            self.decoder_model = decoder

        def forward(self, *args):
            return wrap(self.decoder_model(*args))

    model, seen = model_of(core, **FULL)
    routes = routes_of()
    outer = Model(model)
    set_replay(outer, routes, seq_length=S)
    out = forward(outer)
    (out["logits"] if isinstance(out, dict) else out[1][0]).sum().backward()
    assert len(seen) == 4
    assert agrees(seen, routes)
