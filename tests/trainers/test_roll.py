"""set_router_replay_data for ROLL's packed batches, on one rank: rows, layers, what is refused."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from routectl.errors import MismatchError, UnsupportedError
from routectl.trainers.roll import set_router_replay_data
from support.mcore_live import E, K
from support.mcore_one import LENS, S, thd
from support.mcore_ranks import config_of_ranks

PAGE = Path(__file__).parent.parent.parent / "docs" / "trainers" / "roll.md"
pytestmark = pytest.mark.trainers


def batch(layers):
    """ROLL's routed_experts [B, S, L, K], zeros from the last token on, and its attention mask."""
    rng = np.random.default_rng(3)
    mask = (torch.arange(S) < torch.tensor(LENS)[:, None]).long()
    ids = np.argsort(rng.random((len(LENS), S, layers, E)), axis=3)[..., :K]
    routes = torch.from_numpy(ids).to(torch.uint8)
    for b, n in enumerate(LENS):
        routes[b, n - 1 :] = 0
    return routes, mask


def stage_of(core, freq, routers, **sizes):
    """A config, and as many RouterReplays as a stage's chunks would have made."""
    core.Replay.clear_global_router_replay_instances()
    return config_of_ranks(core, len(freq), freq, **sizes), [core.Replay() for _ in range(routers)]


def check(instance, routes, layer, places):
    """An instance has each route of a layer at its place, and K different experts elsewhere."""
    target = instance.target_topk_idx
    assert (target.dtype, tuple(target.shape)) == (torch.int64, (sum(places), K))
    assert all(len(set(row)) == K for row in target.tolist())
    starts = np.cumsum([0, *places])
    for b, n in enumerate(LENS):
        assert torch.equal(target[starts[b] : starts[b] + n - 1], routes[b, : n - 1, layer].long())


def test_rows_are_where_roll_packs_tokens(core):
    """Sequences take whole multiples of 16, dense layers are skipped, ids are widened to int64."""
    config, instances = stage_of(core, [0, 1, 1], 2)
    routes, mask = batch(3)
    set_router_replay_data(routes, mask, config)
    for instance, layer in zip(instances, (1, 2), strict=True):
        check(instance, routes, layer, [16, 16, 16])
        assert len(instance.replay_backward_list) == 1
    set_router_replay_data(routes[:, :, 1:].short(), mask.bool(), config)  # of MoE layers alone
    check(instances[1], routes, 2, [16, 16, 16])


def test_the_lines_of_the_page(core):
    """The call that docs/trainers/roll.md shows takes what ROLL holds in inner_forward_step."""
    config, instances = stage_of(core, [0, 1, 1], 2)
    routes, mask = batch(3)
    imports, call = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    held = {
        "self": SimpleNamespace(model=SimpleNamespace(config=config)),
        "data": SimpleNamespace(batch={"attention_mask": mask, "routed_experts": routes}),
        "layers_topk_idx": routes,
        "vp_rank": 0,
        "packed_seq_params": thd(core, (16, 16, 16)),
    }
    exec(imports + call, held)
    check(instances[1], routes, 2, [16, 16, 16])


def test_packed_seq_params_say_another_padding(core):
    """Where they are given, sequences are where they say."""
    config, instances = stage_of(core, [0, 1, 1], 2)
    routes, mask = batch(3)
    params = thd(core, (6, 8, 4))
    set_router_replay_data(routes, mask, config, None, packed_seq_params=params)
    check(instances[0], routes, 1, [6, 8, 4])


def test_virtual_stages_have_their_own_layers(core):
    """The chunk of vp_rank gets its layers, counted in MoE layers; MTP routers come after all."""
    config, instances = stage_of(core, [0, 1] * 4, 2, pp=2, vpp=2)
    routes, mask = batch(8)
    set_router_replay_data(routes, mask, config, 1)
    check(instances[1], routes, 5, [16, 16, 16])
    assert instances[0].target_topk_idx is None
    set_router_replay_data(routes, mask, config, 0)
    check(instances[0], routes, 1, [16, 16, 16])
    with pytest.raises(MismatchError, match="no virtual stage 2 among 2"):
        set_router_replay_data(routes, mask, config, 2)
    config, instances = stage_of(core, [0, 1, 1], 3)
    config.mtp_num_layers = 1
    routes, mask = batch(3)
    set_router_replay_data(routes, mask, config)
    assert instances[2].target_topk_idx is None


def test_a_stage_of_dense_layers_needs_nothing(core):
    """Without a MoE layer in the chunk nothing is asked of the batch."""
    config, _ = stage_of(core, [0, 0], 0)
    set_router_replay_data(torch.zeros(0), None, config)


@pytest.mark.parametrize("routers", [0, 1, 4])
def test_routers_of_another_model(core, routers):
    """Fewer or more RouterReplays than MoE layers are refused, with the flag."""
    config, _ = stage_of(core, [0, 1, 1], routers)
    with pytest.raises(
        UnsupportedError, match=f"has {routers} RouterReplays .* 2 MoE .*g_replay=T"
    ):
        set_router_replay_data(*batch(3), config)


def test_what_is_no_batch_of_rolls(core):
    """No mask, other shapes, padding on the left and rows of zeros are told by name."""
    config, _ = stage_of(core, [0, 1, 1], 2)
    routes, mask = batch(3)
    with pytest.raises(MismatchError, match=r'is None.* give data\.batch\["attention_mask"\]'):
        set_router_replay_data(routes, None, config)
    with pytest.raises(MismatchError, match=r"routed_experts are \(3, 7, 3, 2\), the attention"):
        set_router_replay_data(routes[:, :7], mask, config)
    with pytest.raises(MismatchError, match="sequence 0: its tokens are not the first of its row"):
        set_router_replay_data(routes, mask.flip(1), config)
    with pytest.raises(MismatchError, match="routes have 4 layers of 2 experts, the model 2 MoE"):
        set_router_replay_data(torch.cat([routes, routes[:, :, :1]], 2), mask, config)
    routes[1, 3] = 0
    with pytest.raises(MismatchError, match="sequence 1: token 3 has expert 0 twice in layer 1"):
        set_router_replay_data(routes, mask, config)
    with pytest.raises(MismatchError, match="packed_seq_params have 2 sequences, the routes are"):
        set_router_replay_data(routes, mask, config, packed_seq_params=thd(core, (8, 8)))
