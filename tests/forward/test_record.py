"""record and replay in live transformers models, against hooks and against plain runs."""

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from routectl import Routes, Sample, diff, open_dump
from routectl.errors import MismatchError, UnsupportedError
from routectl.forward.live import record, replay
from support import families
from support.forwards import checkpointing

pytestmark = pytest.mark.models

COVERED = tuple(families.FAMILIES)


def batch(rows=2, tokens=9, seed=1):
    """Token ids [B, S]."""
    return torch.randint(3, 100, (rows, tokens), generator=torch.Generator().manual_seed(seed))


def output(model, ids, **more):
    """The last hidden states, or logits, of a forward."""
    out = model(input_ids=ids, use_cache=False, **more)
    return out.last_hidden_state if hasattr(out, "last_hidden_state") else out.logits


class LastTopk(TorchFunctionMode):
    """The indices of the last top-k of K experts: what a router selected."""

    def __init__(self, top_k):
        super().__init__()
        self.top_k, self.ids = top_k, None

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func in (torch.topk, torch.Tensor.topk) and out.indices.shape[-1] == self.top_k:
            self.ids = out.indices
        return out


def by_hand(model, ids, top_k):
    """{layer: ids [B * S, K]} by replacing each router's forward in the obvious way."""
    seen, routers = {}, families.routers(model)

    def watch(layer, forward):
        def run(*args, **kwargs):
            with LastTopk(top_k) as mode:
                out = forward(*args, **kwargs)
            seen[layer] = out[2].reshape(-1, top_k) if mode.ids is None else mode.ids
            return out

        return run

    for layer, module in routers.items():
        module.forward = watch(layer, module.forward)
    with torch.no_grad():
        output(model, ids)
    for module in routers.values():
        del module.forward
    return {layer: ids_RK.reshape(-1, top_k).numpy() for layer, ids_RK in seen.items()}


def shuffled(routes, seed=0):
    """Random distinct experts in the shape of some routes."""
    rng = np.random.default_rng(seed)
    made = []
    for held in routes:
        t, layers, k = held.ids_TLK.shape
        ids = [[rng.permutation(held.num_experts)[:k] for _ in range(layers)] for _ in range(t)]
        made.append(Routes(np.array(ids, held.ids_TLK.dtype), held.layers_L, held.num_experts))
    return made


@pytest.mark.parametrize("name", [n for n in COVERED if "phimoe" not in n])
def test_recorded_is_what_routers_take(name):
    """Every family: ids and their order are those of the router's last top-k, on every layer."""
    model, ids = families.tiny(name), batch()
    with record(model) as recorder, torch.no_grad():
        out = output(model, ids)
    assert torch.equal(out, output(model, ids))
    routes = recorder.routes()
    seen = by_hand(model, ids, routes[0].top_k)
    assert routes[0].layers_L == tuple(sorted(seen))
    for b, held in enumerate(routes):
        for column, layer in enumerate(held.layers_L):
            assert np.array_equal(held.ids_TLK[:, column], seen[layer][9 * b : 9 * b + 9])


@pytest.mark.parametrize("name", COVERED)
def test_replaying_its_own_routes_changes_nothing(name):
    """Every family: outputs are the same bits when the model is given its own routes."""
    model, ids = families.tiny(name), batch()
    with record(model) as recorder, torch.no_grad():
        plain = output(model, ids)
    with replay(model, recorder.routes()), torch.no_grad():
        assert torch.equal(output(model, ids), plain)
    assert "forward" not in vars(next(iter(families.routers(model).values())))


@pytest.mark.parametrize("name", [n for n in COVERED if n != "deepseek_v4"])
def test_forced_routes_are_taken_with_gradients(name):
    """Every family: a replayed forward differs, gradients reach each router, and what the experts
    are called with is proven to be what was given."""
    model, ids = families.tiny(name), batch()
    with record(model) as recorder, torch.no_grad():
        plain = output(model, ids)
    with replay(model, shuffled(recorder.routes()), prove=True) as proof:
        out = output(model, ids)
        out.float().square().sum().backward()
    assert not torch.equal(out, plain)
    assert proof.seen_L.tolist() == [18] * len(recorder.layers)
    for module in families.routers(model).values():
        assert any(p.grad is not None and p.grad.any() for p in module.parameters())


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", ["qwen3_moe", "deepseek_v3", "mixtral", "gpt_oss"])
def test_gradient_checkpointing(name, reentrant):
    """What the backward computes again is not recorded twice, and is given the same routes."""
    ids = batch()

    def step(checkpointed, routes):
        model = families.tiny(name).train()
        if checkpointed:
            checkpointing(model, {"use_reentrant": reentrant})
            model.enable_input_require_grads()
        block = record(model) if routes is None else replay(model, routes)
        with block as recorder:
            out = [output(model, part) for part in (ids, ids.flip(1))]
            for part in out:  # two forwards in flight, backward in their order
                part.float().square().sum().backward()
        grads = [p.grad for module in families.routers(model).values() for p in module.parameters()]
        return recorder, torch.stack(out).detach(), [g for g in grads if g is not None]

    recorder, plain, grads = step(False, None)
    again, out, others = step(True, None)
    assert torch.equal(plain, out)
    assert len(again.routes()) == len(recorder.routes()) == 4
    for one, two in zip(recorder.routes(), again.routes(), strict=True):
        assert np.array_equal(one.ids_TLK, two.ids_TLK)
    forced = shuffled(recorder.routes())
    _, plain, grads = step(False, forced)
    _, out, others = step(True, forced)
    assert torch.equal(plain, out)
    assert len(grads) == len(others) > 0
    assert all(
        torch.allclose(a, b, rtol=1e-5, atol=1e-7) for a, b in zip(grads, others, strict=True)
    )


def test_autocast():
    """Under autocast the routes of the bf16 forward are recorded."""
    model, ids = families.tiny("qwen3_moe"), batch(4, 40)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        with record(model) as recorder:
            output(model, ids)
        seen = by_hand(model, ids, 4)
    held = np.concatenate([r.ids_TLK for r in recorder.routes()])
    with torch.no_grad(), record(model) as exact:
        output(model, ids)
    assert not np.array_equal(held, np.concatenate([r.ids_TLK for r in exact.routes()]))
    assert set(seen) == set(recorder.layers)


def test_masks_and_packing_make_samples():
    """Padding on either side is no row, and packed positions cut a row into its sequences."""
    model, ids = families.tiny("qwen3_moe"), batch(2, 8)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0, 0, 0]])
    with record(model) as recorder, torch.no_grad():
        output(model, ids, attention_mask=mask)
    left, right = recorder.samples()
    assert np.array_equal(left.prompt_ids, ids[0, 2:])
    assert np.array_equal(right.prompt_ids, ids[1, :5])
    with record(model) as alone, torch.no_grad():
        output(model, ids[:1, 2:])
        output(model, ids[1:, :5])
    for one, two in zip((left, right), alone.samples(), strict=True):
        assert np.array_equal(one.routes.ids_TLK, two.routes.ids_TLK)
    packed = torch.cat([ids[0, 2:], ids[1, :5]])[None]
    places = torch.cat([torch.arange(6), torch.arange(5)])[None]
    with record(model) as recorder, torch.no_grad():
        output(model, packed, position_ids=places)
    assert [len(s.prompt_ids) for s in recorder.samples()] == [6, 5]


def test_a_recording_is_a_dump(tmp_path):
    """What write writes reads back as the same routes, and diff joins it by tokens."""
    model, ids = families.tiny("deepseek_v3"), batch(3, 12)
    with record(model) as recorder, torch.no_grad():
        output(model, ids)
    path = tmp_path / "train.parquet"
    assert recorder.write(path) == 3
    result = diff(recorder.dump(), open_dump(path))
    assert (result.rows, result.rows_mismatched) == (3 * 12 * 2, 0)


def test_missing_rows_stay_live():
    """A row without a route, and a sequence without routes, keep the router's own choice."""
    model, ids = families.tiny("qwen3_moe"), batch()
    with record(model) as recorder, torch.no_grad():
        output(model, ids)
    own = recorder.routes()
    other = shuffled(own)[0]
    missing = np.ones(other.ids_TLK.shape[:2], bool)
    missing[4:] = False
    holed = Routes(other.ids_TLK, other.layers_L, other.num_experts, 0, missing)
    with replay(model, [holed, None]), torch.no_grad():
        seen = by_hand_steered(model, ids)
    first = {layer: rows[:9] for layer, rows in seen.items()}
    column = own[0].layers_L.index(1)
    assert np.array_equal(first[1][:4], np.sort(own[0].ids_TLK[:4, column]))
    assert np.array_equal(first[1][4:], np.sort(other.ids_TLK[4:, column]))
    assert np.array_equal(seen[1][9:], np.sort(own[1].ids_TLK[:, column]))


def by_hand_steered(model, ids):
    """{layer: sorted ids [B * S, K]} that the experts are called with."""
    seen, hooks = {}, []
    for layer, router in families.routers(model).items():
        block = next(m for m in model.modules() if router in m.children())
        hooks.append(
            block.experts.register_forward_pre_hook(
                lambda module, args, layer=layer: seen.update(
                    {layer: args[1].sort(-1).values.numpy()}
                )
            )
        )
    output(model, ids)
    for hook in hooks:
        hook.remove()
    return seen


def test_routes_that_do_not_fit():
    """Other layers, other K, more rows than tokens, and too few sequences are refused."""
    model, ids = families.tiny("qwen3_moe"), batch()
    with record(model) as recorder, torch.no_grad():
        output(model, ids)
    own = recorder.routes()
    short = Routes(own[0].ids_TLK[..., :2].copy(), own[0].layers_L, own[0].num_experts)
    late = Routes(own[0].ids_TLK, own[0].layers_L, own[0].num_experts, 3)
    moved = Routes(own[0].ids_TLK, (0, 1), own[0].num_experts)
    for bad in ([short, None], [late, None], [moved, None], own[:1]):
        with pytest.raises(MismatchError, match=r"does not fit|more sequences"), replay(model, bad):
            output(model, ids)
        assert torch.isfinite(output(model, ids)).all()


def test_what_has_no_routers_or_tokens_is_refused():
    """A dense model, and a forward on embeddings, are refused in one line."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {
        "vocab_size": 64,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    with pytest.raises(UnsupportedError), record(LlamaForCausalLM(LlamaConfig(**sizes))):
        pass
    model = families.tiny("qwen3_moe")
    with record(model), pytest.raises(UnsupportedError, match="without input_ids"):
        model(inputs_embeds=torch.zeros(1, 4, 32))


def test_what_is_no_model_or_no_routes_is_refused_at_the_door():
    """A layer without a config, no module at all, and what are no routes: one line each."""
    with pytest.raises(UnsupportedError, match="Linear has no router: expected a model of"):
        record(torch.nn.Linear(2, 2)).__enter__()
    with pytest.raises(TypeError, match="got str, expected a model"):
        record("Qwen3").__enter__()
    model = families.tiny("qwen3_moe")
    with record(model) as recorder:
        output(model, batch())
    (held,) = recorder.routes()[:1]
    array = held.ids_TLK
    for bad, said in (
        (held, "got Routes, expected a list"),
        (array, "got ndarray, expected a list"),
        (recorder, "got Recorder, expected a list"),
        ({0: held}, "got dict, expected a list"),
        (None, "got NoneType, expected a list"),
        (
            [held, array.tolist()],
            r"routes\[1\]: got list, expected Routes, a Sample, an ",
        ),
        ([torch.from_numpy(array)], r"routes\[0\]: got Tensor, .*: pass its \.cpu\(\)\.numpy\(\)"),
        ([array.astype(np.float32)], r"routes\[0\]: got an array of float32"),
    ):
        with pytest.raises(TypeError, match=said) as error:
            replay(model, bad).__enter__()
        assert "\n" not in str(error.value)
    for bad, said in (
        (array[:, :1], r"got an array \[9, 1, 4\], expected \[N, 2, 4\]: the MoE layers .*1, 2"),
        (array[..., :3], r"got an array \[9, 2, 3\]"),
        (array + 16, "ids are 16 to .*, expected 0 to 15"),
        (np.where(np.arange(4) == 0, -1, array.astype(np.int64)), "ids are -1 to"),
    ):
        with pytest.raises(MismatchError, match=said):
            replay(model, [bad]).__enter__()
    assert "forward" not in vars(next(iter(families.routers(model).values())))
    assert not model._forward_hooks


def test_arrays_samples_and_routes_are_taken():
    """A sequence's routes may be Routes, a Sample or an integer array; a row of -1 is missing."""
    model, ids = families.tiny("qwen3_moe"), batch(4)
    with record(model) as recorder, torch.no_grad():
        output(model, ids)
    given = shuffled(recorder.routes())
    holed = given[2].ids_TLK.astype(np.int16)
    holed[3:5] = -1
    kinds = [given[0], Sample(given[1]), holed, given[3].ids_TLK.astype(np.int64)]
    missing = np.zeros((9, 2), bool)
    missing[3:5] = True
    plain = [*given[:2], Routes(given[2].ids_TLK, (1, 2), 16, 0, missing), given[3]]
    with torch.no_grad():
        with replay(model, kinds, prove=True) as proof:
            one = output(model, ids)
        with replay(model, plain):
            two = output(model, ids)
    assert torch.equal(one, two)
    assert proof.given_L.tolist() == proof.seen_L.tolist() == [34, 34]
    assert proof.other_L.tolist() == [0, 0]


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_every_sequence_must_come(steps):
    """Routes that are left over at the end of the block are an error, as are too few; where the
    block fails its own error goes on."""
    model, ids = families.tiny("qwen3_moe"), batch()
    with record(model) as recorder, torch.no_grad():
        output(model, ids)
    said = (
        "left over: the forwards .* were of 0 sequences, 4 were given",
        "left over: the forwards .* were of 2 sequences, 4 were given",
        "2 in this forward, 0 routes left",
    )[min(steps, 2)]
    with (
        pytest.raises(MismatchError, match=said),
        replay(model, recorder.routes() * 2),
    ):
        assert [output(model, ids) is not None for _ in range(steps)] == [True] * steps
    with pytest.raises(ZeroDivisionError), replay(model, recorder.routes()):
        1 / 0  # noqa: B018
    assert not model._forward_hooks


def test_graphs_only_leaves_scoring_and_generating_out():
    """Forwards without gradients, generate's too, are no samples; those of a loss are."""
    model = families.tiny("qwen3_moe")
    ids = batch()
    with record(model, graphs_only=True) as recorder:
        with torch.no_grad():
            output(model, batch(seed=2))
        if hasattr(model, "generate"):
            model.generate(ids, max_new_tokens=2, do_sample=False)
        output(model, ids).sum().backward()
    assert [s.prompt_ids.tolist() for s in recorder.samples()] == ids.tolist()


def test_what_is_detached_stays_apart():
    """What was recorded so far is a recorder of its own; the block goes on with what comes."""
    model = families.tiny("qwen3_moe")
    first, second = batch(seed=1), batch(seed=2)
    with record(model) as recorder:
        output(model, first)
        taken = recorder.detach()
        assert list(recorder.samples()) == []
        output(model, second)
        assert [s.prompt_ids.tolist() for s in taken.samples()] == first.tolist()
    assert [s.prompt_ids.tolist() for s in recorder.samples()] == second.tolist()
    with record(model) as again:
        output(model, first)
    for one, other in zip(taken.samples(), again.samples(), strict=True):
        assert np.array_equal(one.routes.ids_TLK, other.routes.ids_TLK)
