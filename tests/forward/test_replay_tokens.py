"""Routes of samples with token ids are replayed at these tokens, or not at all."""

import numpy as np
import pytest
import torch

from routectl import Routes, Sample
from routectl.errors import MismatchError
from routectl.forward.live import record, replay
from support import families

from .test_nested import LAYERS, batch, sets

pytestmark = pytest.mark.models


def samples():
    """Siblings of one length: two batches' rows, with random routes of all tokens but the last."""
    rng = np.random.default_rng(0)
    experts = rng.permuted(np.tile(np.arange(16, dtype=np.uint8), (4, 6, 2, 1)), axis=3)
    return [
        Sample(
            Routes(np.ascontiguousarray(ids[..., :4]), LAYERS, 16),
            sample_id=f"s{place}",
            prompt_ids=row[:3],
            response_ids=row[3:],
        )
        for place, (ids, row) in enumerate(
            zip(experts, torch.cat([batch(0), batch(1)]).numpy().astype(np.int32), strict=True)
        )
    ]


def padded(given, left, right=0):
    """The samples' tokens between padding of id 0, and the mask of these."""
    rows = torch.tensor(np.array([one.token_ids for one in given]), dtype=torch.int64)
    pad = torch.nn.functional.pad
    return pad(rows, (left, right)), pad(torch.ones_like(rows), (left, right))


def run(model, *args, **kwargs):
    """A forward without gradients."""
    with torch.no_grad():
        return model(*args, use_cache=False, **kwargs).logits


@pytest.mark.parametrize("prove", [False, True])
def test_samples_in_another_order_are_refused(prove):
    """Siblings of one length in another order than the batch's, with the one that stands there; the
    right order, in two forwards of other lengths, passes."""
    model, given = families.tiny("qwen3_moe"), samples()
    ids, _ = padded(given, 0)
    said = (
        r"^routes\[0\] \(sample s1\): position 0 of sequence 0 of this forward is token \d+, of "
        r"the sample \d+: they are those of routes\[3\] \(sample s0\): give the routes in the "
        r"order of the batch$"
    )
    with (
        pytest.raises(MismatchError, match=said),
        replay(model, given[1:] + given[:1], prove=prove),
    ):
        run(model, ids)
    with replay(model, given, prove=prove), record(model) as recorder:
        run(model, ids[:1])
        run(model, ids[1:, :-1])  # the last token need not be fed
    assert np.array_equal(
        sets([Routes(held.ids_TLK[:6], LAYERS, 16) for held in recorder.routes()]),
        sets([one.routes for one in given]),
    )


def test_padding_without_a_mask_is_refused():
    """Left padding without its mask, with where the tokens are; with a mask, given by name or by
    place, and to the right without one, it passes."""
    model, given = families.tiny("qwen3_moe"), samples()
    ids, mask = padded(given, 5)
    said = (
        r"^routes\[0\] \(sample s0\): position 0 of sequence 0 .* is token 0, of the sample \d+: "
        r"the sample's tokens come 5 later: where that is padding, pass the model its "
        r"attention_mask$"
    )
    with pytest.raises(MismatchError, match=said), replay(model, given):
        run(model, ids)
    with replay(model, given * 3, prove=True) as proof:
        run(model, ids, attention_mask=mask)
        run(model, ids, mask)
        run(model, padded(given, 0, 5)[0])
    assert proof.seen_L.tolist() == [72, 72]
    assert proof.other_L.tolist() == [0, 0]


def test_packed_rows_are_held_against_their_tokens():
    """Sequences of a packed row, cut by positions: two that are swapped are refused."""
    model, given = families.tiny("qwen3_moe"), samples()[:2]
    ids, places = padded(given, 0)[0].reshape(1, -1), torch.arange(7).repeat(2)[None]
    with replay(model, given):
        run(model, ids, position_ids=places)
    with (
        pytest.raises(MismatchError, match=r"^routes\[0\] \(sample s1\)"),
        replay(model, given[::-1]),
    ):
        run(model, ids, position_ids=places)


def test_what_is_not_known_or_has_no_route_is_not_compared():
    """Tokens without a route may be others; of a response that is not known, the prompt is held;
    arrays and Routes have no tokens, and are given wherever they come."""
    model, (one, two) = families.tiny("qwen3_moe"), samples()[:2]
    ids, _ = padded([one], 0)
    ids[0, 6] = 0  # the last: no route
    prompt = Sample(one.routes, prompt_ids=one.prompt_ids, response_length=4)
    with replay(model, [one, prompt, two.routes, two.routes.ids_TLK, Sample(two.routes), None]):
        for _ in range(6):
            run(model, ids)
    ids[0, 2] = 1
    for held in (one, prompt):
        said = "position 2 of sequence 0 .* is token 1, of .*: the routes are not in the order of"
        with pytest.raises(MismatchError, match=said), replay(model, [held]):
            run(model, ids)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda ids: Routes(ids, (1, 3), 16), "got layers 1, 3, expected 1, 2"),
        (
            lambda ids: Routes(np.ascontiguousarray(ids[..., :3]), LAYERS, 16),
            "got top-3, expected top-4",
        ),
        (
            lambda ids: Routes(np.concatenate([ids, ids]), LAYERS, 16),
            "got rows up to position 11, expected at most 7 positions, the tokens of its sequence: "
            "one of each sequence, in the order of the batch",
        ),
    ],
)
def test_routes_that_do_not_fit_say_what_differs(change, said):
    """Only what differs, and of which sequence."""
    model, given = families.tiny("qwen3_moe"), samples()[:2]
    bad = Sample(change(given[1].routes.ids_TLK), sample_id="x")
    with (
        pytest.raises(MismatchError) as error,
        replay(model, [given[0], bad]),
    ):
        run(model, padded(given, 0)[0])
    assert str(error.value) == f"routes[1] (sample x) does not fit: {said}"


def test_layers_that_look_alike_are_told_by_those_that_differ():
    """Long lists of layers of one beginning and end."""
    from routectl.forward.live.given import _other_layers

    got, expected = tuple(range(48)), (*range(20), *range(21, 48))
    assert _other_layers(got, expected) == "got 48 layers, expected 47; in one alone: 20"
