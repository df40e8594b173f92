"""The tiny models themselves: each builds, runs, and has routers where its family has them."""

import pytest
import torch

from support.families import FAMILIES, expert_bias, routers, tiny, tokens

pytestmark = pytest.mark.models

DTYPES = (torch.float32, torch.bfloat16)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_family_runs(name, dtype):
    """A tiny model of every family runs, and its routers are in the layers that are declared."""
    model = tiny(name, dtype)
    assert tuple(routers(model)) == FAMILIES[name].layers
    with torch.no_grad():
        output = model(input_ids=tokens(), use_cache=False)[0]
    assert output.isfinite().all()
    assert sum(parameter.numel() for parameter in model.parameters()) < 200_000


@pytest.mark.parametrize("name", FAMILIES)
def test_same_seed_same_model(name):
    """A seed gives the same weights again, another seed others; biases are not zero."""
    first, again, other = tiny(name), tiny(name), tiny(name, seed=1)
    for key, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[key])
    for layer, router in routers(first).items():
        weight = next(router.parameters())
        assert not torch.equal(weight, next(routers(other)[layer].parameters()))
        bias = expert_bias(first, layer)
        assert bias is None or bias.abs().min() > 0


def test_bf16_is_what_is_loaded(tmp_path):
    """A bf16 model equals what from_pretrained makes of the saved float32 one, dtypes included."""
    for name in ("deepseek_v3", "ernie4_5_moe", "kimi_linear", "lfm2_moe", "hunyuan_v1_moe"):
        saved = tiny(name)
        saved.save_pretrained(tmp_path / name)
        loaded = type(saved).from_pretrained(tmp_path / name, dtype=torch.bfloat16).state_dict()
        for key, tensor in tiny(name, torch.bfloat16).state_dict().items():
            assert tensor.dtype == loaded[key].dtype, key
            assert torch.equal(tensor, loaded[key]), key
