"""Every family: routes and margins of plain and streamed runs against hooks on the plain model."""

import families
import numpy as np
import pytest
import torch
from forwards import checkpoint_of, forward, hooked, load, samples

from routectl import UnsupportedError
from routectl.forward.discover import REFUSED, refuse_family

LENGTHS = (12, 7)


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
                assert np.array_equal(got.ties_TL, margins_TL == 0)
                check_given(name, got.ids_TLK, given_L)


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
        refuse_family(family)
    assert str(caught.value).startswith(f"{family}: ")
    assert REFUSED[family] in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_every_unbuilt_family_is_run_or_refused():
    """What families.py cannot build tiny is refused, but for gemma4's diffusion twin."""
    assert set(families.UNBUILT) - set(REFUSED) == {"diffusion_gemma"}
