"""Forcing: a model's own routes change nothing, others give the weights of the replay rule.

Shape suffixes: T tokens, L MoE layers, K top_k, E experts, D hidden.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from routectl import MismatchError, Routes
from routectl.forward.probe import Probe
from routectl.forward.routers import find_routers
from routectl.forward.tape import Forced, Tape
from support import families
from support.forwards import checkpoint_of, forward, samples

pytestmark = pytest.mark.models

NAMES = [name for name in families.FAMILIES if "." not in name]
MISSING = (2, 5)


@pytest.fixture(autouse=True)
def one_thread():
    """Sums in one order."""
    torch.set_num_threads(1)


def routes_of(result, prepared, **more):
    """The routes of a result, each row's slots reversed."""
    at = prepared.routers[0]
    ids_TLK = np.ascontiguousarray(result.ids_TLK[..., ::-1])
    return Routes(ids_TLK, prepared.layers, at.num_choices, **more)


def random_ids(rows, experts, top_k, seed=1):
    """Distinct random ids, int64 [T, K]."""
    noise = torch.rand(rows, experts, generator=torch.Generator().manual_seed(seed))
    return noise.argsort(dim=1)[:, :top_k]


@pytest.mark.parametrize("name", NAMES)
def test_own_routes_change_nothing(name, tmp_path):
    """A family forced along its own routes, slots reversed, gives the same router inputs, bit for
    bit, in bf16, plain and streamed; live ids and margins stay those of the free run.
    """
    folder, inputs = checkpoint_of(name, tmp_path), samples(9, 5)
    options = {"dtype": "bfloat16", "want_inputs": True}
    free, prepared = forward(folder, inputs, **options, streaming="stream")
    given = [
        replace(sample, routes=routes_of(result, prepared))
        for sample, result in zip(inputs, free, strict=True)
    ]
    for streaming in ("plain", "stream"):
        again, _ = forward(folder, given, **options, streaming=streaming, mode="forced")
        for one, two in zip(free, again, strict=True):
            assert np.array_equal(one.ids_TLK, two.ids_TLK)
            assert np.array_equal(one.ids_TLK, two.live_TLK)
            assert np.array_equal(one.margins_TL, two.margins_TL)
            assert np.array_equal(one.group_margins_TL, two.group_margins_TL)
            tables = [at.selection == "table" for at in prepared.routers]
            assert np.array_equal(two.forced_TL, np.tile(~np.array(tables), (len(one.ids_TLK), 1)))
            for layer in prepared.layers:
                assert torch.equal(one.inputs[layer], two.inputs[layer])


@pytest.mark.parametrize("name", NAMES)
def test_forced_sets_reach_the_experts_and_the_router_learns(name):
    """Random sets replace the top-k of every router, missing rows stay live, and gradients of what
    the router gives reach its weights.
    """
    model = families.tiny(name)
    routers = [at for at in find_routers(model) if at.selection != "table"]
    tokens = families.tokens(1, 11)
    missing_T = torch.zeros(11, dtype=torch.bool)
    missing_T[list(MISSING)] = True
    forced = {
        at.layer: Forced(random_ids(11, at.num_choices, at.top_k, at.layer), missing_T)
        for at in routers
    }
    with Probe(routers) as probe, probe.on(Tape(forced)) as tape:
        model(input_ids=tokens, use_cache=False)[0].float().square().sum().backward()
    for at in routers:
        row, given = tape.rows[at.layer], forced[at.layer].ids_TK.sort(1).values
        assert torch.equal(row.ids_TK.sort(1).values[~missing_T], given[~missing_T])
        assert torch.equal(row.ids_TK[missing_T], row.live_TK[missing_T])
        assert not torch.equal(row.ids_TK[~missing_T], row.live_TK[~missing_T])
        weights = [p.grad for p in at.module.parameters() if p.ndim == 2 and p.grad is not None]
        assert any(grad.isfinite().all() and grad.abs().sum() > 0 for grad in weights), at.name


def softmax_all(logits_TE, ids_TK, normed):
    """softmax over all experts, then of the forced ones, normed or not."""
    picked_TK = logits_TE.softmax(1).gather(1, ids_TK)
    return picked_TK / picked_TK.sum(1, keepdim=True) if normed else picked_TK


RULES = {
    "qwen3_moe": lambda z, ids, _: softmax_all(z, ids, True),
    "qwen3_moe.soft": lambda z, ids, _: softmax_all(z, ids, False),
    "mixtral": lambda z, ids, _: softmax_all(z, ids, True),
    "gpt_oss": lambda z, ids, _: z.gather(1, ids).softmax(1),
    "granitemoe": lambda z, ids, _: z.gather(1, ids).softmax(1),
    "deepseek_v3": lambda z, ids, scale: scale * normed(z.sigmoid().gather(1, ids)),
    "deepseek_v2": lambda z, ids, scale: scale * softmax_all(z, ids, False),
    "glm4_moe": lambda z, ids, scale: scale * normed(z.sigmoid().gather(1, ids)),
    "minimax_m2": lambda z, ids, _: normed(z.sigmoid().gather(1, ids)),
}


def normed(weights_TK):
    """Weights that sum to 1 a row."""
    return weights_TK / weights_TK.sum(1, keepdim=True)


@pytest.mark.parametrize("name", RULES)
def test_forced_weights_follow_the_replay_rule(name):
    """Forced ids get the family's own weights of them, gathered from scores without group mask."""
    model = families.tiny(name)
    at = find_routers(model)[-1]
    forced = Forced(random_ids(11, at.num_experts, at.top_k))
    given = []
    handle = at.module.register_forward_hook(lambda _m, _a, out: given.append(out))
    with torch.no_grad(), Probe([at]) as probe, probe.on(Tape({at.layer: forced})) as tape:
        model(input_ids=families.tokens(1, 11), use_cache=False)
    handle.remove()
    ((logits_TE, weights_TK, ids_TK),) = given
    rule_TK = RULES[name](logits_TE, ids_TK, 2.5)
    assert torch.equal(ids_TK, tape.rows[at.layer].ids_TK)
    assert torch.allclose(weights_TK, rule_TK, rtol=1e-6, atol=0)


def test_the_model_is_as_it_was_after_the_probe():
    """On exit, here by an error, no router has a replaced forward; one that another program has
    replaced is refused before any is touched."""
    model = families.tiny("qwen3_moe")
    routers = find_routers(model)
    tokens = families.tokens()
    before = model(input_ids=tokens).logits
    routers[1].module.forward = routers[1].module.forward
    with pytest.raises(ValueError, match="already replaced"), Probe(routers):
        pass
    assert "forward" not in vars(routers[0].module)
    del routers[1].module.forward
    with pytest.raises(ValueError, match="invalid literal"), Probe(routers):
        int("an error in the block")
    assert not any("forward" in vars(at.module) for at in routers)
    with Probe(routers) as probe:
        assert torch.equal(model(input_ids=tokens).logits, before)  # no tape: left alone
        with probe.on(Tape()) as tape:
            model(input_ids=tokens)
    assert sorted(tape.rows) == [1, 2]


def test_two_probes_see_the_ids_that_one_forces():
    """Each of two tapes in force has the ids that were used, and the rows that it asked for."""
    model, tokens = families.tiny("qwen3_moe"), families.tokens(1, 11)
    routers = find_routers(model)
    forced = {at.layer: Forced(random_ids(11, 16, 4, at.layer)) for at in routers}
    with (
        Probe(routers) as one,
        Probe(routers[1:]) as two,
        one.on(Tape(forced)) as steering,
        two.on(Tape(input_rows=5)) as seeing,
    ):
        model(input_ids=tokens)
    assert sorted(steering.rows) == [1, 2]
    assert sorted(seeing.rows) == [2]
    assert torch.equal(seeing.rows[2].ids_TK.sort(1).values, forced[2].ids_TK.sort(1).values)
    assert steering.rows[2].inputs_TD is None
    assert seeing.rows[2].inputs_TD.shape == (5, 32)


def test_both_gives_free_and_forced_of_each_sample(tmp_path):
    """Mode "both" gives two results a sample; rows before start and missing rows stay live."""
    folder, inputs = checkpoint_of("qwen3_moe", tmp_path), samples(9, 6)
    free, prepared = forward(folder, inputs, streaming="plain")
    given = []
    for sample, result in zip(inputs, free, strict=True):
        ids_TLK = np.random.default_rng(3).permuted(
            np.tile(np.arange(16, dtype=np.uint8), (len(result.ids_TLK) - 3, 2, 1)), axis=2
        )
        missing_TL = np.zeros(ids_TLK.shape[:2], np.bool_)
        missing_TL[1, 0] = True
        routes = Routes(np.ascontiguousarray(ids_TLK[..., :4]), prepared.layers, 16, 2, missing_TL)
        given.append(replace(sample, routes=routes))
    for streaming in ("plain", "stream"):
        found, _ = forward(folder, given, mode="both", streaming=streaming)
        assert [(r.index, r.mode) for r in found] == [
            (0, "free"),
            (0, "forced"),
            (1, "free"),
            (1, "forced"),
        ]
        for sample, one, two in zip(given, found[::2], found[1::2], strict=True):
            assert np.array_equal(one.ids_TLK, free[one.index].ids_TLK)
            assert one.live_TLK is None
            assert one.forced_TL is None
            there = two.forced_TL
            assert not there[:2].any()
            assert not there[-1].any()
            assert not there[3, 0]
            assert there.sum() == there.size - 2 * 3 - 1
            assert np.array_equal(two.ids_TLK[~there], two.live_TLK[~there])
            rows = np.sort(two.ids_TLK[2:-1], 2)
            wanted = np.sort(sample.routes.ids_TLK, 2)
            assert np.array_equal(rows[there[2:-1]], wanted[there[2:-1]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"routes": None}, "no routes to force"),
        ({"top_k": 3}, "got top-3 of 16, expected top-4 of 16"),
        ({"experts": 17}, "got top-4 of 17, expected top-4 of 16"),
        ({"layers": (0, 1)}, "layer 0 has routes, but no router"),
        ({"layers": (2,)}, "no routes to force in layer 1: got 1 MoE layers, expected 2"),
        ({"rows": 10}, "10 rows for 9 tokens"),
    ],
)
def test_routes_of_another_model_are_refused(change, message, tmp_path):
    """Routes that do not fit the model are refused before any weight is read."""
    folder, (sample,) = checkpoint_of("qwen3_moe", tmp_path), samples(9)
    rows, top_k = change.get("rows", 8), change.get("top_k", 4)
    layers = change.get("layers", (1, 2))
    ids_TLK = np.tile(np.arange(top_k, dtype=np.uint8), (rows, len(layers), 1))
    routes = Routes(ids_TLK, layers, change.get("experts", 16))
    sample = replace(sample, routes=None if "routes" in change else routes)
    with pytest.raises(MismatchError, match=message):
        forward(folder, [sample], mode="forced", streaming="stream")


def test_layers_that_a_table_decides_need_no_routes(tmp_path):
    """Of DeepSeek-V4, all layers but the hash layer must be there: that one cannot be forced."""
    folder, inputs = checkpoint_of("deepseek_v4", tmp_path), samples(9)
    (free,), _ = forward(folder, inputs)
    for layers, whole in (((1, 2), True), ((0, 1), False)):
        routes = Routes(np.ascontiguousarray(free.ids_TLK[:, layers]), layers, 16)
        given = [replace(inputs[0], routes=routes)]
        if not whole:
            with pytest.raises(MismatchError, match="no routes to force in layer 2: got 2"):
                forward(folder, given, mode="forced")
            continue
        (forced,), _ = forward(folder, given, mode="forced")
        assert np.array_equal(forced.ids_TLK, free.ids_TLK)
        assert forced.forced_TL.all(0).tolist() == [False, True, True]
