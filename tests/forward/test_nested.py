"""Blocks of record and replay in each other: what each sees, and in which order they end."""

from contextlib import ExitStack
from itertools import permutations

import numpy as np
import pytest
import torch

from routectl import Routes
from routectl.forward.live import record, replay
from support import families

pytestmark = pytest.mark.models

LAYERS = (1, 2)
ENDS = list(permutations(["outer", "replay", "inner"]))


def batch(seed):
    """Token ids of two sequences."""
    return torch.randint(3, 100, (2, 7), generator=torch.Generator().manual_seed(seed))


def forward(model, seed):
    """A forward without gradients."""
    with torch.no_grad():
        return model(input_ids=batch(seed), use_cache=False).logits


def random_routes(seed):
    """Random routes of a batch, a sequence each."""
    rng = np.random.default_rng(seed)
    ids = [rng.permutation(16)[:4] for _ in range(2 * 7 * len(LAYERS))]
    return [Routes(part, LAYERS, 16) for part in np.array(ids, np.uint8).reshape(2, 7, 2, 4)]


def sets(routes):
    """The experts of each row, sorted: what replay and record have in common."""
    return np.stack([np.sort(held.ids_TLK) for held in routes])


def untouched(model):
    """Nothing of a block is left on the model."""
    return (
        not model._forward_hooks
        and not model._forward_pre_hooks
        and "generate" not in vars(model)
        and not any("forward" in vars(router) for router in families.routers(model).values())
    )


@pytest.mark.parametrize("ends", ENDS)
def test_blocks_see_what_is_used_and_end_in_any_order(ends):
    """A record around a replay and one in it have the forced ids while it is open and the live ones
    after; whichever block ends first, the others go on."""
    model = families.tiny("qwen3_moe")
    with record(model) as alone:
        for seed in range(4):
            forward(model, seed)
    live, given = alone.routes(), [random_routes(seed) for seed in range(4)]
    forced = ends.index("replay") + 1  # forwards while it is open
    outer, inner = record(model), record(model)
    replaying = replay(model, [held for part in given[:forced] for held in part], prove=True)
    blocks = {"outer": outer, "replay": replaying, "inner": inner}
    entered = {name: block.__enter__() for name, block in blocks.items()}
    for seed, name in enumerate(ends):
        forward(model, seed)
        blocks[name].__exit__(None, None, None)
    forward(model, 3)
    used = [*(h for part in given[:forced] for h in part), *live[2 * forced :]]
    for name in ("outer", "inner"):
        count = 2 * (ends.index(name) + 1)
        assert np.array_equal(sets(entered[name].routes()), sets(used[:count]))
    assert entered["replay"].seen_L.tolist() == [14 * forced] * 2
    assert untouched(model)


@pytest.mark.parametrize("ends", list(permutations(range(3))))
def test_generate_is_told_to_every_record(ends):
    """Records in each other have a generated sequence each, as one sample with a response; whatever
    the order in which they end, the model's own generate is back at the end."""
    model = families.tiny("qwen3_moe")
    blocks = [record(model) for _ in ends]
    recorders = [block.__enter__() for block in blocks]
    options = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0}
    for end in ends:
        model.generate(batch(0)[:1], **options)
        blocks[end].__exit__(None, None, None)
    for number, recorder in enumerate(recorders):
        samples = list(recorder.samples())
        assert [s.response_length for s in samples] == [3] * (ends.index(number) + 1)
    assert untouched(model)


@pytest.mark.parametrize("where", ["outer", "replay", "inner"])
def test_an_error_in_a_block_is_the_one_that_is_raised(where):
    """Whichever block it is raised in, the error goes on, nothing is said of routes left over, and
    the model is as it was; what was recorded until then can be read."""
    model = families.tiny("qwen3_moe")
    with ExitStack() as stack:
        stack.enter_context(pytest.raises(ZeroDivisionError))
        recorders = []
        for name in ("outer", "replay", "inner"):
            if name == "replay":
                stack.enter_context(replay(model, [*random_routes(0), None], prove=True))
            else:
                recorders.append(stack.enter_context(record(model)))
            if name == where:
                if name != "outer":
                    forward(model, 0)
                raise ZeroDivisionError
    assert untouched(model)
    seen = [len(recorder.routes()) for recorder in recorders]
    assert seen == {"outer": [0], "replay": [2], "inner": [2, 2]}[where]


def test_a_forward_that_fails_is_no_forward_to_any_block():
    """An error in a forward, caught in the block, is counted by none of the blocks."""
    model = families.tiny("qwen3_moe")
    fails = model.model.layers[2].register_forward_pre_hook(lambda *_: 1 / 0)
    with (
        record(model) as outer,
        replay(model, random_routes(1), prove=True) as proof,
        record(model) as inner,
    ):
        with pytest.raises(ZeroDivisionError):
            forward(model, 0)
        fails.remove()
        forward(model, 1)
    assert np.array_equal(sets(outer.routes()), sets(random_routes(1)))
    assert np.array_equal(sets(inner.routes()), sets(random_routes(1)))
    assert proof.given_L.tolist() == [14, 14]
