"""Routes under gradient checkpointing: a recomputation is given those of its own forward.

The oracle is a router written by hand, which takes given ids by a mask and keeps the router's own
formula, in a model without checkpointing.
"""

import gc
import threading
from functools import partial

import numpy as np
import pytest
import torch
from torch.utils.checkpoint import checkpoint

from routectl import Routes
from routectl.errors import UnsupportedError
from routectl.forward.live import record, replay
from support import families
from support.forwards import checkpointing

pytestmark = [
    pytest.mark.models,
    # torch's, of a reentrant checkpoint under no_grad, as of an inner one in its first run
    pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad"),
]

ROWS, TOKENS, LAYERS = 2, 7, (1, 2)


def tokens(seed):
    """Token ids of a micro-batch."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, 100, (ROWS, TOKENS), generator=generator)


def routes(seed):
    """Random routes of a micro-batch, a sequence each."""
    rng = np.random.default_rng(seed)
    shape = (ROWS, TOKENS, len(LAYERS))
    ids = np.array([rng.permutation(16)[:4] for _ in range(np.prod(shape))], np.uint8)
    return [Routes(part, LAYERS, 16) for part in ids.reshape(*shape, 4)]


IDS = [tokens(seed) for seed in range(3)]
ROUTES = [routes(seed) for seed in range(3)]


def loss_of(model, ids):
    """A loss that every layer has a part in."""
    return model(input_ids=ids, use_cache=False).logits.float().square().mean()


def masked(router, ids_TK):
    """Qwen3's router by hand: the k highest of the probabilities that the mask of ids keeps."""

    def forward(hidden):
        logits = hidden.reshape(-1, router.hidden_dim) @ router.weight.t()
        probs = logits.softmax(-1)
        mask = torch.zeros(logits.shape, dtype=torch.bool).scatter(1, ids_TK, True)
        values, ids = probs.masked_fill(~mask, -1.0).topk(ids_TK.shape[1])
        return logits, values / values.sum(-1, keepdim=True), ids

    return forward


def by_hand(batches):
    """Gradients of a micro-batch after the other; routes of None are the router's own."""
    model = families.tiny("qwen3_moe").train()
    for ids, held in batches:
        for layer, router in families.routers(model).items():
            if held is not None:
                taken = [h.ids_TLK[:, LAYERS.index(layer)] for h in held]
                router.forward = masked(router, torch.from_numpy(np.concatenate(taken)).long())
        loss_of(model, ids).backward()
        for router in families.routers(model).values():
            vars(router).pop("forward", None)
    return gradients(model)


def gradients(model):
    """By name."""
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def same(found, expected):
    """The gradients are those of the oracle, to a float32's last digits."""
    assert found.keys() == expected.keys()
    for name, grad in expected.items():
        assert (found[name] - grad).abs().max() <= 2e-6 * grad.abs().max(), name
    return True


def nested(model, outer, inner):
    """A checkpoint over the last two layers, each of which is one of its own."""
    first, second = model.model.layers[1:]

    def both(*args, one=first.forward, two=second.forward, **kwargs):
        def run(hidden):
            once = checkpoint(partial(one, **kwargs), hidden, use_reentrant=inner)
            return checkpoint(partial(two, **kwargs), once, use_reentrant=inner)

        return checkpoint(run, *args, use_reentrant=outer)

    first.forward = both
    second.forward = lambda hidden, *args, **kwargs: hidden


WAYS = {
    "none": lambda model: None,
    "hf": lambda model: checkpointing(model, {"use_reentrant": False}),
    "hf reentrant": lambda model: checkpointing(model, {"use_reentrant": True}),
    **{
        f"nested {outer} {inner}": partial(nested, outer=outer, inner=inner)
        for outer in (False, True)
        for inner in (False, True)
    },
}


@pytest.fixture(params=WAYS)
def model(request):
    """A training model under one way of checkpointing."""
    built = families.tiny("qwen3_moe").train()
    WAYS[request.param](built)
    built.enable_input_require_grads()
    return built


def apart(model):
    """Two forwards, then their backward passes in order."""
    losses = [loss_of(model, ids) for ids in IDS[:2]]
    for loss in losses:
        loss.backward()


def backwards(model):
    """Two forwards, the last one's backward pass first."""
    losses = [loss_of(model, ids) for ids in IDS[:2]]
    for loss in losses[::-1]:
        loss.backward()


def together(model):
    """One backward pass of two forwards."""
    (loss_of(model, IDS[0]) + loss_of(model, IDS[1])).backward()


def one_by_one(model):
    """F B F B."""
    for ids in IDS[:2]:
        loss_of(model, ids).backward()


def one_f_one_b(model):
    """F F B F B B, as the first stage of a pipeline of two does."""
    first, second = (loss_of(model, ids) for ids in IDS[:2])
    first.backward()
    third = loss_of(model, IDS[2])
    second.backward()
    third.backward()


def twice(model):
    """A graph that is kept is gone through twice."""
    first, second = (loss_of(model, ids) for ids in IDS[:2])
    (first + second).backward(retain_graph=True)
    model.zero_grad()
    (second + first).backward()


@pytest.mark.parametrize(
    "schedule",
    [apart, backwards, together, one_by_one, one_f_one_b, twice],
    ids=lambda s: s.__name__,
)
def test_a_recomputation_is_given_its_own_routes(model, schedule):
    """Gradients are those of the masks by hand, in whichever order backward passes come; record
    inside the block sees each forward once, with the ids that were forced."""
    count = 3 if schedule is one_f_one_b else 2
    given = [held for batch in ROUTES[:count] for held in batch]
    with replay(model, given), record(model) as recorder:
        schedule(model)
    assert same(gradients(model), by_hand(zip(IDS[:count], ROUTES, strict=False)))
    for one, two in zip(recorder.routes(), given, strict=True):
        assert np.array_equal(np.sort(one.ids_TLK), np.sort(two.ids_TLK))


def in_a_thread(function):
    """Run in a thread of its own, whose autograd nodes are numbered anew, as a device's are."""
    failed = []

    def run():
        try:
            function()
        except BaseException as error:  # noqa: BLE001
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


def test_a_backward_pass_in_another_thread(model):
    """Where a device's thread computes again, its own numbers are not taken for the forward's."""
    with replay(model, [held for batch in ROUTES for held in batch]):
        losses = [loss_of(model, ids) for ids in IDS]
        for number in (2, 0, 1):
            in_a_thread(losses[number].backward)
    assert same(gradients(model), by_hand(zip(IDS, ROUTES, strict=True)))


@pytest.mark.parametrize("way", ["none", "hf", "hf reentrant"])
def test_forwards_in_several_threads_are_refused(way):
    """Their nodes have the same numbers: a recomputation is refused, and what needs none is not."""
    model = families.tiny("qwen3_moe").train()
    WAYS[way](model)
    model.enable_input_require_grads()
    with replay(model, [*ROUTES[0], *ROUTES[1]]):
        losses = [loss_of(model, IDS[0])]
        in_a_thread(lambda: losses.append(loss_of(model, IDS[1])))
        if way == "none":
            sum(losses).backward()
            assert same(gradients(model), by_hand(zip(IDS[:2], ROUTES, strict=False)))
        else:
            with pytest.raises(UnsupportedError, match="several threads"):
                losses[0].backward()


def test_experts_are_called_with_the_ids_of_their_forward(model):
    """Every call of the experts, in a forward or in a backward pass, has the ids of the micro-batch
    whose token ids led to it."""
    calls = []
    for layer, router in families.routers(model).items():
        block = next(m for m in model.modules() if router in m.children())
        block.experts.register_forward_pre_hook(
            lambda module, args, layer=layer: calls.append(
                (layer, args[1].sort(1).values, torch._C._current_graph_task_id() != -1)
            )
        )
    with replay(model, [*ROUTES[0], *ROUTES[1]]):
        losses = [loss_of(model, ids) for ids in IDS[:2]]
        for number, loss in reversed(list(enumerate(losses))):
            begin = len(calls)
            loss.backward()
            for layer, ids, again in calls[begin:]:
                column = [held.ids_TLK[:, LAYERS.index(layer)] for held in ROUTES[number]]
                wanted = torch.from_numpy(np.sort(np.concatenate(column))).long()
                assert torch.equal(ids, wanted)
                assert again


def test_forwards_that_were_given_no_routes_stay_live(model):
    """A live forward before the block, one without gradients in it, and one after it, are computed
    again by the router's own choice; and a backward pass after the block has the block's routes."""
    before = loss_of(model, IDS[0])
    with replay(model, [*ROUTES[2], *ROUTES[1]]):
        with torch.no_grad():
            loss_of(model, IDS[2])
        inside = loss_of(model, IDS[1])
        before.backward()
    after = loss_of(model, IDS[2])
    after.backward()
    inside.backward()
    live = [(IDS[0], None), (IDS[2], None)]
    assert same(gradients(model), by_hand([*live, (IDS[1], ROUTES[1])]))


def test_the_model_is_as_it_was_when_the_last_graph_is_gone(model):
    """After the block routers are watched while a backward pass can come, and no longer."""
    router = families.routers(model)[1]
    with replay(model, [*ROUTES[0], *ROUTES[1]]):
        inside = loss_of(model, IDS[0])
        loss_of(model, IDS[1])
    assert "forward" in vars(router)
    with replay(model, ROUTES[2]):
        other = loss_of(model, IDS[2])
    (inside + other).backward()
    assert same(gradients(model), by_hand([(IDS[0], ROUTES[0]), (IDS[2], ROUTES[2])]))
    del inside, other
    gc.collect()
    assert "forward" not in vars(router)
    assert not model._forward_hooks
    assert not model._forward_pre_hooks


def test_two_models_at_once(model):
    """Each of two models is given its own routes, in one backward pass."""
    other = families.tiny("qwen3_moe").train()
    checkpointing(other, {"use_reentrant": False})
    with replay(model, [*ROUTES[0], *ROUTES[1]]), replay(other, [*ROUTES[1], *ROUTES[0]]):
        losses = [
            loss_of(one, IDS[i]) for i, one in ((0, model), (1, other), (1, model), (0, other))
        ]
        sum(losses).backward()
    assert same(gradients(model), by_hand([(IDS[0], ROUTES[0]), (IDS[1], ROUTES[1])]))
    assert same(gradients(other), by_hand([(IDS[1], ROUTES[1]), (IDS[0], ROUTES[0])]))


def test_a_forward_that_fails_takes_no_routes(model):
    """After an error in a forward the same sequences are tried again, as record counts them."""
    fails = model.lm_head.register_forward_pre_hook(lambda *_: 1 / 0)
    with replay(model, [*ROUTES[0], *ROUTES[1]]), record(model) as recorder:
        with pytest.raises(ZeroDivisionError):
            loss_of(model, IDS[0])
        fails.remove()
        together(model)
    assert same(gradients(model), by_hand(zip(IDS[:2], ROUTES, strict=False)))
    assert len(recorder.routes()) == 4


def test_missing_rows_stay_live_in_a_recomputation(model):
    """Rows without a route, and sequences without routes, are computed again by the router."""
    missing = np.zeros((TOKENS, 2), bool)
    missing[3:] = True
    held = Routes(ROUTES[0][0].ids_TLK, LAYERS, 16, 0, missing)
    plain = families.tiny("qwen3_moe").train()
    for one in (model, plain):
        with replay(one, [held, None, *ROUTES[1]]):
            backwards(one)
    assert same(gradients(model), gradients(plain))


@pytest.mark.parametrize("inner", [None, False, True])
@pytest.mark.parametrize("outer", [False, True])
def test_a_checkpoint_around_the_whole_model(outer, inner):
    """Where the model itself is called again in the backward pass, it is known by its tokens, and
    record counts it once."""
    model = families.tiny("qwen3_moe").train()
    if inner is not None:
        checkpointing(model, {"use_reentrant": inner})
        model.enable_input_require_grads()
    start = torch.ones((), requires_grad=True)

    def whole(ids):
        return checkpoint(lambda one: one * loss_of(model, ids), start, use_reentrant=outer)

    with replay(model, [*ROUTES[0], *ROUTES[1]]), record(model) as recorder:
        (whole(IDS[0]) + whole(IDS[1])).backward()
    assert same(gradients(model), by_hand(zip(IDS[:2], ROUTES, strict=False)))
    assert len(recorder.routes()) == 4


def test_the_same_tokens_with_other_routes_cannot_be_told_apart():
    """Two whole forwards on the same tokens are refused when one is computed again: which it is,
    is not known; with the same routes it does not matter."""
    model = families.tiny("qwen3_moe").train()

    def whole():
        return checkpoint(lambda: loss_of(model, IDS[0]), use_reentrant=False)

    with (
        pytest.raises(UnsupportedError, match="tokens of several forwards"),
        replay(model, [*ROUTES[0], *ROUTES[1]]),
    ):
        (whole() + whole()).backward()
    model.zero_grad()
    with replay(model, [*ROUTES[0], *ROUTES[0]]):
        (whole() + whole()).backward()
    assert same(gradients(model), by_hand([(IDS[0], ROUTES[0])] * 2))


def test_a_backward_pass_that_would_go_unseen_is_refused():
    """A reentrant checkpoint around the model leaves no graph to tell when it is computed again."""
    model = families.tiny("qwen3_moe").train()
    start = torch.ones((), requires_grad=True)
    with (
        pytest.raises(UnsupportedError, match="call backward inside the block"),
        replay(model, ROUTES[0]),
    ):
        checkpoint(lambda one: one * loss_of(model, IDS[0]), start, use_reentrant=True)


def test_two_replays_of_one_model_are_refused():
    """Only one replay may say what a router selects."""
    model = families.tiny("qwen3_moe")
    with (
        pytest.raises(ValueError, match="two replays"),
        replay(model, ROUTES[0]),
        replay(model, ROUTES[1]),
    ):
        loss_of(model, IDS[0])
