"""Every family: routes and margins of plain and streamed runs against hooks on the plain model."""

import numpy as np
import pytest
import torch

from routectl import UnsupportedError
from routectl.forward.routers import REFUSED, refuse_family
from routectl.routers.from_config import recipe_from_config
from routectl.routers.maths import route
from support import families
from support.forwards import checkpoint_of, forward, hooked, load, samples

pytestmark = pytest.mark.models

LENGTHS = (12, 7)
GROUPED = [
    name
    for name, family in families.FAMILIES.items()
    if (family.settings.get("n_group") or 1) > 1 and family.settings.get("topk_method") != "greedy"
]
SOFTMAX = ("deepseek_v2", "unlimited_ocr", "mistral4", "mistral_large4", "mistral4.soft")


@pytest.fixture(autouse=True)
def one_thread():
    """Sums in one order."""
    torch.set_num_threads(1)


@pytest.mark.parametrize("name", families.FAMILIES)
def test_routes_are_those_of_hooks_on_the_plain_model(name, tmp_path):
    """Ids, order by score, margins and ties: bit for bit, plain and streamed, fp32 and bf16."""
    folder, inputs = checkpoint_of(name, tmp_path), samples(*LENGTHS)
    for dtype in ("float32", "bfloat16"):
        truth = hooked(load(folder, getattr(torch, dtype), name), inputs)
        for streaming in ("plain", "stream"):
            found, prepared = forward(folder, inputs, dtype=dtype, streaming=streaming)
            assert prepared.layers == families.FAMILIES[name].layers
            for got, (ids_TLK, margins_TL, given_L) in zip(found, truth, strict=True):
                assert np.array_equal(got.ids_TLK, ids_TLK)
                assert np.array_equal(got.margins_TL, margins_TL)
                assert (got.group_margins_TL is not None) == (name in GROUPED)
                if name not in GROUPED:
                    assert np.array_equal(got.ties_TL, margins_TL == 0)
                check_given(name, got.ids_TLK, given_L)


@pytest.mark.parametrize("name", GROUPED)
def test_group_margins_are_those_of_the_logits(name, tmp_path):
    """What hooks see of the logits, made into group scores by a sort, gives the same margins bit
    for bit, plain and streamed, fp32 and bf16; so does the recipe of routers.py.
    """
    folder, inputs = checkpoint_of(name, tmp_path), samples(*LENGTHS)
    recipe = recipe_from_config(families.config_of_family(name).to_dict(), name)
    for dtype in ("float32", "bfloat16"):
        truth = group_margins(load(folder, getattr(torch, dtype), name), inputs, name, recipe)
        for streaming in ("plain", "stream"):
            found, _ = forward(folder, inputs, dtype=dtype, streaming=streaming)
            for got, expected_TL in zip(found, truth, strict=True):
                assert np.array_equal(got.group_margins_TL, expected_TL)
                assert np.array_equal(got.ties_TL, (got.margins_TL == 0) | (expected_TL == 0))


@torch.no_grad()
def group_margins(model, inputs, name, recipe):
    """By sample, [T, L]: the last kept minus the best dropped of sorted group scores."""
    seen, found = {}, []
    for layer, router in families.routers(model).items():
        router.register_forward_hook(lambda m, a, out, layer=layer: seen.update({layer: out[0]}))
    for sample in inputs:
        model(input_ids=torch.from_numpy(sample.token_ids.astype(np.int64))[None], use_cache=False)
        margins_L = []
        for layer in sorted(seen):
            logits_TE, bias_E = seen[layer].flatten(0, -2), families.expert_bias(model, layer)
            if name in SOFTMAX:
                scores_TE = logits_TE.softmax(-1, torch.float32)
                scores_TE = scores_TE.to(logits_TE.dtype) if "mistral4" in name else scores_TE
            else:
                scores_TE = logits_TE.float().sigmoid() + bias_E
            ranked_TGS = scores_TE.unflatten(-1, (4, -1)).sort(-1, descending=True).values
            best = 1 if name in ("deepseek_v2", "unlimited_ocr") else 2
            ranked_TG = ranked_TGS[..., :best].sum(-1).sort(-1, descending=True).values.float()
            margins_L.append(ranked_TG[:, 1] - ranked_TG[:, 2])
            ours = route(recipe, logits_TE, expert_bias_E=bias_E)
            assert torch.equal(ours.group_margin_T, margins_L[-1])
        found.append(torch.stack(margins_L, 1).numpy())
    return found


def check_given(name, ids_TLK, given_L):
    """The ids are what the router gives to the experts; Zaya's skipped tokens give 0 instead."""
    for column, given_TK in enumerate(given_L):
        if given_TK is None:  # llama4 gives scores alone
            assert name == "llama4"
            continue
        ids_TK = ids_TLK[:, column].astype(np.int64)
        if name == "zaya":
            ids_TK = np.where(ids_TK == families.EXPERTS, 0, ids_TK)
        assert np.array_equal(np.sort(ids_TK, 1), np.sort(given_TK.numpy(), 1))


@pytest.mark.parametrize("family", sorted(REFUSED))
def test_a_family_that_cannot_be_run_is_refused_in_one_line(family):
    """The refusal names the family, the reason and the other refused families."""
    with pytest.raises(UnsupportedError) as caught:
        refuse_family(f"{family}_text")
    assert str(caught.value).startswith(f"{family}: ")
    assert REFUSED[family] in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_every_unbuilt_family_is_run_or_refused():
    """What families.py cannot build tiny is refused, but for gemma4's diffusion twin."""
    assert set(families.UNBUILT) - set(REFUSED) == {"diffusion_gemma"}
